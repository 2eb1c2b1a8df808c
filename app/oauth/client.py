"""The protocol, at any provider: both grants, PKCE, refresh. Knows no rows and no request of ours.

requests-oauthlib builds and sends. What comes back it never sees: a hook of `requests` takes the
answer off the wire, within a cap, and hands the library a stand-in; `replies` reads the real one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit, urlunsplit

import requests
from oauthlib.oauth2 import BackendApplicationClient, OAuth2Error
from requests.auth import AuthBase
from requests_oauthlib import OAuth2Session

from .. import egress
from ..errors import ProviderError, Unsealable, UpstreamError
from ..specs import PROTOCOL_PARAMETERS, OAuthConfigSpec
from ..trust import Trust
from . import refusals, replies, revoking, signing
from .refusals import Answer, Request
from .replies import BODY_LIMIT, Dialect, TokenSet

Params = dict[str, Any]  # of a request; what is None is not sent
_CONTENT = b'{"access_token": "-", "token_type": "Bearer"}'
_SAYS = {"Accept": "application/json", "User-Agent": "mcp-gateway"}
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_USERINFO_S = 3.0  # nobody waits longer for the name of an account


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Us, as one authorization server knows us, and where it lives."""

    client_id: str
    client_secret: str | None = field(repr=False)  # None: a public client
    auth_method: str  # auto, basic, post, none, private_key_jwt
    authorization_url: str | None
    token_url: str
    refresh_url: str | None
    redirect_uri: str
    timeout_s: float  # for one call of ours, with all that is sent again and the pauses between
    retries: int
    spec: OAuthConfigSpec
    trust: Trust | None = None  # a CA or certificate of the gateway's own
    private_key: str | None = field(default=None, repr=False)  # PEM; signs instead of a secret
    pause_s: float = 0.5  # before the first repetition, then twice as long each time
    watch: Callable[[requests.Response, bytes], None] | None = None  # sees answers: a check does

    @property
    def method(self) -> str:
        """RFC 8414's default where nothing is said; nobody sends Basic without a password."""
        if self.private_key is not None and self.auth_method in ("auto", "private_key_jwt"):
            return "private_key_jwt"
        if self.client_secret is None or self.auth_method == "private_key_jwt":
            return "none"
        return "basic" if self.auth_method == "auto" else self.auth_method

    @property
    def named_in_body(self) -> Params:
        """The form members that say who we are; never a secret in two places (SEC-016)."""
        if self.method in ("basic", "private_key_jwt"):
            named = {"client_id": self.client_id} if self.spec.client_id_in_body else {}
            return named if self.method == "basic" else named | self._assertion()
        secret = {"client_secret": self.client_secret} if self.method == "post" else {}
        return {"client_id": self.client_id} | secret

    def _assertion(self) -> Params:
        """Signed anew for each request (RFC 7523 section 3)."""
        spec, ours = self.spec, self.token_url
        known = {"issuer": self.spec.issuer or ours, "token_url": ours}
        audience = known.get(spec.assertion_audience, spec.assertion_audience)
        signed = signing.assertion(
            self.private_key or "", spec.assertion_alg, client_id=self.client_id, audience=audience
        )
        return {"client_assertion_type": _ASSERTION, "client_assertion": signed}


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a provider knows us. `known`: None: it could not be told."""

    known: bool | None
    error: ProviderError | None


class OAuthClient:
    """Every method that asks raises ProviderError, and nothing else; its `kind` is decided here."""

    def __init__(self, registration: Registration) -> None:
        self._us = registration

    @property
    def registration(self) -> Registration:
        return self._us

    def authorize_url(
        self, *, state: str, verifier: str, scopes: Sequence[str] | None, resource: str | None
    ) -> str:
        """Where to send the browser (RFC 6749 4.1.1, RFC 7636 4.3, RFC 8707 2)."""
        us, spec = self._us, self._us.spec
        params: Params = {"resource": resource, "audience": spec.audience}
        if spec.pkce != "off":
            params |= {"code_challenge": s256(verifier), "code_challenge_method": "S256"}
        scope = spec.scope_separator.join(scopes) if scopes else None
        if spec.scope_param != "scope":
            params[spec.scope_param], scope = scope, None
        is_renewed = spec.stores and spec.token_management.auto_refresh
        offline = spec.offline.params if spec.offline is not None and is_renewed else {}
        base = _with_query(us.authorization_url or "", offline | spec.extra_authorize_params)
        session = OAuth2Session(us.client_id, redirect_uri=us.redirect_uri, scope=scope)
        try:
            url, _ = session.authorization_url(base, state=state, **params)
        except OAuth2Error as error:  # http, and not to this machine
            raise _insecure(base) from error
        return str(url)

    def exchange(self, code: str, *, verifier: str, resource: str | None) -> TokenSet:
        """Redeem an authorization code. Sent once; again only while no byte has left (SEC-012)."""
        sent: Params = {"code": code, "resource": resource}
        if self._us.spec.pkce != "off":
            sent["code_verifier"] = verifier
        return self._ask("exchange", self._us.token_url, sent)

    def refresh(self, refresh_token: str, *, resource: str | None) -> TokenSet:
        """A newer set, with the old refresh token if no new one came (RFC 6749 section 6)."""
        sent = {"refresh_token": refresh_token, "resource": resource}
        tokens = self._ask("refresh", self._us.refresh_url or self._us.token_url, sent)
        return replace(tokens, refresh_token=tokens.refresh_token or refresh_token)

    def client_credentials(self, *, scopes: Sequence[str] | None, resource: str | None) -> TokenSet:
        """A token for ourselves (RFC 6749 section 4.4)."""
        scope = " ".join(scopes) if scopes else None
        sent = {"scope": scope, "resource": resource, "audience": self._us.spec.audience}
        return self._ask("client_credentials", self._us.token_url, sent)

    def probe(self, *, resource: str | None = None) -> Probe:
        """Whether the provider knows us: one request with a made-up code (oauth.md 2.6)."""
        try:
            self.exchange(_MADE_UP, verifier=_MADE_UP, resource=resource)
        except ProviderError as error:
            if error.code == "code_rejected":
                return Probe(True, None)
            return Probe(False if error.kind == "client" else None, error)
        return Probe(None, None)  # a token for a code that nobody gave: it looks at nothing

    def account(self, access_token: str) -> str | None:
        """The account's name for display, if userinfo tells it within 3 s. Raises nothing."""
        url, paths = self._us.spec.userinfo_url, tuple(self._us.spec.account_path)
        if url is None or not paths:
            return None
        headers = {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}
        try:
            with egress.upstream_errors(url), egress.call(_USERINFO_S), self._plain() as session:
                with session.get(url, headers=headers, stream=True, allow_redirects=False) as reply:
                    body = egress.read_capped(reply, BODY_LIMIT)
        except UpstreamError:
            return None
        members = replies.object_in(body) if reply.status_code == 200 else None
        return replies.account_label(paths, members or {})

    def revoke(
        self, token: str, hint: revoking.Hint, *, url: str, style: str, seconds: float
    ) -> revoking.Verdict:
        """End one token (RFC 7009, or the provider's own way). Sent once. Raises nothing."""
        order = revoking.order(style, token, hint)
        if order is None:
            return revoking.Verdict("unsupported", "unsupported_token_type")
        us, url = self._us, revoking.address(url, self._us.client_id)
        how: Params = {"json": order.json, "headers": _SAYS | dict(order.headers)}
        how |= {"timeout": (min(egress.CONNECT_S, seconds), seconds), "allow_redirects": False}
        if order.form is not None:
            how |= {"data": us.named_in_body | dict(order.form), "auth": _Sending(us)}
        elif order.as_client:
            how["auth"] = _Sending(replace(us, auth_method="basic"))
        try:
            with egress.upstream_errors(url), egress.call(seconds), self._plain() as session:
                with session.request(order.method, url, stream=True, **how) as reply:
                    body = egress.read_capped(reply, BODY_LIMIT)
        except (UpstreamError, Unsealable) as error:
            is_final = error.code in ("blocked_address", "redirected", Unsealable.code)
            return revoking.Verdict("refused" if is_final else "later", error.code)
        answer = Answer(url, reply.status_code, reply.headers, body)
        return revoking.verdict(answer, style)

    def _ask(self, request: Request, url: str, sent: Params) -> TokenSet:
        """One deadline over all tries. Raises ProviderError."""
        us, asked, tries = self._us, time.time(), 0
        end = time.monotonic() + us.timeout_s
        while True:
            status = 0
            try:
                answer = self._send(request, url, sent, end - time.monotonic())
                status = answer.status
                return replies.read(answer, _dialect(us.spec), request=request, now=asked)
            except ProviderError as error:
                pause = us.pause_s * 2**tries * random.uniform(0.5, 1.5)  # noqa: S311  # jitter
                is_last = tries == us.retries or time.monotonic() + pause >= end
                if is_last or not _may_repeat(request, error, status):
                    raise self._told(error, sent) from error.__cause__
            time.sleep(pause)
            tries += 1

    def _send(self, request: Request, url: str, sent: Params, seconds: float) -> Answer:
        got: list[Answer] = []

        def take(response: requests.Response, **_: object) -> requests.Response:
            body = egress.read_capped(response, BODY_LIMIT)
            got.append(Answer(url, response.status_code, response.headers, body))
            if self._us.watch is not None:
                self._us.watch(response, body)
            return _stand_in(response)

        try:
            with egress.upstream_errors(url), egress.call(seconds) as call:
                with self._session(request, take) as session:
                    self._post(session, request, url, sent, seconds)
        except UpstreamError as error:
            raise _lost(request, error, is_sent=call.sent) from error.__cause__
        except OAuth2Error as error:
            raise _insecure(url) from error
        return got[0]

    def _session(self, request: Request, take: Callable[..., Any]) -> OAuth2Session:
        """Without scope: oauthlib raises a bare Warning when a provider narrows it."""
        us = self._us
        if request == "client_credentials":
            session = OAuth2Session(client=BackendApplicationClient(us.client_id))
        else:
            redirect_uri = us.redirect_uri if request == "exchange" else None
            session = OAuth2Session(us.client_id, redirect_uri=redirect_uri)
        session.hooks["response"] = [take]
        session.stream = True  # the cap is ours; else `requests` reads all there is
        session.headers["User-Agent"] = "mcp-gateway"
        return egress.guard(session, self._us.trust)

    def _plain(self) -> requests.Session:
        return egress.session(self._us.trust)

    def _post(
        self, session: OAuth2Session, request: Request, url: str, sent: Params, seconds: float
    ) -> None:
        us, named = self._us, self._us.named_in_body
        how: Params = {
            "auth": _Sending(us),
            "timeout": (min(egress.CONNECT_S, seconds), seconds),
            # As a body, because names like `verify` or `proxies` would change the call itself.
            "body": urlencode(us.spec.extra_token_params),
        }
        if request == "refresh":
            session.refresh_token(url, **how, **sent, **named)
        else:
            how |= {"include_client_id": "client_id" in named}
            more = {name: one for name, one in named.items() if name != "client_id"}
            session.fetch_token(url, **{"client_secret": None} | how | sent | more)

    def _told(self, error: ProviderError, sent: Params) -> ProviderError:
        """What the person reads: with a hint for the admin, and without an echo of a secret."""
        if error.code == "client_rejected":
            error.facts["hint"] = _METHODS[self._us.method]
        secrets = [sent.get(name) for name in ("code", "code_verifier", "refresh_token")]
        if self._us.client_secret:
            secrets += [_basic(self._us), self._us.client_secret]
        if error.said is not None:
            error.said = refusals.without(error.said, [secret for secret in secrets if secret])
        return error


_MADE_UP = "a-code-that-nobody-gave-0123456789-0123456789"  # as long as a verifier has to be
_METHODS = {
    "basic": "It went in the Authorization header (basic); post puts it in the body.",
    "post": "It went in the body (post); basic puts it in the Authorization header.",
    "none": "No secret was sent (none).",
    "private_key_jwt": "It was signed with our key: the provider has to know the public one.",
}


def _may_repeat(request: Request, error: ProviderError, status: int) -> bool:
    """Oauth.md 6.3. Who names a time to wait is not asked again before it: nobody sleeps on it."""
    if error.kind == "unsent":
        return error.code != "blocked_address"
    if request == "exchange" or error.retry_after is not None:
        return False
    if error.kind == "unknown":
        return request == "client_credentials"
    return error.kind == "busy" or status == 500


def _lost(request: Request, error: UpstreamError, *, is_sent: bool) -> ProviderError:
    """No answer. A time-out while reading counts as sent, one in the TLS handshake too."""
    host = str(error.facts.get("host", ""))
    if not is_sent and not isinstance(error.__cause__, requests.ReadTimeout):
        return ProviderError(error.code, kind="unsent", host=host)
    is_gone = request == "exchange" and error.code != "reply_unreadable"
    return ProviderError("exchange_unknown" if is_gone else error.code, kind="unknown", host=host)


def _insecure(url: str) -> ProviderError:
    return ProviderError("blocked_address", kind="unsent", host=urlsplit(url).hostname or url)


def _stand_in(real: requests.Response) -> requests.Response:
    """What the library may parse, log and keep: nothing in it is real."""
    calm = requests.Response()
    calm.status_code, calm.encoding, calm.raw = 200, "utf-8", io.BytesIO(_CONTENT)
    calm.url, calm.request = real.url, real.request
    return calm


def _basic(us: Registration) -> str:
    """Both parts are form-encoded first (RFC 6749 section 2.3.1); requests would not."""
    pair = f"{quote_plus(us.client_id)}:{quote_plus(us.client_secret or '')}"
    return base64.b64encode(pair.encode()).decode()


class _Sending(AuthBase):
    """The last hand on the request: fetch_token and refresh_token differ in all but this."""

    def __init__(self, us: Registration) -> None:
        self._us = us

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        us = self._us
        if us.method == "basic":
            request.headers["Authorization"] = f"Basic {_basic(us)}"
        if us.spec.token_request_format == "json":  # noqa: S105  # a format
            members = dict(parse_qsl(str(request.body), keep_blank_values=True))
            request.headers["Content-Type"] = "application/json"
            request.prepare_body(None, None, json=members)
        return request


def s256(verifier: str) -> str:
    """PKCE challenge (RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _with_query(url: str, extra: Mapping[str, str]) -> str:
    """The configured URL, its own query without protocol parameters, then `extra`."""
    parts = urlsplit(url)
    own = {
        name: value
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name not in PROTOCOL_PARAMETERS and not name.startswith("code_challenge")
    }
    return urlunsplit(parts._replace(query=urlencode(own | dict(extra))))


def _dialect(spec: OAuthConfigSpec) -> Dialect:
    reply, life = spec.reply, spec.lifetime
    return Dialect(
        token_path=reply.token_path or "",
        form=reply.form,
        ok_field=reply.ok_field or "",
        bearer_aliases=tuple(reply.bearer_aliases),
        scope_separator=reply.scope_separator,
        errors=reply.errors,
        account_paths=tuple(spec.account_path),
        life_default=life.default,
        life_always=life.always,
        life_in_ms=life.unit == "ms",
    )
