"""/tools/<slug>/<name>: a form to call a tool with, and what it answered (odd names: ?name=).

Where a call needs a sign-in it is parked, the browser goes by the provider, and the result stands
here afterwards (oauth.md 3.6).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, render_template, request, url_for
from flask.typing import ResponseReturnValue

from ... import access, gateways
from ...access import Caller, Usable
from ...db import db
from ...errors import AppError, ConnectionNeeded, NotFound, UpstreamError
from ...mcp import catalog, consent, health, relay
from ...mcp.catalog import Tool
from ...mcp.relay import ToolResult
from ...oauth import flow, parked, stepping
from ..auth import actor, person
from ..oauth import RETURN_LIMIT, stop_over
from .arguments import arguments
from .offered import Offered, address, as_curl, offered
from .standing import Shown, shown
from .tool_form import ToolForm, form_for
from .waited import Said, Waited, parked_call

bp = Blueprint("try_it", __name__, url_prefix="/tools")

LIST_S = 5.0
GRANT_LIMIT = 1000  # characters of scopes
LIST = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}'


@dataclass(slots=True)
class Page:
    """What the page of a tool shows."""

    one: Shown
    tool: Offered
    form: ToolForm
    sent: Mapping[str, Any] = field(default_factory=dict)
    result: ToolResult | None = None
    error: AppError | None = None
    said: Said | None = None
    grant: str = ""  # a right that the call lacks, and a new consent can give

    def answer(self, status: int = 200) -> ResponseReturnValue:
        raw = json.dumps(self.result.raw, indent=2, ensure_ascii=False) if self.result else ""
        url = gateways.mcp_url(self.one.slug)
        page = render_template(
            "tool.html",
            one=self.one,
            tool=self.tool,
            address=address(self.one.slug, self.tool.name),
            form=self.form,
            signs_in=self.one.signs_in_first,
            result=self.result,
            error=self.error,
            said=self.said,
            grant=self.grant,
            raw=raw,
            curl=as_curl(url, self.tool.name, self.sent),
        )
        return page, status


@bp.route("/<slug>/<path:name>", methods=["GET", "POST"])
@bp.route("/<slug>/", methods=["GET", "POST"])
def tool(slug: str, name: str = "") -> ResponseReturnValue:
    caller, name = person(), name or request.args.get("name", "")
    one = shown(access.standing(caller, slug))
    gateway = access.usable(caller, slug)
    found = offered(_find(caller, one, gateway, name))
    call_id = request.args.get("call", "")
    waited = parked_call(caller, one, call_id) if call_id else Waited()
    if waited.tool not in ("", name):
        raise NotFound
    form = form_for(arguments(found.schema), waited.sent, deletes=found.effect.can_delete)
    page = Page(one, found, form)
    if form.validate_on_submit():
        page.sent = form.arguments()
        return _run(caller, gateway, page)
    if form.errors:
        return page.answer(422)
    page.sent, page.result = waited.sent, waited.result
    page.error, page.said = waited.error, waited.said
    return page.answer()


@bp.post("/<slug>")
def list_tools(slug: str) -> ResponseReturnValue:
    """For a gateway that keeps no tokens: sign in, list once, forget."""
    caller = person()
    gateway = access.usable(caller, slug)
    back = url_for("tools.index", gateway=slug)
    return _sign_in_and_run(caller, gateway, LIST, back)


def _run(caller: Caller, gateway: Usable, page: Page) -> ResponseReturnValue:
    name, wanted = page.tool.name, request.form.get("grant", "")[:GRANT_LIMIT].split()
    gateway = gateway.for_call("tools/call", name)
    try:
        if not (_signs_in_first(page.one, gateway) or wanted):
            page.result = relay.call_tool(caller, gateway, name, dict(page.sent))
            _note(gateway, "ok")
            return page.answer()
    except ConnectionNeeded:
        if not gateway.signs_people_in:
            raise
    except UpstreamError as error:
        page.error = error
        _note(gateway, error.code)
        if error.code == "insufficient_scope":
            page.grant = str(error.facts.get("scope", ""))
        return page.answer(error.status)
    call = relay.tool_request(name, dict(page.sent))
    back = address(page.one.slug, name)
    return _sign_in_and_run(caller, gateway, call, back, wanted)


def _signs_in_first(one: Shown, gateway: Usable) -> bool:
    """A call now would only find that a sign-in is needed; of the config that serves it."""
    return consent.keeps_nothing(gateway) if gateway.further else one.signs_in_first


def _note(gateway: Usable, code: str) -> None:
    if health.is_due(gateway, code):
        health.note(gateway, code)


def _sign_in_and_run(
    caller: Caller, gateway: Usable, call: bytes, back: str, wanted: Sequence[str] = ()
) -> ResponseReturnValue:
    """Park the call and leave for the provider. `wanted`: rights that the call lacks.

    Raises AppError (step_up_exhausted) where asking for them is vain.
    """
    target = str(json.loads(call)["params"].get("name") or "")
    if wanted:
        asked = stepping.union(caller, gateway, target, wanted)
        if asked is None:
            raise AppError("step_up_exhausted", scope=" ".join(wanted))
        wanted = asked
    gateway = flow.prepare(caller, gateway, by=actor())
    digest = secrets.token_hex(32)  # not of the call: each press of the button runs it
    waits = parked.park(caller, gateway, digest=digest, request=call, scopes=wanted)
    end = f"{back}{'&' if '?' in back else '?'}call={waits.id}"
    if len(end) > RETURN_LIMIT:  # of a tool with a very long name: this page shows results, too
        end = url_for("connections.show", slug=gateway.slug, call=waits.id)
    begun = flow.begin(
        caller,
        gateway,
        purpose="call",
        parked_call=waits.id,
        target=target,
        return_to=end,
        by=actor(),
    )
    db.session.commit()
    return stop_over(begun)


def _find(caller: Caller, one: Shown, gateway: Usable, name: str) -> Tool:
    """As it was listed last, else as it is listed now. Raises NotFound, ConnectionNeeded."""
    for tool in catalog.known(gateway.id, gateway.owner_key):
        if tool.name == name:
            return tool
    if one.signs_in_first:
        raise ConnectionNeeded(gateway=one.slug, name=one.name, state="pending")
    for tool in relay.list_tools(caller, gateway, timeout_s=LIST_S):
        if tool.name == name:
            return tool
    raise NotFound
