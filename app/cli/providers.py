"""flask providers …: the templates, and records made from them. Needs no database."""

from __future__ import annotations

import json
from typing import Any

import click
from flask.cli import AppGroup

from ..oauth import templates
from ..oauth.registration import callback_uri
from ..oauth.template_file import filled
from ..oauth.templates import Template
from ..specs import slug_of
from .plain import in_words

providers = AppGroup("providers", help="Sign-in providers that this gateway knows.")
SERVER = "https://YOUR_SERVER/mcp"
ID, SECRET = "YOUR_CLIENT_ID", "YOUR_CLIENT_SECRET"  # noqa: S105  # what to replace


@providers.command("list")
def show_all() -> None:
    """One line per template: id, name, how a client is got, what it asks for."""
    for one in templates.every().values():
        asked = ", ".join(one.vars) or "-"
        click.echo(f"{one.id}\t{one.name}\t{', '.join(one.register)}\t{asked}")


@providers.command("show")
@click.argument("template_id", metavar="ID")
@click.option("--var", "given", multiple=True, metavar="NAME=VALUE", help="What it asks for.")
@click.option("--name", help="Of the gateway. Without it: the template's.")
@click.option("--url", help="Of the MCP server, where it is not the provider's own.")
@click.option("--api", is_flag=True, help="A server of your own that calls the provider's API.")
@click.option("--grant", help="authorization_code or client_credentials, where it has both.")
def show(  # noqa: PLR0913, PLR0917  # one option each
    template_id: str,
    given: tuple[str, ...],
    name: str | None,
    url: str | None,
    api: bool,
    grant: str | None,
) -> None:
    """The record of a gateway, for `flask gateways add`. The steps go to the error output."""
    if template_id not in templates.every():
        raise click.ClickException(f"There is no template {template_id}. See: flask providers list")
    template = templates.find(template_id)
    if api and template.api is None:
        raise click.ClickException(f"{template.name} has one set-up only. Leave out --api.")
    with in_words():
        patch = templates.fill(template_id, _pairs(given), api=api, grant=grant)
    record = _record(template, patch, name=name or template.name, url=url, api=api)
    click.echo(json.dumps(record, indent=2, ensure_ascii=False))
    redirect = record["oauth_config"].get("redirect_uri", callback_uri())
    for number, step in enumerate(template.steps, 1):
        click.echo(f"{number}. {filled(step, {'redirect': redirect})}", err=True)
    if template.checked is None:
        click.echo("Not compared with the provider's own pages yet.", err=True)


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if not all(sign for _, sign, _ in pairs):
        raise click.ClickException("Write each as NAME=VALUE, such as --var tenant=acme.")
    return {name: value for name, _, value in pairs}


def _record(
    template: Template, patch: dict[str, Any], *, name: str, url: str | None, api: bool
) -> dict[str, Any]:
    """With places to fill in where a client has to be made by hand."""
    chosen, slug = patch["oauth_config"], slug_of(name)
    is_code = chosen["grant_type"] == "authorization_code"
    if api or not template.registers:
        chosen |= {"client_id": ID, "client_secret": SECRET}
    if is_code:
        chosen["token_management"] = {"store_tokens": True, "auto_refresh": True}
    if is_code and template.redirect == "own":
        chosen["redirect_uri"] = callback_uri(slug)
    return {
        "name": name,
        "slug": slug,
        "url": url or patch.get("url", SERVER),
        "auth_type": patch["auth_type"],
        "oauth_config": chosen,
    }
