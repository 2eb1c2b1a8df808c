"""flask housekeeping …: the recurring work that servers do by themselves, by hand."""

from __future__ import annotations

import signal
from datetime import UTC, datetime

import click
from flask import current_app
from flask.cli import AppGroup

from .. import housekeeping as work
from ..errors import Busy
from ..schedule import Standing

housekeeping = AppGroup("housekeeping", help="Clean-up, keep-alive and other recurring work.")


@housekeeping.command("run")
@click.argument("names", metavar="[NAME]…", nargs=-1, type=click.Choice([*work.CHORES]))
@click.option("--once", is_flag=True, help="Each once and now, due or not; then end.")
def run(names: tuple[str, ...], *, once: bool) -> None:
    """Do recurring work: all of it, or what is named.

    Without --once it goes on as servers do, until Ctrl-C. What another process is doing is left
    to it.
    """
    chores = {name: one for name, one in work.CHORES.items() if not names or name in names}
    keeper = work.Housekeeper(current_app.app_context, chores=chores)
    if not once:
        signal.signal(signal.SIGTERM, lambda *_: keeper.ask_to_stop())
        signal.signal(signal.SIGINT, lambda *_: keeper.ask_to_stop())
        click.echo(f"Doing {', '.join(chores)}, as they are due. Ctrl-C ends it.")
        keeper.keep_at_it()
        return
    failed = False
    for name in chores:
        try:
            report = keeper.run(name, early=True)
        except Busy as error:
            raise click.ClickException(f"{error.message}. The log says why.") from error
        failed = failed or (report is not None and report.failed)
        click.echo(f"{name}\t{'another process is at it' if report is None else report.outcome}")
    if failed:
        raise click.ClickException("Not all of it was done. The log says why.")


@housekeeping.command("status")
def status() -> None:
    """One line per chore: name, when it ran last, where, what came of it, when it is due."""
    for one in work.standings():
        click.echo("\t".join([one.name, *_told(one)]))


def _told(one: Standing) -> tuple[str, ...]:
    ran = "never" if one.ran_ms is None else _moment(one.ran_ms)
    due = "runs now" if one.is_running else "due" if one.is_due else f"due {_moment(one.due_ms)}"
    return ran, one.where, one.outcome or "-", due


def _moment(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
