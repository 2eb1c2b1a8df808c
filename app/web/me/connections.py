"""/connections: a person's own sign-ins."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from ... import access, strict_json
from ...access import Caller
from ...db import db
from ...errors import AppError, ConsentFailed, NotFound, texts
from ...oauth import flow, keeping, parked
from ..auth import actor, person
from .offered import TITLE_LIMIT, plain
from .standing import Shown, shown
from .waited import parked_call

bp = Blueprint("connections", __name__, url_prefix="/connections")


@bp.get("")
def index() -> ResponseReturnValue:
    rows = [shown(one) for one in access.standings(person())]
    rows.sort(key=lambda one: one.words.rank)
    return render_template("connections.html", rows=rows)


@bp.get("/<slug>")
def show(slug: str) -> ResponseReturnValue:
    """Also where an AI client's link leads (mcp.md C10), and a sign-in that failed.

    Writes nothing and sets no cookie: only the POST of its button starts a sign-in (SEC-003).
    """
    caller = person()
    one = shown(access.standing(caller, slug))
    ask = request.args.get("ask", "")
    asked = _asked(caller, slug, ask) if ask else None
    failed, call = request.args.get("failed", ""), request.args.get("call", "")
    return render_template(
        "connection.html",
        one=one,
        ask=ask if asked else "",
        asked=asked,
        ask_over=bool(ask) and asked is None,
        failure=flow.failure(caller, failed) if failed else None,
        problem=_problem(one),
        waited=parked_call(caller, one, call) if call else None,
    )


@bp.post("/<slug>/disconnect")
def disconnect(slug: str) -> ResponseReturnValue:
    """Deletes what is stored here. What the provider lists, the person removes there."""
    caller = person()
    one = shown(access.standing(caller, slug))
    if not one.is_personal:
        raise NotFound
    keeping.forget(caller, slug, by=actor())
    db.session.commit()
    flash(
        f"{one.name} is disconnected, and its tokens are deleted here. {one.host} may still list "
        "this app: you can remove it there.",
        "success",
    )
    return redirect(url_for(".show", slug=slug), 303)


@dataclass(frozen=True, slots=True)
class Asked:
    """What an AI client waits for; `tool` only where the call itself was kept."""

    tool: str
    scopes: tuple[str, ...]  # wanted beside those of the gateway


def _asked(caller: Caller, slug: str, handle: str) -> Asked | None:
    """None for a link that is over. Raises ConsentFailed (ask_foreign)."""
    try:
        gateway = access.usable(caller, slug)
        found = parked.asked(caller, gateway, handle)
    except ConsentFailed as error:
        if error.code != "ask_over":
            raise
        return None
    call = parked.outcome(caller, gateway, found.id).request
    params = (strict_json.loads(call).get("params") if call else None) or {}
    return Asked(plain(str(params.get("name") or ""), TITLE_LIMIT), found.scopes)


def _problem(one: Shown) -> AppError | None:
    code = one.held.last_error_code if one.held and one.held.state == "failing" else None
    return AppError(code, host=one.host) if code in texts() else None
