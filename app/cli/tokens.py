"""flask tokens …: API tokens for scripts, without a browser."""

from datetime import timedelta

import click
from flask.cli import AppGroup

from .. import api_tokens, gateways, people, recovery
from ..audit import SYSTEM, Actor
from ..db import db, utcnow
from .plain import in_words

tokens = AppGroup("tokens", help="API tokens of people, and their connections.")
BY = Actor("system", label="command line")


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
@click.argument("token_id", required=False)
@click.option("--all", "everything", is_flag=True, help="After a leak: see docs/keys.md.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke(token_id: str | None, *, everything: bool, yes: bool) -> None:
    """End one token; every worker refuses it within a second.

    With --all: every API token, and every connection of every person. Their tokens are queued to be
    ended at the providers, which the running gateway does. People connect again afterwards.
    """
    if everything == (token_id is not None):
        raise click.UsageError("Give the id of a token, or --all.")
    if token_id is not None:
        with in_words():
            token = api_tokens.revoke(token_id, by=SYSTEM)
            db.session.commit()
        click.echo(f"{token.name} was revoked.")
        return
    if not yes:
        click.confirm("Revoke all API tokens, and disconnect everybody?", abort=True)
    with in_words():
        ended = recovery.revoke_all(by=BY, progress=_tell)
    click.echo(
        f"API tokens revoked: {ended.api_tokens}. Connections ended: {ended.connections}. "
        f"Tokens queued to be ended at their providers: {ended.queued}."
    )


@tokens.command("restored")
@click.option("--yes", is_flag=True, help="Do not ask.")
def restored(yes: bool) -> None:
    """After a backup was put back, before the gateway starts: end what it brought back to life.

    Browser sessions, API tokens, sign-ins under way and parked calls of that time are void.
    Connections stay; one that was renewed since asks for a new sign-in when its provider refuses.
    """
    if not yes:
        click.confirm("Sign everybody out, and revoke all API tokens?", abort=True)
    with in_words():
        found = recovery.restored(by=BY)
        db.session.commit()
    click.echo(
        f"Void: {found.sessions} browser sessions, {found.api_tokens} API tokens, {found.flows} "
        f"sign-ins under way, {found.parked_calls} parked calls. Kept for as long as their "
        f"providers take them: {found.connections} connections."
    )


def _tell(connections: int) -> None:
    click.echo(f"connections ended: {connections}", err=True)
