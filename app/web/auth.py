"""Who is asking, and whether they may. Nothing is open unless PUBLIC says so (SEC-031).

Pages know people by the cookie of a browser session, and take no API token; /mcp and /api know
callers by an API token, and take no cookie, so they need no CSRF token either. Two cookies, both
HttpOnly and SameSite=Lax, and with https `__Host-` and Secure (SEC-051): `signed_in` holds a random
text whose hash is a row; `session` is Flask's own, signed, for the CSRF token and messages. It
names the `signed_in` it belongs to and is thrown away with it, so a form of before is void after.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import ParamSpec, TypeVar

from flask import Flask, Response, after_this_request, current_app, g, redirect, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask.wrappers import Request
from flask_wtf import CSRFProtect
from werkzeug.wrappers import Response as AnyResponse

from .. import api_tokens, people, sessions, setup
from ..access import Caller
from ..audit import Actor
from ..db import db, utcnow
from ..errors import AppError, Forbidden, SignInRequired
from . import pace, where
from .errors import request_id

P = ParamSpec("P")
R = TypeVar("R")
AnyReply = TypeVar("AnyReply", bound=AnyResponse)

PUBLIC = re.compile(  # URL rules that anybody may ask for; every other one wants to know who it is
    r"/login|/setup"
    r"|/help(/.*)?"  # how the product works; nothing of this server
    r"|/oauth/callback(/.*)?"  # says itself what to do for who was signed out meanwhile
    r"|/oauth/(client-metadata|jwks)\.json|/\.well-known/.*"  # for providers and AI clients
)
WITHOUT_COOKIES = (  # the last two know machines by themselves
    *("/static/<path:filename>", "/health", "/ready"),
    *("/metrics", "/version"),
)
CONFIRMED_FOR = timedelta(minutes=10)  # since the password was typed (SEC-075)
csrf = CSRFProtect()


def register(app: Flask) -> None:
    app.config["WTF_CSRF_CHECK_DEFAULT"] = False  # gate() checks, as it knows pages from machines
    csrf.init_app(app)
    where.register(app)
    app.session_interface = SessionsOfPages()
    app.before_request(gate)
    app.context_processor(lambda: {"me": me()})


class SessionsOfPages(SecureCookieSessionInterface):
    """Machines have none: making and signing one would cost each of their calls."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        if is_for_machines(request.path):
            return self.make_null_session(app)
        return super().open_session(app, request)


def gate() -> AnyResponse | None:
    """Before every request: who it is, whether it is forged, whether it may."""
    rule = request.url_rule.rule if request.url_rule else ""
    if is_for_machines(request.path):
        _find_machine(rule)
        return None
    if rule in WITHOUT_COOKIES:
        return None
    _find_person()
    pace.count(someone())
    if rule and not PUBLIC.fullmatch(rule):
        if someone() is None:
            return _to_sign_in()
        if request.path.startswith("/admin/"):
            _refuse_others_than_admins()
    if request.method not in ("GET", "HEAD", "OPTIONS") and rule:
        _refuse_foreign_origins()
        csrf.protect()
    return None


def is_for_machines(path: str) -> bool:
    return path.startswith(("/mcp/", "/api/")) or path == "/mcp"


# -- people ---------------------------------------------------------------------------------------


def someone() -> Caller | None:
    here: sessions.SignedIn | None = g.get("signed_in")
    return here.caller if here else None


def person() -> Caller:
    """Raises SignInRequired."""
    caller = someone()
    if caller is None:
        raise SignInRequired
    return caller


def session_id() -> str:
    """Of this browser. Raises SignInRequired."""
    person()
    here: sessions.SignedIn = g.signed_in
    return here.id


def actor() -> Actor:
    """Who acts in this request, for the audit; an API token, too."""
    machine: Caller | None = g.get("api_caller")
    caller = machine or someone()
    address, name = where.address(), request_id()
    if caller is None:
        return Actor("anonymous", address=address, request_id=name)
    kind, key = ("token", machine.token_id) if machine else ("user", caller.user_id)
    return Actor(kind, key, caller.email, address=address, request_id=name)


def me() -> dict[str, str | bool] | None:
    """`me` in templates. Reads no database: an error page must not fail again."""
    caller = someone()
    return {"email": caller.email, "admin": caller.is_admin} if caller else None


def admin_only(view: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(view)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        _refuse_others_than_admins()
        return view(*args, **kwargs)

    return checked


def is_confirmed() -> bool:
    """Whether the password was typed lately, as sensitive steps want it (SEC-075)."""
    person()
    at: datetime = g.signed_in.confirmed_at
    return utcnow() - at <= CONFIRMED_FOR


def confirm(password: str) -> bool:
    """Whether it is theirs. Then this session is fresh, under a new id (SEC-066). Commits.

    Its CSRF token stays: the page that asks may be drawn once more. Raises Busy.
    """
    here: sessions.SignedIn = g.signed_in
    cookie = people.confirm(here, password, by=actor())
    db.session.commit()
    if cookie is None:
        return False
    g.signed_in = replace(here, confirmed_at=utcnow())
    session["of"] = _tag(cookie)
    after_this_request(functools.partial(_set_cookie, cookie=cookie))
    return True


def let_in(reply: AnyReply, cookie: str) -> AnyReply:
    """Make this browser a person's, with a session id and CSRF token of its own (SEC-066)."""
    session.clear()
    session["of"] = _tag(cookie)
    return _set_cookie(reply, cookie=cookie)


def end_this_session() -> None:
    """The row; the caller commits."""
    if someone() is not None:
        sessions.end(person().user_id, session_id=session_id())


def let_out(reply: AnyResponse) -> AnyResponse:
    """SEC-065. Not "cookies": that would sign people out of their other sites on this domain."""
    session.clear()
    secure = current_app.config["SESSION_COOKIE_SECURE"]
    reply.delete_cookie(_cookie_name(), secure=secure, httponly=True, samesite="Lax")
    reply.headers["Clear-Site-Data"] = '"cache", "storage"'
    return reply


def _set_cookie(reply: AnyReply, *, cookie: str) -> AnyReply:
    secure = current_app.config["SESSION_COOKIE_SECURE"]
    reply.set_cookie(_cookie_name(), cookie, secure=secure, httponly=True, samesite="Lax")
    return reply


def _find_machine(rule: str) -> None:
    caller = api_caller(_scope()) if rule else None
    if caller and not request.path.startswith("/mcp"):  # there it is counted when the call is read
        pace.count(caller)


def _find_person() -> None:
    cookie = request.cookies.get(_cookie_name(), "")
    g.signed_in = sessions.current(cookie) if cookie else None
    tag = _tag(cookie) if g.signed_in else ""
    if session.get("of", "") != tag:  # of somebody before, or of nobody
        session.clear()
        if tag:
            session["of"] = tag


def _to_sign_in() -> AnyResponse:
    if not setup.is_done():
        return redirect("/setup")
    raise SignInRequired


def _refuse_others_than_admins() -> None:
    if not person().is_admin:
        raise Forbidden(admins=", ".join(people.admins()))


def _refuse_foreign_origins() -> None:
    """A browser names the page that sends a form. Programs may leave it out (SEC-052)."""
    origin = request.headers.get("Origin")
    scheme = "https" if current_app.config["SESSION_COOKIE_SECURE"] else "http"
    if origin is not None and origin != f"{scheme}://{request.host}":
        raise AppError("csrf")


def _cookie_name() -> str:
    prefix = "__Host-" if current_app.config["SESSION_COOKIE_SECURE"] else ""
    return f"{prefix}signed_in"


def _tag(cookie: str) -> str:
    """Names a cookie without giving it away: Flask's session is signed, not sealed."""
    return hashlib.sha256(f"csrf {cookie}".encode()).hexdigest()[:20]


# -- API tokens -----------------------------------------------------------------------------------


def api_caller(scope: str) -> Caller:
    """By `Authorization: Bearer` alone (SEC-046). Raises SignInRequired; Forbidden by scope."""
    caller: Caller | None = g.get("api_caller")
    if caller is None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token if kind.lower() == "bearer" else ""
        try:
            g.api_caller = caller = api_tokens.authenticate(token)
        except SignInRequired:
            pace.note_guess(token)
            raise
        if caller.token_id and api_tokens.is_due(caller.token_id):
            _note_use_afterwards(caller.token_id)
    if scope not in caller.scopes:
        raise Forbidden("insufficient_token_scope", scope=scope)
    return caller


def client_is(name: str) -> None:
    """What an AI client says it is called, kept with the last use of its API token."""
    g.client_name = name


def _scope() -> str:
    """What any request to this path needs at least; a view may ask for more."""
    if not request.path.startswith("/api/"):
        return "mcp"
    return "api:read" if request.method in ("GET", "HEAD", "OPTIONS") else "api:write"


def _note_use_afterwards(token_id: str) -> None:
    """When the answer is out: a write to the database is not waited for."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]

    @after_this_request
    def hook(reply: Response) -> Response:
        name = g.get("client_name")
        client = name or request.user_agent.string

        def note() -> None:
            with app.app_context():
                api_tokens.note_use(token_id, client, is_named=name is not None)

        reply.call_on_close(note)
        return reply
