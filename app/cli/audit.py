"""flask audit …: whether the record of what happened is whole, and the record itself."""

import json
import re

import click
from flask.cli import AppGroup

from .. import audit, chain
from ..audit import SYSTEM, Subject
from ..db import db
from .plain import in_words

group = AppGroup("audit", help="The record of who did what.")


class Noted(click.ParamType[tuple[int, str]]):
    """`SEQ:LINK`, as `flask audit verify` prints it."""

    name = "SEQ:LINK"

    def convert(self, value: str, *_more: object) -> tuple[int, str]:
        seq, _, link = value.partition(":")
        if not re.fullmatch("[0-9]{1,18}", seq) or not re.fullmatch("[0-9a-f]{64}", link):
            self.fail("Give what an earlier `flask audit verify` printed, such as 120:3f9a…")
        return int(seq), link


@group.command("verify")
@click.option(
    "--noted", type=Noted(), help="A record that was printed earlier: it must still be the same."
)
def verify(noted: tuple[int, str] | None) -> None:
    """Look for records that were changed, taken away or put in. Exit status 1 if there are any."""
    with in_words():
        verdict = chain.verify(noted=noted)
    if verdict.broken is not None:
        where = f"Record {verdict.broken.seq} " if verdict.broken.seq else ""
        raise click.ClickException(
            f"{where}{verdict.broken.what}. {verdict.count} records before it hold together."
        )
    head = verdict.head or chain.Head()
    if head.since:
        click.echo(f"The chain was begun anew after record {head.since}.")
    click.echo(
        f"{verdict.count} records hold together. Keep this elsewhere: {head.seq}:{head.link}"
    )


@group.command("list")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only later records.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1_000, show_default=True)
def show(after: int, limit: int) -> None:
    """The record, one JSON line each, the oldest first."""
    with in_words():
        for line in chain.lines(after=after, limit=limit):
            click.echo(json.dumps(line))


@group.command("anew")
@click.confirmation_option(prompt="Begin a new chain? What the old one says is no longer proven")
def anew() -> None:
    """Go on after a chain that is broken: a new one begins at the last record."""
    with in_words():
        found = chain.verify().broken
        head = chain.anew(db.session())
        what = f"{found.seq}: {found.what}" if found else ""
        audit.record(SYSTEM, "audit.begun_anew", Subject("audit"), after=head.seq, found=what)
        db.session.commit()
    click.echo(f"A new chain began after record {head.seq}.")
