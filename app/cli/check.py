"""flask check …: a gateway tried step by step, from a terminal or a script."""

import json

import click
from flask.cli import with_appcontext

from .. import access, check_runs, gateways, people
from ..access import Caller
from ..audit import Actor
from ..db import db
from ..errors import NotFound
from ..steps import Step
from .plain import in_words

BY = Actor("system", label="command line")
MARKS = {"ok": "ok", "warn": "warn", "bad": "FAILED", "skipped": "-", "waiting": "waits"}


@click.command("check")
@click.argument("slug")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end, nothing else.")
@click.option("--as", "email", help="Go on with the connection of this person.")
@with_appcontext
def check(slug: str, as_json: bool, email: str | None) -> None:
    """Try a gateway step by step. Exit status 0: it works; 1: it does not; 2: there is none."""
    try:
        gateway = gateways.find(slug)
    except NotFound as error:
        raise click.UsageError(f"{error.message}.") from error
    with in_words():
        caller = _caller(email)
        seen = access.checkable(caller, slug)
        with check_runs.turn():
            run_id = check_runs.begin(gateway, by=BY, user_id=caller.user_id or None)
            db.session.commit()
            check_runs.take(run_id)
            for step in check_runs.steps(run_id, seen, caller, by=BY):
                if not as_json:
                    _say(step)
        kept = check_runs.find(run_id)
    click.echo(json.dumps(kept.as_json(), indent=2) if as_json else kept.verdict)
    raise SystemExit(1 if kept.outcome == "bad" else 0)


def _caller(email: str | None) -> Caller:
    """An admin, as whoever has this command is one, with the sign-ins of one person.

    Raises NotFound.
    """
    if email is None:
        return Caller("", "command line", is_admin=True)
    user = people.named(email)
    return Caller(user.id, user.email, is_admin=True)


def _say(step: Step) -> None:
    if step.state == "skipped" and not step.says:
        return
    click.echo(f"{MARKS[step.state]:<7} {step.number} {step.name}: {step.says}")
    for line in [*check_runs.told(step)][1:] if step.says else check_runs.told(step):
        click.echo(f"          {line}")
