"""flask secrets …: which keys seal what is stored, and moving it to a new one (docs/keys.md)."""

import click
from flask.cli import AppGroup

from .. import keys, resealing, schema
from ..audit import Actor
from ..db import AWAY
from .plain import in_words

secrets = AppGroup("secrets", help="What is stored sealed, and with which key.")
BY = Actor("system", label="command line")
UNREADABLE = 3  # exit status: no old key is in use, but something does not open


@secrets.command("status")
def status() -> None:
    """Open every stored secret, and count them by key.

    Exit status 0: no old key is in use. 1: one still is. 3: none is, but a value does not open.
    """
    with in_words():
        found = resealing.status()
    for (table, column, key), count in sorted(found.counts.items()):
        role = "active" if key == found.active else "old"
        click.echo(f"{table}.{column}\t{key}\t{role}\t{count}")
    _tell(found)
    raise SystemExit(1 if found.old else UNREADABLE if found.unreadable else 0)


@secrets.command("reseal")
def reseal() -> None:
    """Bring every stored secret under AUTH_ENCRYPTION_SECRET, while the gateway runs.

    It may be stopped at any moment and run again. Exit status as of `flask secrets status`; 1 also
    if a running process still seals with an old key.
    """
    shown = -1

    def progress(table: str, moved: int) -> None:
        nonlocal shown
        if moved != shown:
            click.echo(f"{moved} moved, now in {table}", err=True)
        shown = moved

    with in_words():
        try:
            done = resealing.reseal(by=BY, progress=progress)
        except AWAY as error:
            why = f"Stopped: {schema.complaint(error)}. What was moved stays: run this again."
            raise click.ClickException(why) from error
    click.echo(f"{done.moved} moved to key {done.status.active}.")
    if done.retired:
        click.echo(f"No longer needed: {', '.join(done.retired)}.")
    if done.waits_for:
        click.echo(
            f"Still sealing with an old key: {done.waits_for}. Start it again with the new "
            "secret, then run this again. One that has ended on another host is listed for "
            f"{keys.LATE_MS // 1000} seconds more: wait, and run this again.",
            err=True,
        )
    if done.spooled:
        click.echo(
            f"{done.spooled} renewed tokens wait for the database in the spool of this node, under "
            "an old key, or not to be read by this user. Run this again, as the server's user, "
            "when they are in.",
            err=True,
        )
    _tell(done.status)
    is_open = done.status.old or done.waits_for or done.spooled
    raise SystemExit(1 if is_open else UNREADABLE if done.status.unreadable else 0)


def _tell(found: resealing.Status) -> None:
    for one in found.unreadable:
        click.echo(f"{one.table} {one.row}: {one.column} {one.why}.", err=True)
    if found.unreadable:
        click.echo(
            "A person connects again, and an admin enters a secret again, to replace these.",
            err=True,
        )
    if found.old:
        click.echo(f"{found.old} under an old key. Run: flask secrets reseal")
    else:
        click.echo("Nothing is under an old key.")
