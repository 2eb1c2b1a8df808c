"""Checks of a gateway, for admins: run one and watch it, look at what was kept.

A check is asked for by a POST, and runs as its page is drawn, so that each step is seen when it is
done. Of several who open that page one runs it; the others see what there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

from flask import (
    Blueprint,
    Response,
    flash,
    get_flashed_messages,
    redirect,
    render_template,
    stream_template,
    url_for,
)
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import generate_csrf
from werkzeug.wrappers import Response as AnyResponse

from ... import access, check_runs, gateways, specs
from ...access import Caller, Usable
from ...check_runs import Kept
from ...db import db
from ...errors import Conflict
from ...models import Gateway
from ...oauth import flow
from ...specs import GatewaySpec
from ...states import LIVING
from ...steps import Step
from ..auth import actor, admin_only, person
from ..commits import committed
from ..forms import confirmed
from ..oauth import stop_over

bp = Blueprint("admin_checks", __name__, url_prefix="/admin/gateways")
MARKS = {  # mark, icon, and the word for who cannot see them
    "ok": ("ok", "tick", "passed"),
    "warn": ("warn", "warn", "passed, with a doubt"),
    "bad": ("bad", "cross", "failed"),
    "skipped": ("off", "draft", "not run"),
    "waiting": ("warn", "draft", "waits for you"),
}


@bp.post("/<slug>/checks")
@admin_only
def create(slug: str) -> ResponseReturnValue:
    run_id = committed(
        lambda: check_runs.begin(gateways.find(slug), by=actor(), user_id=person().user_id)
    )
    return redirect(url_for(".show", slug=slug, run_id=run_id), 303)


@bp.get("/<slug>/checks")
@admin_only
def index(slug: str) -> ResponseReturnValue:
    gateway = gateways.find(slug)
    runs = check_runs.of_gateway(gateway.id)
    return render_template("admin/gateways/checks.html", gateway=gateway, runs=runs)


@bp.get("/<slug>/checks/<run_id>")
@admin_only
def show(slug: str, run_id: str) -> ResponseReturnValue:
    """Runs it if nobody did yet, or goes on where it waited for this person to connect."""
    gateway = gateways.find(slug)
    kept, caller = check_runs.find(run_id, gateway.id), person()
    seen = access.checkable(caller, slug)
    if kept.state == "queued" or _may_go_on(kept, seen, caller):
        return _live(gateway, kept, seen, caller)
    return render_template("admin/gateways/check.html", **_shown(gateway, kept))


@bp.get("/<slug>/checks/<run_id>.txt")
@admin_only
def report(slug: str, run_id: str) -> ResponseReturnValue:
    gateway = gateways.find(slug)
    text = check_runs.report(check_runs.find(run_id, gateway.id), gateway.name, gateway.url)
    return Response(text, mimetype="text/plain")


@bp.post("/<slug>/checks/<run_id>/connect")
@admin_only
def connect(slug: str, run_id: str) -> ResponseReturnValue:
    """To the provider with the admin's own account; the check goes on when they come back."""
    caller, gateway = person(), gateways.find(slug)
    kept = check_runs.find(run_id, gateway.id)
    if kept.state != "waiting" or kept.user_id != caller.user_id:
        raise Conflict
    page = url_for(".show", slug=slug, run_id=run_id)
    if not gateway.is_enabled:
        flash(f"Turn {gateway.name} on first. Nobody signs in to what is off.", "warn")
        return redirect(page, 303)
    seen = flow.prepare(caller, access.usable(caller, slug), by=actor())
    begin = partial(flow.begin, caller, seen, purpose="check", return_to=page, by=actor())
    return stop_over(committed(begin))


@bp.post("/<slug>/checks/<run_id>/published")
@admin_only
@confirmed
def published(slug: str, run_id: str) -> ResponseReturnValue:
    """Take the address that the provider publishes for the one that was typed.

    Where that asks for the secret again, or signs people out, the form does it, not a button.
    """
    gateway = gateways.find(slug)
    facts = _differing(check_runs.find(run_id, gateway.id))
    record = gateways.record(gateway)
    if facts is None or record.get("oauth_config", {}).get(facts["field"]) != facts["typed"]:
        raise Conflict
    patch = {"oauth_config": {str(facts["field"]): facts["published"]}}
    whole = specs.merge(record, patch)
    spec = specs.read(
        GatewaySpec, {name: value for name, value in whole.items() if name not in specs.GIVEN}
    )
    if gateways.problems(gateway, spec) or gateways.signed_out_by(gateway, spec):
        sentence = f"Enter {facts['published']} as the {facts['what']}, and the secret again."
        flash(f"{sentence} It goes to another place, and who is connected has to sign in anew.")
        return redirect(f"{url_for('admin_gateways.edit', slug=slug)}#{facts['field']}", 303)
    seen = gateway.updated_at
    committed(lambda: gateways.update(gateways.find(slug, seen=seen), spec, by=actor()))
    flash(f"The {facts['what']} is now {facts['published']}.", "success")
    return redirect(url_for("admin_gateways.show", slug=slug), 303)


def _differing(kept: Kept) -> Mapping[str, str | int] | None:
    """What was typed and is published otherwise, if it may be taken: never another issuer."""
    found = (step for step in kept.steps if step.code == "endpoint_differs")
    return next((step.facts for step in found if step.state == "warn"), None)


def _may_go_on(kept: Kept, seen: Usable, caller: Caller) -> bool:
    if kept.state != "waiting" or kept.user_id != caller.user_id or seen.config is None:
        return False
    mine = access.seen(seen.config.id, seen.owner_key)
    return mine is not None and mine.state in LIVING and seen.config.spec.stores


def _live(gateway: Gateway, kept: Kept, seen: Usable, caller: Caller) -> AnyResponse:
    """Raises Busy. What is held is let go where the answer is closed, however that comes about."""
    held = ExitStack()
    held.enter_context(check_runs.turn())
    if not check_runs.take(kept.id, kept.state):
        held.close()
        return redirect(url_for(".show", slug=gateway.slug, run_id=kept.id), 303)
    generate_csrf()  # into the cookie, before the first byte is out
    get_flashed_messages()  # out of it: this page shows them, and no other
    shown, by = _shown(gateway, kept) | {"is_live": True}, actor()
    before = [step for step in kept.steps if step.state != "waiting"]
    later = check_runs.steps(kept.id, seen, caller, by=by)
    db.session.expunge_all()  # each step ends the transaction that these rows were read in
    reply = Response(
        stream_template(
            "admin/gateways/check.html",
            **shown | {"steps": _with(before, later, held)},
            verdict_of=lambda: check_runs.find(kept.id),
        ),
        mimetype="text/html",
    )
    reply.headers["X-Accel-Buffering"] = "no"
    reply.call_on_close(held.close)
    return reply


def _with(before: list[Step], later: Iterator[Step], held: ExitStack) -> Iterator[Step]:
    """What is held is not needed after the last of them."""
    with held:
        yield from before
        yield from later


def _shown(gateway: Gateway, kept: Kept) -> dict[str, object]:
    """For the page."""
    good = check_runs.last_good(kept)
    return {
        "gateway": gateway,
        "run": kept,
        "steps": kept.steps,
        "is_live": False,
        "good": good,
        "differences": check_runs.differences(kept, good) if good else [],
        "marks": MARKS,
        "is_mine": kept.user_id == person().user_id,
    }
