"""/tools: what a person can call, grouped by gateway."""

from __future__ import annotations

import time
from dataclasses import dataclass

from flask import Blueprint, flash, render_template, request
from flask.typing import ResponseReturnValue

from ... import access
from ...access import Caller, Usable
from ...errors import AppError, ConnectionNeeded, NotFound, UpstreamTimeout
from ...mcp import catalog, relay
from ...mcp.catalog import Tool
from ..auth import person
from .offered import Offered, address, offered
from .standing import Shown, shown
from .waited import parked_call

bp = Blueprint("tools", __name__, url_prefix="/tools")

ONE_S = 5.0  # to list the tools of a gateway that was chosen
ALL_S = 3.0  # to list those of all gateways that were never listed, together


@dataclass(frozen=True, slots=True)
class Problem:
    """Why tools are missing, or may be old. `offer` is what the button does."""

    kind: str
    title: str
    line: str
    offer: str  # connect, list, again


@dataclass(frozen=True, slots=True)
class Group:
    slug: str
    name: str
    tools: list[Offered]
    hidden: int  # by the search
    problem: Problem | None


@bp.get("")
def index() -> ResponseReturnValue:
    """From the catalog, so that it is quick; a gateway that is chosen is asked anew."""
    caller, words = person(), request.args.get("q", "").strip()[:200]
    chosen = request.args.get("gateway", "")
    everyone = [shown(one) for one in access.standings(caller)]
    if chosen and chosen not in (one.slug for one in everyone):
        raise NotFound("gateway_not_found", gateway=chosen)
    _say_what_became_of_it(caller, everyone)
    end = time.monotonic() + (ONE_S if chosen else ALL_S)
    groups = [
        _group(caller, one, words, end=end, anew=bool(chosen))
        for one in everyone
        if chosen in ("", one.slug)
    ]
    names = [(one.slug, one.name) for one in everyone]
    return render_template(
        "tools.html", groups=groups, chosen=chosen, q=words, names=names, address=address
    )


def _say_what_became_of_it(caller: Caller, everyone: list[Shown]) -> None:
    """Of a list that waited for a sign-in, on the way back from it."""
    call_id, chosen = request.args.get("call", ""), request.args.get("gateway", "")
    for one in everyone if call_id else ():
        if one.slug == chosen:
            waited = parked_call(caller, one, call_id)
            if waited.error:
                flash(f"{waited.error.message}. {waited.error.action}", "error")
            elif waited.result:
                flash(f"{one.name} listed its tools, and the token is gone.", "success")
            elif waited.said:
                flash(f"{waited.said.title}. {waited.said.line}", "warn")


def _group(caller: Caller, one: Shown, words: str, *, end: float, anew: bool) -> Group:
    """What goes wrong with one gateway is said in its group, and stops no other."""
    gateway, problem = access.usable(caller, one.slug), None
    tools = catalog.known(gateway.id, gateway.owner_key)
    if anew or not tools:
        try:
            tools = _listed(caller, one, gateway, timeout_s=end - time.monotonic())
        except ConnectionNeeded:
            problem = _sign_in(one, has_tools=bool(tools))
        except AppError as error:
            problem = Problem("bad", error.message, f"{error.cause} {error.action}", "again")
    found = [offered(tool) for tool in tools]
    matching = [tool for tool in found if tool.matches(words)]
    return Group(one.slug, one.name, matching, len(found) - len(matching), problem)


def _listed(caller: Caller, one: Shown, gateway: Usable, *, timeout_s: float) -> list[Tool]:
    if one.signs_in_first:
        raise ConnectionNeeded(gateway=one.slug, name=one.name, state="pending")
    if timeout_s <= 0:
        raise UpstreamTimeout
    return relay.list_tools(caller, gateway, timeout_s=timeout_s)


def _sign_in(one: Shown, *, has_tools: bool) -> Problem:
    then = "This is what it offered last time." if has_tools else ""
    if one.is_personal and not one.keeps:
        line = then or "Sign in once to see what it offers."
        return Problem("info", f"{one.name} keeps no tokens", line, "list")
    line = f"{one.words.line} {then}".strip()
    return Problem("warn", f"{one.name} needs your sign-in", line, "connect")
