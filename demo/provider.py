"""The demo's OAuth provider: login and consent pages, and a token endpoint.

Authorization code with PKCE, rotating refresh tokens, client credentials (RFC 6749, 7636), their
metadata (RFC 8414), revocation (RFC 7009), resource indicators (RFC 8707), `iss` in the answer
(RFC 9207).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hmac
import secrets
from collections.abc import Iterable
from urllib.parse import unquote_plus, urlencode

from flask import (
    Blueprint,
    Flask,
    Response,
    current_app,
    redirect,
    render_template,
    request,
    session,
)
from flask.typing import ResponseReturnValue

from .grants import Access, Client, Grants, Refused

SCOPES = {
    "notes:read": "Read your notes",
    "notes:write": "Add notes",
}
PEOPLE = {"ana": "Ana Example", "bo": "Bo Example"}  # each with the password "demo"
PASSWORD = "demo"

bp = Blueprint("provider", __name__)


@dataclasses.dataclass
class Provider:
    issuer: str
    clients: dict[str, Client]
    grants: Grants


@dataclasses.dataclass(frozen=True)
class Asked:
    """A valid authorization request that waits for its person."""

    client: Client
    redirect_uri: str
    state: str
    scopes: tuple[str, ...]
    audience: str | None
    challenge: str


def create_provider(issuer: str, clients: Iterable[Client], grants: Grants) -> Flask:
    app = Flask(__name__)
    # Cookies know no port: the name keeps it apart from the gateway's own session.
    app.config.update(SECRET_KEY=secrets.token_hex(), SESSION_COOKIE_NAME="demo_provider")
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    app.extensions["provider"] = Provider(issuer, {c.id: c for c in clients}, grants)
    app.extensions["asked"] = {}  # id of a form -> the request it answers
    app.register_blueprint(bp)
    return app


def _provider() -> Provider:
    found: Provider = current_app.extensions["provider"]
    return found


@bp.after_request
def _headers(answer: Response) -> Response:
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    return answer


@bp.get("/.well-known/oauth-authorization-server")
def metadata() -> dict[str, object]:
    issuer = _provider().issuer
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "revocation_endpoint": f"{issuer}/revoke",
        "userinfo_endpoint": f"{issuer}/userinfo",
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "scopes_supported": list(SCOPES),
        "authorization_response_iss_parameter_supported": True,
    }


@bp.get("/authorize")
def ask() -> ResponseReturnValue:
    """Who does not name a client and its redirect URI gets a page; all else goes back to them."""
    client = _provider().clients.get(request.args.get("client_id", ""))
    redirect_uri = request.args.get("redirect_uri", "")
    if client is None or client.redirect_uri is None or redirect_uri != client.redirect_uri:
        why = "This client is unknown, or it did not name the redirect URI it is registered with."
        return render_template("problem.html", why=why), 400
    try:
        asked = _read_request(client, redirect_uri)
    except Refused as refusal:
        problem = {"error": refusal.error, "error_description": refusal.why}
        return _back(redirect_uri, request.args.get("state", ""), problem)
    form = secrets.token_urlsafe(16)
    current_app.extensions["asked"][form] = asked
    session["forms"] = [*session.get("forms", [])[-9:], form]
    return _next_page(form, asked)


def _read_request(client: Client, redirect_uri: str) -> Asked:
    args = request.args
    if args.get("response_type") != "code":
        raise Refused("unsupported_response_type", "only code")
    if not args.get("code_challenge") or args.get("code_challenge_method") != "S256":
        raise Refused("invalid_request", "PKCE with S256 is required")
    scopes = _scopes(args.get("scope"))
    challenge, state = args["code_challenge"], args.get("state", "")
    return Asked(client, redirect_uri, state, scopes, args.get("resource"), challenge)


def _scopes(text: str | None) -> tuple[str, ...]:
    asked = tuple((text or " ".join(SCOPES)).split())
    if any(scope not in SCOPES for scope in asked):
        raise Refused("invalid_scope", f"there is only: {' '.join(SCOPES)}")
    return asked


def _next_page(form: str, asked: Asked, *, problem: str = "") -> ResponseReturnValue:
    person = session.get("person")
    facts = {"form": form, "client": asked.client.name}
    if person is None:
        page = render_template("login.html", people=PEOPLE, problem=problem, **facts)
        return page, 401 if problem else 200
    wishes = [SCOPES[scope] for scope in asked.scopes]
    return render_template("consent.html", person=PEOPLE[person], wishes=wishes, **facts)


@bp.post("/authorize")
def answer() -> ResponseReturnValue:
    """The login and the consent form; their id is a secret that only this browser knows."""
    form = request.form.get("form", "")
    asked = current_app.extensions["asked"].get(form)
    if asked is None or form not in session.get("forms", []):
        why = "This page is too old, or it was opened in another browser. Please start again."
        return render_template("problem.html", why=why), 400
    if "username" in request.form:
        return _log_in(form, asked)
    del current_app.extensions["asked"][form]
    person = session.get("person")
    if person is None or request.form.get("do") != "allow":
        problem = {"error": "access_denied", "error_description": "The person said no."}
        return _back(asked.redirect_uri, asked.state, problem)
    consent = secrets.token_hex(8)
    access = Access(consent, person, PEOPLE[person], asked.client.id, asked.scopes, asked.audience)
    code = _provider().grants.issue_code(
        access, redirect_uri=asked.redirect_uri, challenge=asked.challenge
    )
    return _back(asked.redirect_uri, asked.state, {"code": code})


def _log_in(form: str, asked: Asked) -> ResponseReturnValue:
    name = request.form["username"].strip().lower()
    if name not in PEOPLE or request.form.get("password") != PASSWORD:
        return _next_page(form, asked, problem="There is no such person, or the password is wrong.")
    session["person"] = name
    return _next_page(form, asked)


def _back(redirect_uri: str, state: str, answer: dict[str, str]) -> ResponseReturnValue:
    pairs = {**answer, "state": state, "iss": _provider().issuer}
    query = urlencode({name: value for name, value in pairs.items() if value})
    return redirect(f"{redirect_uri}?{query}", 303)


@bp.post("/token")
def token() -> ResponseReturnValue:
    client, grants, form = _client(), _provider().grants, request.form
    match form.get("grant_type"):
        case "authorization_code" if client.redirect_uri:
            names = {"redirect_uri": form.get("redirect_uri", "")}
            names["verifier"] = form.get("code_verifier", "")
            return grants.redeem(form.get("code", ""), client=client, **names)
        case "refresh_token":
            return grants.refresh(form.get("refresh_token", ""), client=client)
        case "client_credentials" if not client.redirect_uri:
            scopes = _scopes(form.get("scope"))
            return grants.for_client(client, scopes=scopes, audience=form.get("resource"))
    raise Refused("unauthorized_client", "this client has no such grant")


@bp.post("/revoke")
def revoke() -> ResponseReturnValue:
    _provider().grants.revoke(request.form.get("token", ""), client=_client())
    return ""


@bp.get("/userinfo")
def userinfo() -> ResponseReturnValue:
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    access = _provider().grants.access(sent) if scheme.lower() == "bearer" else None
    if access is None:
        return {"error": "invalid_token"}, 401, {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return {"sub": access.subject, "name": access.name}


def _client() -> Client:
    """The client that proved itself, by Basic or in the form (RFC 6749 section 2.3.1)."""
    name, secret = request.form.get("client_id", ""), request.form.get("client_secret", "")
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        name, secret = _basic(sent)
    client = _provider().clients.get(name)
    if client is None or not hmac.compare_digest(client.secret.encode(), secret.encode()):
        raise Refused("invalid_client", "unknown, or the secret is wrong")
    return client


def _basic(sent: str) -> tuple[str, str]:
    try:
        name, _, secret = base64.b64decode(sent, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Refused("invalid_client", "unreadable Authorization header") from error
    return unquote_plus(name), unquote_plus(secret)


@bp.errorhandler(Refused)
def _refused(refusal: Refused) -> ResponseReturnValue:
    status = 401 if refusal.error == "invalid_client" else 400
    return {"error": refusal.error, "error_description": refusal.why}, status
