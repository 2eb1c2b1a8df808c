"""/connections: a person's own sign-ins."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from ... import access, strict_json, tool_standing
from ...access import Caller, Usable
from ...db import db
from ...errors import (
    AppError,
    Conflict,
    ConnectionNeeded,
    ConsentFailed,
    NotFound,
    UpstreamError,
    code_of,
    for_person,
)
from ...oauth import flow, keeping, parked, stepping, timeline
from ...states import badge
from ..auth import actor, person
from ..commits import committed
from ..partings import ask_to_revoke
from .offered import TITLE_LIMIT, plain
from .standing import Shown, shown
from .waited import parked_call

Badge = tuple[str, str]
bp = Blueprint("connections", __name__, url_prefix="/connections")


@bp.get("")
def index() -> ResponseReturnValue:
    rows = [shown(one) for one in access.standings(person())]
    rows.sort(key=lambda one: one.words.rank)
    every = tool_standing.every(person())
    parts = {slug: [(part, _badge(part)) for part in found] for slug, found in every.items()}
    return render_template("connections.html", rows=rows, parts=parts)


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
    failure = flow.failure(caller, failed) if failed else None
    return render_template(
        "connection.html",
        one=one,
        ask=ask if asked else "",
        asked=asked,
        parts=_parts(caller, slug),
        ask_over=bool(ask) and asked is None,
        failure=failure and for_person(failure, is_admin=caller.is_admin),
        problem=_problem(one),
        waited=parked_call(caller, one, call) if call else None,
        moments=timeline.of(one.held.id, host=one.host) if one.held and one.is_personal else [],
    )


@bp.post("/<slug>/disconnect")
def disconnect(slug: str) -> ResponseReturnValue:
    """Here first, always; then the provider is asked, and its answer told (RFC 7009)."""
    caller = person()
    one = _own(caller, slug)
    config_id = request.form.get("config") or None
    ended = committed(lambda: keeping.forget(caller, slug, by=actor(), config_id=config_id))
    parting = ask_to_revoke(ended, name=one.name, host=one.host)
    flash(parting.message, parting.kind)
    return redirect(url_for(".show", slug=slug), 303)


@bp.post("/<slug>/refresh")
def refresh(slug: str) -> ResponseReturnValue:
    """A new token now, though the old one may be good for longer."""
    caller = person()
    one = _own(caller, slug)
    gateway = access.usable(caller, slug)
    db.session.rollback()  # only reads so far; nothing waits for somebody else's server
    try:
        is_new = keeping.renew_now(gateway)
    except AppError as error:
        if not isinstance(error, Conflict | ConnectionNeeded | UpstreamError):
            raise
        flash(f"{one.name} was not renewed. {error.message}.", "error")
    else:
        said = "was renewed" if is_new else "was renewed a moment ago, and is not asked for again"
        flash(f"{one.name} {said}.", "success" if is_new else "info")
    return redirect(url_for(".show", slug=slug), 303)


def _parts(caller: Caller, slug: str) -> list[tuple[tool_standing.Part, Badge]]:
    """Each with its badge."""
    return [(part, _badge(part)) for part in tool_standing.parts(caller, slug)]


def _badge(part: tool_standing.Part) -> Badge:
    if not part.is_personal:
        return "off", "Shared account"
    if not part.keeps:
        return "draft", "Asks on each call"
    return badge(part.state) if part.state is not None else ("draft", "Not connected")


def _own(caller: Caller, slug: str) -> Shown:
    """Raises NotFound, also where nobody has a sign-in of their own."""
    one = shown(access.standing(caller, slug))
    if not one.is_personal:
        raise NotFound
    return one


@dataclass(frozen=True, slots=True)
class Asked:
    """What an AI client waits for; `tool` only where the call itself was kept."""

    tool: str
    scopes: tuple[str, ...]  # all that will be asked for; () for what the gateway always asks for
    extra: tuple[str, ...] = ()  # of them, what was never asked for before


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
    name = plain(str(params.get("name") or found.target), TITLE_LIMIT)
    return Asked(name, found.scopes, _extra(gateway.for_config(found.config_id), found.scopes))


def _extra(gateway: Usable, scopes: tuple[str, ...]) -> tuple[str, ...]:
    before = stepping.asked_before(gateway)
    return tuple(scope for scope in scopes if scope not in before)


def _problem(one: Shown) -> AppError | None:
    """Why it does not work now, or why it has ended."""
    if one.held is None or one.held.state not in ("failing", "needs_reauth"):
        return None
    is_over = one.held.state == "needs_reauth"
    code = code_of(one.held.reason if is_over else one.held.last_error_code)
    if code is None:
        return None
    return for_person(AppError(code, host=one.host), is_admin=person().is_admin)
