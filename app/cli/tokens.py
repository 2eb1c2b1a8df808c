"""flask tokens …: API tokens for scripts, without a browser."""

from datetime import timedelta

import click
from flask.cli import AppGroup

from .. import api_tokens, gateways, people
from ..audit import SYSTEM
from ..db import db, utcnow
from .plain import in_words

tokens = AppGroup("tokens", help="API tokens of people.")


@tokens.command("create")
@click.argument("email")
@click.option("--name", required=True, help="Where it will live.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice([*api_tokens.SCOPES]), default=["mcp"]
)
@click.option("--gateway", "slugs", multiple=True, help="Only this one; may be repeated.")
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True)
@click.option("--never", is_flag=True, help="It does not end by itself.")
def create(  # noqa: PLR0913  # one for each option
    email: str,
    *,
    name: str,
    scopes: tuple[str, ...],
    slugs: tuple[str, ...],
    days: int,
    never: bool,
) -> None:
    """Make an API token for a person; only the token is printed, and only now."""
    with in_words():
        _, shown = api_tokens.issue(
            people.named(email).id,
            name=name,
            scopes=scopes,
            gateway_ids=[gateways.find(slug).id for slug in slugs] or None,
            expires_at=None if never else utcnow() + timedelta(days=days),
            by=SYSTEM,
        )
        db.session.commit()
    click.echo(shown)


@tokens.command("list")
@click.argument("email")
def show(email: str) -> None:
    """One line per token: id, hint, name, scopes, end, last use."""
    with in_words():
        user = people.named(email)
    for token in api_tokens.of(user.id):
        ends = f"{token.expires_at:%Y-%m-%d}" if token.expires_at else "never"
        used = f"{token.used_at:%Y-%m-%d %H:%M}Z" if token.used_at else "never"
        click.echo(
            f"{token.id}\t{token.hint}\t{token.name}\t{','.join(token.scopes)}\t{ends}\t{used}"
        )


@tokens.command("revoke")
@click.argument("token_id")
def revoke(token_id: str) -> None:
    """End a token; every worker refuses it within a second."""
    with in_words():
        token = api_tokens.revoke(token_id, by=SYSTEM)
        db.session.commit()
    click.echo(f"{token.name} was revoked.")
