"""A gateway tried step by step, the way a call goes, until one step fails (ui.md section 8).

Each step asks at most once: a refusal of a token endpoint is never asked for again, and no code is
sent twice. No transaction is open while somebody else's server is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from flask import current_app

from . import access, egress, exchanges, last_sign_in
from .access import Caller, Seen, Usable, UsableConfig
from .audit import SYSTEM, Actor
from .db import db, recent
from .doubts import check_scheme, clock_off, doubts_about
from .errors import (
    AppError,
    Conflict,
    ConnectionNeeded,
    UpstreamError,
    UpstreamTimeout,
    code_of,
)
from .exchanges import Exchange
from .mcp import greeting
from .mcp.greeting import Greeting, Watched
from .mcp.upstream import within
from .oauth import discovery, rediscovery, registering, registration, tokens, trying
from .oauth.client import OAuthClient
from .oauth.discovered import contradiction, needs_metadata
from .oauth.discovery import DiscoveryFailed, Found
from .oauth.replies import TokenSet
from .oauth.tokens import Credential
from .states import LIVING
from .steps import KEYS, LAST, Next, State, Step, failed, next_for

ALL_S, STEP_S = 20.0, 5.0
CLOCK_S = 60.0
ENDS_SOON = timedelta(days=21)
WAITS = 5  # the step before which a person may have to connect first
_DOUBTS = (  # of what is published, where all that is needed was typed
    *("no_sign_in_info", "no_authorization_server", "metadata_incomplete"),
    *("metadata_unreadable", "pkce_not_offered", "grant_not_offered", "resource_mismatch"),
)


def run(  # noqa: PLR0913  # who asks, and where to go on
    gateway: Usable,
    caller: Caller,
    *,
    first: int = 0,
    given: TokenSet | None = None,
    seconds: float = ALL_S,
    by: Actor = SYSTEM,
) -> Iterator[Step]:
    """The steps, each as it is done. Ends after one that is "bad" (the rest is "skipped") or
    "waiting": then the caller has to connect, and a check from that step on, its number as
    `first`, goes on with their connection, or with what they were `given`.

    Whoever drops it early ends it. Commits when the client was tried last, and a client that was
    made because there was none: as for whoever connects first, and that may take longer.
    """
    work = _Check(gateway, caller, given, time.monotonic() + seconds, by)
    for number in range(first, LAST + 1):
        step = work.step(number)
        yield step
        if step.state == "waiting":
            return
        if step.state == "bad":
            yield from (
                Step(number=later, state="skipped") for later in range(number + 1, LAST + 1)
            )
            return


class _Check:
    def __init__(
        self, gateway: Usable, caller: Caller, given: TokenSet | None, ends: float, by: Actor
    ) -> None:
        self._gateway, self._caller, self._ends, self._by = gateway, caller, ends, by
        self._config: UsableConfig | None = gateway.config
        self._tokens = given  # got in step 4, or by who just connected; forgotten at the end
        self._asked: list[Exchange] = []
        self._op: Watched | None = None

    def step(self, number: int) -> Step:
        acts: dict[str, Callable[[], Step]] = {
            "settings": self._settings,
            "find": self._find,
            "connect": self._connect,
            "oauth": self._oauth,
            "token": self._token,
            "scopes": self._scopes,
            "session": self._session,
            "tools": self._tools,
        }
        self._asked, began = [], time.monotonic()
        db.session.rollback()  # whatever was read before: a server is asked now
        try:
            done = acts[KEYS[number]]()
        except AppError as error:
            done = self._failed(number, error)
        took = int((time.monotonic() - began) * 1000)
        return replace(done, took_ms=took, exchanges=tuple(self._asked))

    def _failed(self, number: int, error: AppError) -> Step:
        is_oauth = KEYS[number] in ("oauth", "token") and self._config is not None
        spec = self._config.spec if self._config is not None else None
        url = (spec.token_url if is_oauth and spec else None) or self._gateway.url
        ended = code_of(error.reason) if isinstance(error, ConnectionNeeded) else None
        if ended is not None:  # just now, by what this step was told
            error = AppError(ended, said=error.said, **error.facts)
        if error.code == "redirect_not_registered" and spec is not None:
            error.facts["redirect"] = registration.redirect_uri(spec, self._gateway.slug)
        return failed(number, error, self._gateway.slug, host=urlsplit(url).hostname or "")

    def _left(self) -> float:
        """Seconds for this step. Raises UpstreamTimeout."""
        left = min(STEP_S, self._ends - time.monotonic())
        if left <= 0:
            raise UpstreamTimeout("timeout", host=urlsplit(self._gateway.url).hostname or "")
        return left

    # -- before the network ------------------------------------------------------------------------

    def _settings(self) -> Step:
        check_scheme(self._gateway.url)
        if self._config is None:
            if self._gateway.auth_type == "oauth":
                raise Conflict("client_needed")
            tokens.credential(self._caller, self._gateway)  # opens what an admin typed
            return Step(number=0, state="ok", says="Nothing stands against it.")
        spec = self._config.spec
        for url in filter(None, (spec.authorization_url, spec.token_url)):
            check_scheme(url)
        if (drift := _drift(self._config, self._gateway.slug)) is not None:
            return drift
        is_found = needs_metadata(spec) or self._config.found is not None
        if self._config.registration_id is None and is_found:
            return Step(number=0, state="ok", says="It is found out as people connect.")
        us = registration.client_for(self._config.registration_id, spec).registration
        doubts = list(doubts_about(us.client_id, us.client_secret, spec.scopes or []))
        if spec.token_url is not None and spec.token_url == spec.authorization_url:
            doubts.append("Token URL and authorization URL are the same.")
        if doubts:
            link = f"/admin/gateways/{self._gateway.slug}/edit"
            return Step(
                number=0,
                state="warn",
                says=doubts[0],
                notes=tuple(doubts[1:]),
                next=Next("Edit the gateway", link),
            )
        return Step(number=0, state="ok", says="Nothing stands against them.")

    # -- the server --------------------------------------------------------------------------------

    def _find(self) -> Step:
        self._left()
        return Step(number=1, state="ok", says=egress.resolve(self._gateway.url))

    def _connect(self) -> Step:
        peer = egress.greet(self._gateway.url, self._gateway.trust, self._left())
        if peer.ends is None:
            return Step(number=2, state="ok", says="Without TLS, as on this machine.")
        day = f"{peer.ends.day} {peer.ends:%b %Y}"
        if peer.ends - datetime.now(UTC) < ENDS_SOON:
            says = f"The certificate ends soon: {day}. Renew it."
            return Step(number=2, state="warn", says=says)
        return Step(number=2, state="ok", says=f"Certificate valid to {day}.")

    # -- its provider ------------------------------------------------------------------------------

    def _oauth(self) -> Step:
        if self._config is None:
            return Step(number=3, state="skipped", says="It signs in without OAuth.")
        spec = self._config.spec
        try:
            found = discovery.look(
                self._gateway.url,
                trust=self._gateway.trust,
                grant=spec.grant_type,
                issuer=spec.issuer,
                pkce=spec.pkce,
                seconds=self._left(),
            )
        except DiscoveryFailed as error:
            self._asked = _masked(error.exchanges)
            if error.code in _DOUBTS and not needs_metadata(spec):
                return self._typed(error)
            raise
        self._asked = _masked(found.exchanges)
        return self._compared(found)

    def _typed(self, error: DiscoveryFailed) -> Step:
        """An admin typed all that is needed, so what is not published stands in nobody's way."""
        if error.code in ("no_sign_in_info", "no_authorization_server"):
            return self._clocked("Nothing is published, so what was typed counts.")
        done = self._failed(3, error)
        return replace(done, state="warn", notes=(*self._clock(), "What was typed counts."))

    def _compared(self, found: Found) -> Step:
        config, notes = self._config, (*self._clock(), *found.notes)
        if config is None or found.discovered is None:
            says = "It answers without a sign-in." if found.is_open else "Nothing is published."
            return Step(number=3, state="warn" if found.is_open else "ok", says=says, notes=notes)
        said = found.discovered
        if said.metadata_url is None:
            says = "Nothing is published, so what was typed counts."
            if needs_metadata(config.spec):
                says = "Nothing is published, so the server's own address is assumed."
            return self._clocked(says)
        state: State = "warn"
        differs = contradiction(config.spec, said)
        if differs is not None:
            theirs = {"issuer": said.issuer, "token_url": said.token_endpoint}
            facts = {"field": differs, "what": differs.replace("_", " ").replace("url", "URL")}
            facts |= {"typed": str(getattr(config.spec, differs))}
            facts |= {"published": str(theirs.get(differs, said.authorization_endpoint))}
            done = self._failed(3, UpstreamError("endpoint_differs", **facts))
            says = f"{done.says}: {facts['published']} is published."
            state = "bad" if differs == "issuer" else "warn"
            return replace(done, says=says, state=state, notes=notes)
        host = urlsplit(said.issuer).netloc
        says = f"{host}, {'supports PKCE' if said.has_s256 else 'does not promise PKCE'}."
        lacks = not said.has_s256 and not config.is_shared and config.spec.pkce != "off"
        state = "warn" if self._clock() or lacks else "ok"
        return Step(number=3, state=state, says=says, notes=notes)

    def _clocked(self, says: str) -> Step:
        notes = self._clock()
        return Step(number=3, state="warn" if notes else "ok", says=says, notes=notes)

    def _clock(self) -> tuple[str, ...]:
        """By what the answers said of the time."""
        offs = [off for one in self._asked if (off := clock_off(one.got, time.time())) is not None]
        if not offs or min(map(abs, offs)) <= CLOCK_S:
            return ()
        return (f"The clocks differ by {abs(min(offs, key=abs)):.0f} seconds. Set the clock here.",)

    # -- a token -----------------------------------------------------------------------------------

    def _token(self) -> Step:
        if self._config is None:
            return Step(number=4, state="skipped", says="It signs in without OAuth.")
        config = self._known(self._config)
        if config.registration_id is None and not config.is_shared:
            config = self._enrolled(config)
        client = trying.client(config, self._left(), self._asked.append)
        resource = registration.resource_of(config.spec, self._gateway.url)
        if not config.is_shared:
            return self._probed(config, client, resource)
        self._tokens = client.client_credentials(scopes=config.spec.scopes, resource=resource)
        return Step(number=4, state="ok", says=f"Token received{_ends(self._tokens)}.")

    def _known(self, config: UsableConfig) -> UsableConfig:
        """The config once its provider is known and knows us, as before anybody is sent there."""
        self._left()
        if config.is_shared and config.registration_id is not None:
            return config
        rediscovery.fresh(config.id)
        registering.ready(config.id, by=self._by)
        recent().clear()  # some of it is written past the session
        self._gateway = access.checkable(self._caller, self._gateway.slug)
        if self._gateway.config is None:
            raise Conflict("config_changed")
        self._config = self._gateway.config
        return self._config

    def _enrolled(self, config: UsableConfig) -> UsableConfig:
        """With a client at its provider, made as for the first who connects. Commits."""
        registering.ready(config.id, by=SYSTEM)
        self._gateway = access.usable(self._caller, self._gateway.slug).for_config(config.id)
        self._config = self._gateway.config
        return self._config or config

    def _probed(self, config: UsableConfig, client: OAuthClient, resource: str | None) -> Step:
        if not trying.may_probe(self._gateway.id, config.registration_id):
            says = "Not tried: it was just now, or this gateway does not want it."
            return Step(number=4, state="ok", says=says)
        takes, said = trying.accepts(client, resource)
        if takes:
            return Step(number=4, state="ok", says="The client is accepted.")
        says = "Could not tell whether the client is good. The first sign-in will show."
        return Step(number=4, state="warn", says=says, said=said)

    def _scopes(self) -> Step:
        config = self._config
        if config is None:
            return Step(number=5, state="skipped", says="It signs in without OAuth.")
        asked, granted = config.spec.scopes or [], None
        if self._tokens is not None:
            granted = None if self._tokens.scopes is None else list(self._tokens.scopes)
        elif not config.is_shared:
            self._gateway = replace(
                self._gateway, connection=access.seen(config.id, self._gateway.owner_key)
            )
            mine = self._gateway.connection
            if mine is None or mine.state not in LIVING or not config.spec.stores:
                return self._waiting(config, mine)
            held = access.standing(self._caller, self._gateway.slug, even_off=True).held
            granted = held.scopes_granted if held is not None else None
            renews = config.spec.token_management.auto_refresh  # else no such token is kept
            if held and renews and held.expires_ms is not None and not held.has_refresh:
                return self._doubt("no_refresh_token")
        missing = [one for one in asked if granted and one not in granted]
        if missing:
            done = self._doubt("scope_narrowed", scope=" ".join(missing))
            return replace(done, says=f"Not granted: {' '.join(missing)}.")
        says = f"As asked: {' '.join(asked)}." if asked else "None were asked for."
        return Step(number=5, state="ok", says=says)

    def _doubt(self, code: str, **facts: str) -> Step:
        error = AppError(code, **facts)
        return failed(5, error, self._gateway.slug, state="warn")

    def _waiting(self, config: UsableConfig, mine: Seen | None) -> Step:
        """With why this connection has ended, or what stopped whoever tried last."""
        slug, says = self._gateway.slug, "To go on, connect your own account."
        waits = Step(number=5, state="waiting", says=says, next=next_for("connection_needed", slug))
        reason = mine.reason if mine is not None and mine.state not in LIVING else None
        code = code_of(reason) or last_sign_in.refusal(self._gateway.id)
        if code is None:
            return waits
        minutes = current_app.config["OAUTH_STATE_EXPIRY"] // 60
        facts: dict[str, str | int] = {"gateway": slug, "minutes": minutes}
        facts |= {"host": urlsplit(config.spec.authorization_url or "").hostname or slug}
        if code.startswith("redirect_"):
            facts["redirect"] = registration.callback_uri()
        waits = replace(waits, code=code, facts=facts, next=next_for(code, slug) or waits.next)
        heading = waits.error.message if waits.error else code
        return replace(waits, notes=(f"The last sign-in stopped: {heading}.",))

    # -- MCP ---------------------------------------------------------------------------------------

    def _session(self) -> Step:
        given: Credential | None = None
        if self._tokens is not None:
            given = tokens.from_tokens(self._tokens)
        with within(self._left()):
            self._op = Watched(self._caller, self._gateway, self._asked.append, given=given)
            try:
                met = greeting.greet(self._op)
            except UpstreamError as error:
                if error.code != "upstream_bad_answer" or error.step:
                    raise
                done = self._failed(6, error)
                says = "It did not answer as an MCP server. Is the path right? Usual: /mcp"
                return replace(done, says=says)
        return Step(number=6, state="ok", says=_introduced(met))

    def _tools(self) -> Step:
        if self._op is None:  # step 6 comes before
            raise Conflict
        with within(self._left()):
            found = greeting.list_tools(self._op)
            with suppress(UpstreamError):
                greeting.part(self._op)
        if not found:
            return Step(number=7, state="warn", says="It lists no tools.")
        many = "1 tool" if len(found) == 1 else f"{len(found)} tools"
        return Step(number=7, state="ok", says=f"{many}.")


def _drift(config: UsableConfig, slug: str) -> Step | None:
    """A doubt whether its provider sends people back here. Raises Conflict (redirect_foreign)."""
    if config.is_shared:
        return None
    today = registration.redirect_uri(config.spec, slug)
    if registration.drifted_from(config.registration_id, today) is None:
        return None
    return failed(0, AppError("redirect_drift", redirect=today), slug, state="warn")


def _masked(asked: Iterable[Exchange]) -> list[Exchange]:
    return [replace(one, got=exchanges.masked(one.got)) for one in asked]


def _ends(got: TokenSet) -> str:
    if got.expires_in is None:
        return ", without a word on when it ends"
    minutes = int(got.expires_in // 60)
    return f", ends in {minutes} min" if minutes else f", ends in {got.expires_in:.0f} s"


def _introduced(met: Greeting) -> str:
    who = " ".join(filter(None, (met.name, met.version))) or "It gives no name"
    return f"{who}, protocol {met.protocol}."
