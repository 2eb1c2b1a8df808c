"""How people sign in to an MCP server, found out from its URL (oauth.md 2.1 to 2.3).

Asked in this order: the server itself, without a token; its resource metadata; the metadata of the
authorization server that this names. Each address comes out of the answer before it, once that was
checked; no request carries a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..db import db, db_now_ms
from ..errors import UpstreamError
from ..exchanges import Exchange
from ..trust import Trust
from . import metadata, places
from .challenge import Challenge
from .discovered import Discovered
from .fetching import BODY_LIMIT, BUSY, REQUEST_S, Answer, Fetching, host
from .knocking import TURNED_AWAY, Door, knock
from .metadata import Resource, Server
from .places import Refused

ALL_S = 20.0
_ABSENT = (404, 410)
_FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
_RANK = {"issuer_mismatch": 0, "metadata_unreadable": 1}  # which of several doubts is told


class DiscoveryFailed(UpstreamError):
    """`code` says what stands in the way, `exchanges` and `hosts` what was asked until then."""

    code = "no_sign_in_info"
    exchanges: tuple[Exchange, ...] = ()
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    url: str  # as it is called
    is_open: bool  # it answered without a token
    era: str | None  # modern, legacy, sse; None: it did not say
    challenge: Challenge | None
    discovered: Discovered | None  # also of an open server, if it publishes how to sign in
    exchanges: tuple[Exchange, ...]
    notes: tuple[str, ...]  # sentences for an admin
    hosts: tuple[str, ...]  # that were asked or will be, in this order


def look(  # noqa: PLR0913  # all that may be known before
    url: str,
    *,
    trust: Trust | None = None,
    grant: str = "authorization_code",
    issuer: str | None = None,
    prefer: Sequence[str] = (),
    pkce: str = "required",
    seconds: float = ALL_S,
) -> Found:
    """What the server at `url` says about signing in. Raises DiscoveryFailed, Unsealable.

    `issuer`: pinned by an admin, so used whatever the server names; `prefer`: issuers that know us
    already, the best first; `pkce`: as in an OAuth config. Call it with no transaction open.
    """
    wanted = _Wanted(grant, issuer, tuple(prefer), pkce)
    fetching = Fetching(trust, seconds)
    try:
        return _Search(fetching, places.normalised(url), wanted).run()
    except UpstreamError as error:
        raise _failed(fetching, error) from error


def servers(found: Discovered, url: str, *, trust: Trust | None = None) -> tuple[str, ...]:
    """The issuers that the resource metadata names now: one request.

    Raises DiscoveryFailed, Unsealable; also where there is no resource metadata.
    """
    fetching = Fetching(trust, REQUEST_S)
    try:
        place = found.resource_url or ""
        places.check_place(place)
        return metadata.read_resource(_document(fetching.get(place)), url, at=place).servers
    except UpstreamError as error:
        raise _failed(fetching, error) from error


def _failed(fetching: Fetching, error: UpstreamError) -> DiscoveryFailed:
    fetching.blame(error.code)
    told = DiscoveryFailed(error.code, said=error.said, **error.facts)
    told.exchanges, told.hosts = tuple(fetching.exchanges), tuple(fetching.hosts)
    return told


@dataclass(frozen=True, slots=True)
class _Wanted:
    grant: str
    issuer: str | None
    prefer: tuple[str, ...]
    pkce: str


class _Search:
    def __init__(self, fetching: Fetching, url: str, wanted: _Wanted) -> None:
        self._fetching, self._url, self._wanted = fetching, url, wanted
        self._notes: list[str] = []
        self._began = _now_ms()

    def run(self) -> Found:
        door, found = knock(self._fetching, self._url), None
        try:
            found = self._sign_in(door)
        except UpstreamError as error:
            if not door.is_open:
                raise
            self._notes.append(f"{error.message}. {error.cause}")
        if found is None and not door.is_open:
            if door.status not in TURNED_AWAY:
                raise UpstreamError("upstream_bad_answer")
            hint = f"It answered {door.status} and published nothing."
            raise Refused("no_sign_in_info", host=host(self._url), hint=hint)
        return Found(
            url=self._url,
            is_open=door.is_open,
            era=door.era,
            challenge=door.challenge,
            discovered=found,
            exchanges=tuple(self._fetching.exchanges),
            notes=tuple(self._notes),
            hosts=tuple(self._fetching.hosts),
        )

    # -- how to sign in -----------------------------------------------------------------------

    def _sign_in(self, door: Door) -> Discovered | None:
        """None: it publishes nothing about it. Raises UpstreamError."""
        wanted = self._wanted
        resource, place = self._resource(door)
        if resource is None and wanted.issuer is None:
            return self._of_old_times(door) if door.status == 401 else None
        issuer = wanted.issuer or self._choose(resource)
        server, at = self._server((issuer,))
        metadata.check_server(server, grant=wanted.grant, pkce=wanted.pkce)
        known: dict[str, Any] = {}
        if resource is not None:
            known = {"resource_url": place, "resource": resource.resource}
            known |= {"resource_scopes": resource.scopes, "servers": resource.servers}
            if issuer not in resource.servers:
                self._notes.append(f"The server does not name {issuer}; an admin did.")
        return self._discovered(door, server, at, known)

    def _resource(self, door: Door) -> tuple[Resource | None, str | None]:
        """Its metadata, and where it stood. Where a place was named, only its absence leads on."""
        named = door.challenge.resource_metadata if door.challenge is not None else None
        if named is not None:
            places.check_place(named)
            answer = self._fetching.get(named)
            if answer.status not in _ABSENT:
                return metadata.read_resource(_document(answer), self._url, at=named), named
            self._notes.append(f"It names {named}, where there is nothing.")
        doubts: list[UpstreamError] = []
        for place in places.resource_places(self._url):
            answer = self._fetching.get(place)
            if _is_absent(answer):
                continue
            try:
                body = _document(answer)
            except UpstreamError as error:
                doubts.append(error)
            else:
                return metadata.read_resource(body, self._url, at=place), place
        if doubts:  # it may well exist: nothing else takes its place
            raise doubts[0]
        return None, None

    def _choose(self, resource: Resource | None) -> str:
        offered, left_out = (resource.servers, resource.left_out) if resource else ((), ())
        if not offered:
            hint = f"It names {left_out[0]}, which we may not call." if left_out else ""
            raise Refused("no_authorization_server", host=host(self._url), hint=hint)
        chosen = next((one for one in self._wanted.prefer if one in offered), offered[0])
        others = [one for one in offered if one != chosen]
        if others:
            self._notes.append(f"It also takes sign-ins of {', '.join(others)}.")
        return chosen

    def _server(self, issuers: Sequence[str]) -> tuple[Server, str]:
        """The first document that is of this issuer, and where it stood.

        Raises what is wrong with those that are not; without any, Refused (metadata_incomplete).
        """
        doubts: list[UpstreamError] = []
        tried = places.server_places(issuers[0])
        for place in tried:
            answer = self._fetching.get(place)
            if _is_absent(answer):
                continue
            try:
                return metadata.read_server(_document(answer), issuers, at=place), place
            except UpstreamError as error:
                doubts.append(error)
        if doubts:
            raise min(doubts, key=lambda error: _RANK.get(error.code, len(_RANK)))
        missing = f"all of it; no document stands at {', '.join(tried)}"
        raise Refused("metadata_incomplete", issuer=issuers[0], missing=missing)

    def _of_old_times(self, door: Door) -> Discovered | None:
        """A server of 2025-03-26 is its own authorization server. None: this is none of them."""
        issuers = places.own_issuers(self._url)
        try:
            server, at = self._server(issuers)
        except Refused as refused:
            if refused.code != "metadata_incomplete":
                raise
        else:
            metadata.check_server(server, grant=self._wanted.grant, pkce=self._wanted.pkce)
            self._notes.append("It names no sign-in provider, so it is its own.")
            return self._discovered(door, server, at, {})
        if not self._answers_as_assumed():
            return None
        self._notes.append("It publishes nothing, so we assume its own address.")
        return Discovered(
            issuer=issuers[0],
            fetched_ms=self._began,
            challenge_scopes=door.scopes,
            **places.assumed(self._url),
        )

    def _answers_as_assumed(self) -> bool:
        """Whether something stands at the fixed paths. Nothing is sent there, not even a name."""
        assumed = places.assumed(self._url)
        if self._wanted.grant == "authorization_code":
            if self._fetching.get(assumed["authorization_endpoint"]).status in _ABSENT:
                return False
        answer = self._fetching.ask("POST", assumed["token_endpoint"], b"", _FORM)
        return answer.status not in _ABSENT

    def _discovered(
        self, door: Door, server: Server, at: str, known: Mapping[str, Any]
    ) -> Discovered:
        endpoints: Mapping[str, Any] = server.endpoints
        self._notes += [f"Left out: {one}." for one in server.left_out]
        for place in endpoints.values():
            self._fetching.hosts.setdefault(host(place))
        away = endpoints.get("authorization_endpoint")
        if away is not None and host(away) != host(self._url):
            self._notes.append(f"People will be sent to {host(away)}.")
        return Discovered(
            issuer=server.issuer,
            fetched_ms=self._began,
            challenge_scopes=door.scopes,
            metadata_url=at,
            scopes_offered=server.scopes,
            auth_methods=server.auth_methods,
            assertion_algs=server.assertion_algs,
            grants=server.grants,
            has_s256="S256" in (server.challenges or ()),
            names_itself=server.names_itself,
            takes_documents=server.takes_documents,
            is_openid=server.is_openid,
            sha256=server.sha256,
            life_s=self._fetching.life_s,
            **endpoints,
            **known,
        )


def _is_absent(answer: Answer) -> bool:
    """Whether nobody published anything here: refused, or the page that a web app shows anywhere.

    A place that moved, or that fails, may hold something.
    """
    if answer.status == 200:
        return answer.is_whole and not metadata.is_document(answer.media_type, answer.body)
    return 400 <= answer.status < 500 and answer.status not in BUSY


def _document(answer: Answer) -> bytes:
    """Raises Refused (metadata_unreadable), and UpstreamError (provider_error) for an outage."""
    if answer.status == 200 and answer.is_whole:
        return answer.body
    if answer.status >= 500 or answer.status in BUSY:
        raise UpstreamError("provider_error", host=host(answer.url))
    hint = f"It answered {answer.status}."
    if answer.status == 200:
        hint = f"It is larger than {BODY_LIMIT // 1024} KiB."
    elif 300 <= answer.status < 400:
        hint = f"It redirects to {answer.headers.get('Location')}, and that is not followed."
    raise Refused("metadata_unreadable", place=answer.url, hint=hint)


def _now_ms() -> int:
    with db.engine.connect() as link:
        now: int = link.execute(sa.select(db_now_ms())).scalar_one()
        return now
