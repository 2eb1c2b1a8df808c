"""What a person reads when they come back from a consent (ui.md 7h, oauth.md 3.7)."""

from __future__ import annotations

from flask import flash, url_for
from markupsafe import Markup

from ... import access, tool_standing
from ...access import Caller
from ...db import utcnow
from ...errors import AppError
from ...mcp import relay
from ...oauth.flow import Finished
from ..words import many, moment, span
from .standing import Shown, shown

TOOLS_S = 3.0  # a person looks at an empty page meanwhile


def say(caller: Caller, finished: Finished) -> None:
    """For the next page. Asks the server for its tools; that it failed is no news here."""
    name, account = finished.gateway_name, finished.account_label
    if finished.tokens is not None:
        flash(f"You signed in to {name}. It keeps no tokens, so each call asks again.", "success")
        return
    further = _further(caller, finished)
    of_tools = f", for {', '.join(further.serves)}," if further is not None else ""
    parts = [f"{name}{of_tools} is connected{f' as {account}' if account else ''}."]
    count = _tools(caller, finished.slug)
    if count:
        parts.append(f"{many(count, 'tool is', 'tools are')} ready.")
    if further is None:
        parts.append(_forecast(shown(access.standing(caller, finished.slug))))
    link = Markup(' <a href="{}">Try a tool</a>').format(
        url_for("tools.index", gateway=finished.slug)
    )
    flash(Markup("{}{}").format(" ".join(parts), link), "success")
    if finished.narrowed:
        missing = ", ".join(finished.narrowed)
        flash(f"It did not grant all that was asked for. Missing: {missing}.", "warn")
    if finished.lost:
        flash(f"Rights you had before are gone with it: {', '.join(finished.lost)}.", "warn")


def _further(caller: Caller, finished: Finished) -> tool_standing.Part | None:
    """The OAuth config for some tools that it was about. None: the gateway's own."""
    every = tool_standing.parts(caller, finished.slug)
    return next((part for part in every if part.config_id == finished.config_id), None)


def _tools(caller: Caller, slug: str) -> int:
    try:
        return len(relay.list_tools(caller, access.usable(caller, slug), timeout_s=TOOLS_S))
    except AppError:
        return 0


def _forecast(one: Shown) -> str:
    if one.renews:
        return "Your sign-in is renewed by itself."
    if one.held is None or one.held.expires_ms is None:
        return "The provider did not say when your sign-in ends."
    left = span((moment(one.held.expires_ms) - utcnow()).total_seconds()) or "a minute"
    if one.spec is not None and one.spec.token_management.auto_refresh:
        return f"The provider gave no refresh token, so you sign in again in {left}."
    return f"It is not renewed here, so you sign in again in {left}."
