"""What the demo provider gave out: codes, access tokens, refresh tokens. In memory."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable

CODE_SECONDS = 60
ACCESS_SECONDS = 300  # short, so that a demo of ten minutes sees a refresh


class Refused(Exception):
    """A token request that gets nothing; `error` is the word of RFC 6749 section 5.2."""

    def __init__(self, error: str, why: str) -> None:
        super().__init__(f"{error}: {why}")
        self.error, self.why = error, why


@dataclasses.dataclass(frozen=True)
class Client:
    id: str
    secret: str
    name: str
    redirect_uri: str | None = None  # None: it has no people, so client credentials only


@dataclasses.dataclass(frozen=True)
class Access:
    """What a token stands for. `id` is the consent that it comes from."""

    id: str
    subject: str
    name: str
    client_id: str
    scopes: tuple[str, ...]
    audience: str | None  # RFC 8707: the one server that may take it


@dataclasses.dataclass(frozen=True)
class Code:
    access: Access
    redirect_uri: str
    challenge: str  # RFC 7636, S256
    ends: float


class Grants:
    """Thread-safe. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._codes: dict[str, Code] = {}
        self._tokens: dict[str, tuple[Access, float]] = {}
        self._refresh: dict[str, Access] = {}
        self._spent: dict[str, str] = {}  # used codes and refresh tokens -> id of their consent

    def issue_code(self, access: Access, *, redirect_uri: str, challenge: str) -> str:
        code = secrets.token_urlsafe(24)
        with self._lock:
            ends = self._clock() + CODE_SECONDS
            self._codes[code] = Code(access, redirect_uri, challenge, ends)
        return code

    def redeem(
        self, code: str, *, client: Client, redirect_uri: str, verifier: str
    ) -> dict[str, object]:
        """Tokens for a code, once: a second try takes back what the first got (RFC 6749 4.1.2)."""
        with self._lock:
            self._end_if_spent(code)
            found = self._codes.pop(code, None)
            if found is None or found.access.client_id != client.id:
                raise Refused("invalid_grant", "no such code")
            self._spent[code] = found.access.id
            digest = hashlib.sha256(verifier.encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if not hmac.compare_digest(challenge, found.challenge):
                raise Refused("invalid_grant", "code_verifier does not match")
            if redirect_uri != found.redirect_uri:
                raise Refused("invalid_grant", "redirect_uri is another one")
            if self._clock() >= found.ends:
                raise Refused("invalid_grant", "the code is too old")
            return self._answer(found.access, refreshable=True)

    def refresh(self, token: str, *, client: Client) -> dict[str, object]:
        """New tokens. The old refresh token is void; shown again, it ends the whole grant."""
        with self._lock:
            self._end_if_spent(token)
            access = self._refresh.get(token)
            if access is None or access.client_id != client.id:
                raise Refused("invalid_grant", "no such refresh token")
            del self._refresh[token]
            self._spent[token] = access.id
            return self._answer(access, refreshable=True)

    def for_client(
        self, client: Client, *, scopes: tuple[str, ...], audience: str | None
    ) -> dict[str, object]:
        """The client's own token (RFC 6749 section 4.4)."""
        own = Access(secrets.token_hex(8), client.id, client.name, client.id, scopes, audience)
        with self._lock:
            return self._answer(own, refreshable=False)

    def access(self, token: str) -> Access | None:
        """What this access token stands for, while it lives."""
        with self._lock:
            access, ends = self._tokens.get(token, (None, 0.0))
            return access if self._clock() < ends else None

    def revoke(self, token: str, *, client: Client) -> None:
        """RFC 7009: a refresh token takes its access tokens with it; unknown ones are no error."""
        with self._lock:
            access = self._refresh.get(token)
            if access is not None and access.client_id == client.id:
                self._end(access.id)
            access, _ = self._tokens.get(token, (None, 0.0))
            if access is not None and access.client_id == client.id:
                del self._tokens[token]

    def _answer(self, access: Access, *, refreshable: bool) -> dict[str, object]:
        token = secrets.token_urlsafe(32)
        self._tokens[token] = access, self._clock() + ACCESS_SECONDS
        answer: dict[str, object] = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": ACCESS_SECONDS,
            "scope": " ".join(access.scopes),
        }
        if refreshable:
            refresh = answer["refresh_token"] = secrets.token_urlsafe(32)
            self._refresh[refresh] = access
        return answer

    def _end_if_spent(self, handle: str) -> None:
        if handle in self._spent:
            self._end(self._spent[handle])
            raise Refused("invalid_grant", "used before")

    def _end(self, consent: str) -> None:
        self._refresh = {t: a for t, a in self._refresh.items() if a.id != consent}
        self._tokens = {t: (a, e) for t, (a, e) in self._tokens.items() if a.id != consent}
