"""flask gateways …: the records of the JSON API, from files."""

import json
from typing import Any, BinaryIO

import click
from flask.cli import AppGroup

from .. import gateways as registry
from .. import proposals, strict_json, tool_configs
from ..audit import Actor
from ..db import db
from ..errors import NotFound
from ..oauth import registering
from .plain import in_words

gateways = AppGroup("gateways", help="MCP servers registered here.")
slug = click.argument("slug")
BY = Actor("system", label="command line")


@gateways.command("add")
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--url", help="Of an MCP server: how people sign in is found out.")
@click.option("--name", help="What people read. Without it, made from the URL.")
@click.option("--keep/--no-keep", default=True, help="With --url: keep people connected.")
def add(file: BinaryIO | None, url: str | None, name: str | None, keep: bool) -> None:
    """Add the gateway that FILE describes: one JSON record, as the API takes it. "-" is stdin.

    Or add the MCP server at --url, and be told what was found out.
    """
    if (file is None) == (url is None):
        raise click.UsageError("Name a FILE, or give --url.")
    data = _record(file) if file is not None else {"url": url}
    if name is not None:
        data["name"] = name
    notices: list[str] = []
    further = data.pop(tool_configs.FIELD, None)
    with in_words():
        spec, found = proposals.read(data, notices=notices)
        if url is not None and keep:
            spec = proposals.keeping(spec)
        gateway = registry.create(spec, by=BY, found=found)
        tool_configs.replace(gateway, further, by=BY)
        db.session.commit()
    for notice in (*notices, *registry.warnings(gateway)):
        click.echo(notice, err=True)
    click.echo(f"{gateway.name} was added. AI clients call {registry.mcp_url(gateway.slug)}")


def _record(file: BinaryIO) -> dict[str, Any]:
    try:
        data = strict_json.loads(file.read())
    except strict_json.BadJSON as error:
        raise click.ClickException(str(error)) from error
    if not isinstance(data, dict):
        raise click.ClickException("The file must hold one JSON object.")
    return data


@gateways.command("list")
def show_all() -> None:
    """One line per gateway: slug, state, authentication type, URL."""
    for gateway in registry.everything():
        state = "on" if gateway.is_enabled else "off"
        click.echo(f"{gateway.slug}\t{state}\t{gateway.auth_type}\t{gateway.url}")


@gateways.command("show")
@slug
def show(slug: str) -> None:
    """The record, as the API shows it: of a secret only that it is set."""
    with in_words():
        record = tool_configs.whole(registry.find(slug))
    click.echo(json.dumps(record, indent=2, ensure_ascii=False))


@gateways.command("register")
@slug
def register(slug: str) -> None:
    """Make a new client at the provider. Connections of the old one keep it."""
    with in_words():
        config = registry.find(slug).oauth_config
        if config is None:
            raise NotFound
        config_id = config.id
        db.session.rollback()
        registering.again(config_id, by=BY)
        db.session.commit()
    click.echo(f"{slug} has a new client.")


@gateways.command("delete")
@slug
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(slug: str, yes: bool) -> None:
    """Remove a gateway, with its connections, tokens and secrets."""
    with in_words():
        gateway = registry.find(slug)
        if not yes:
            click.confirm(f"Delete {gateway.name}, with all its connections?", abort=True)
        registry.delete(gateway, by=BY)
        db.session.commit()
    click.echo(f"{slug} was deleted.")
