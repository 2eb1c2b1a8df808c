"""/oauth: off to a provider, and back.

`connect` begins a flow and answers with a page, not a redirect: browsers apply `form-action 'self'`
to every redirect that follows a form. That page leads to `onward`, whose 302 may leave. `callback`
leads on to an address without code and state; only a page for somebody who has not shown to be the
one who began stands at the address it came to. No page here says where it was (SEC-013).
"""

from __future__ import annotations

from urllib.parse import quote

from flask import (
    Blueprint,
    Response,
    current_app,
    flash,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response as AnyResponse

from .. import access, audit
from ..access import Caller, Usable
from ..audit import Subject
from ..db import db
from ..errors import AppError, ConsentFailed
from ..mcp import relay
from ..oauth import callback, flow, parked
from ..oauth.flow import Begun, Finished
from ..oauth.parked import Parked
from . import checking
from .auth import actor, person, someone
from .commits import committed
from .me import welcome
from .where import own_path

bp = Blueprint("oauth", __name__, url_prefix="/oauth")
RETURN_LIMIT = 500  # characters


@bp.post("/connect/<slug>")
def connect(slug: str) -> ResponseReturnValue:
    """Of the form: `ask`, the handle in an AI client's link; `next`, a path of ours to end at;
    `config`, the OAuth config, where a gateway has several.
    """
    caller = person()
    gateway, ask = access.usable(caller, slug), request.form.get("ask", "")
    waiting = _waiting(caller, gateway, ask) if ask else None
    chosen = waiting.config_id if waiting else request.form.get("config") or None
    gateway = flow.prepare(caller, gateway.for_config(chosen), by=actor())
    if waiting is not None:
        return stop_over(committed(lambda: _answer(caller, gateway, waiting)))
    return stop_over(committed(lambda: _begin(caller, gateway)))


@bp.get("/connect/<slug>")
def onward(slug: str) -> ResponseReturnValue:
    """302 to the provider. Changes nothing, so Back and reload take the same flow again."""
    flow_id = request.args.get("flow", "")
    try:
        url = flow.onward(person(), slug, flow_id, cookies=request.cookies)
    except ConsentFailed as error:
        if flow_id and "flow" not in error.facts:
            flash(f"{error.message}. {error.action}", "warn")
        return _explain(error, slug)
    return redirect(url, 302)


@bp.get("/callback")
@bp.get("/callback/<slug>", endpoint="own_callback")
def come_back(slug: str = "") -> ResponseReturnValue:
    """Also of a provider that has an address of its own here: its path is one more check."""
    try:
        sent = callback.read(request.path, request.args.items(multi=True))
        finished = flow.finish(someone(), sent, cookies=request.cookies, by=actor())
    except ConsentFailed as error:
        if "flow" not in error.facts:
            raise  # a page here and now: who this is has not been shown
        return _explain(error, str(error.facts["gateway"]))
    again = _run(finished, finished.parked_call_id) if finished.parked_call_id else None
    if again is not None:
        return redirect(again.removeprefix(current_app.config["PUBLIC_URL"]), 303)
    if finished.purpose == "check" and finished.tokens is not None:
        checking.go_on(person(), finished)
    if finished.purpose not in ("call", "check"):  # whose page tells what came of it
        welcome.say(person(), finished)
    return redirect(finished.return_to, 303)


def stop_over(begun: Begun) -> Response:
    """The page "Going to …". It sets the cookie by which the callback knows this browser."""
    target = url_for("oauth.onward", slug=begun.slug, flow=begun.flow_id)
    page = make_response(render_template("going.html", begun=begun, onward=target))
    page.set_cookie(
        begun.cookie_name,
        begun.cookie_value,
        max_age=begun.max_age,
        secure=current_app.config["SESSION_COOKIE_SECURE"],
        httponly=True,
        samesite="Lax",  # Strict would hold it back at the callback
    )
    page.headers["Referrer-Policy"] = "no-referrer"
    return page


@bp.after_request
def without_referrer(reply: AnyResponse) -> AnyResponse:
    reply.headers["Referrer-Policy"] = "no-referrer"
    return reply


def _begin(caller: Caller, gateway: Usable) -> Begun:
    target = own_path(request.form.get("next"))
    if target == "/" or len(target) > RETURN_LIMIT:
        target = f"/connections/{gateway.slug}"
    return flow.begin(caller, gateway, return_to=target, by=actor())


def _waiting(caller: Caller, gateway: Usable, ask: str) -> Parked:
    """What an AI client waits for. Raises ConsentFailed."""
    try:
        return parked.asked(caller, gateway, ask)
    except ConsentFailed as error:  # somebody may have been sent another person's link
        subject = Subject("gateway", gateway.id, gateway.name)
        audit.record(actor(), "consent.refused", subject, outcome="denied", code=error.code)
        db.session.commit()
        raise


def _answer(caller: Caller, gateway: Usable, waiting: Parked) -> Begun:
    """Where nothing is stored, the call runs at the callback."""
    runs = gateway.config is not None and not gateway.config.spec.stores
    page = f"/connections/{gateway.slug}" + (f"?call={waiting.id}" if runs else "")
    purpose = "call" if runs else "step_up" if waiting.scopes else "connect"
    return flow.begin(
        caller,
        gateway,
        purpose=purpose,
        parked_call=waiting.id,
        target=waiting.target,
        return_to=page,
        by=actor(),
    )


def _run(finished: Finished, parked_call_id: str) -> str | None:
    """The call that waited. Whatever happens, the code leaves the address bar after it.

    Where it lacks rights that another consent can give: the page that asks for them.
    """
    try:
        gateway = access.usable(person(), finished.slug).for_config(finished.config_id)
        return relay.run_parked(person(), gateway, parked_call_id, finished.tokens)
    except AppError as error:  # switched off in this moment, say
        flash(f"{error.message}. {error.action}", "warn")
        return None


def _explain(error: ConsentFailed, slug: str) -> AnyResponse:
    """To the clean address, whose page shows flow.failure(person(), <failed>)."""
    failed = error.facts.get("flow")
    return redirect(f"/connections/{quote(slug)}" + (f"?failed={failed}" if failed else ""), 303)
