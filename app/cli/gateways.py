"""flask gateways …: the records of the JSON API, from files."""

import json
from typing import BinaryIO

import click
from flask.cli import AppGroup

from .. import gateways as registry
from .. import specs, strict_json
from ..audit import Actor
from ..db import db
from ..specs import GatewaySpec
from .plain import in_words

gateways = AppGroup("gateways", help="MCP servers registered here.")
slug = click.argument("slug")
BY = Actor("system", label="command line")


@gateways.command("add")
@click.argument("file", type=click.File("rb"))
def add(file: BinaryIO) -> None:
    """Add the gateway that FILE describes: one JSON record, as the API takes it. "-" is stdin."""
    try:
        data = strict_json.loads(file.read())
    except strict_json.BadJSON as error:
        raise click.ClickException(str(error)) from error
    if not isinstance(data, dict):
        raise click.ClickException("The file must hold one JSON object.")
    notices: list[str] = []
    with in_words():
        gateway = registry.create(specs.read(GatewaySpec, data, notices=notices), by=BY)
        db.session.commit()
    for notice in (*notices, *registry.warnings(gateway)):
        click.echo(notice, err=True)
    click.echo(f"{gateway.name} was added. AI clients call {registry.mcp_url(gateway.slug)}")


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
        record = registry.record(registry.find(slug))
    click.echo(json.dumps(record, indent=2, ensure_ascii=False))


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
