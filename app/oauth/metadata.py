"""What a server and its provider publish about signing in, and what of it is believed. Pure.

Protected resource metadata (RFC 9728), authorization server metadata (RFC 8414) and OpenID Connect
Discovery; the checks of oauth.md 2.2 and 2.3. Nothing is normalised that is compared by bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import strict_json
from .places import OPENID, SHOWN, Refused, check_place, could_be_issuer, covers
from .refusals import plain

ENDPOINTS = (
    *("authorization_endpoint", "token_endpoint", "registration_endpoint"),
    *("revocation_endpoint", "userinfo_endpoint"),
)
MOST = 200  # members of a list that are kept
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")


# -- the resource ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resource:
    """RFC 9728 section 2, as far as we use it."""

    resource: str
    servers: tuple[str, ...]  # issuers, those that could be one
    left_out: tuple[str, ...]  # said to be one, and is no address we may call
    scopes: tuple[str, ...]


def read_resource(body: bytes, url: str, *, at: str) -> Resource:
    """Of `url`, as published at `at`. Raises Refused: metadata_unreadable, resource_mismatch."""
    members = _members(body, at, texts=("resource",), lists=("authorization_servers", *_RESOURCE))
    named = members.get("resource")
    if not isinstance(named, str) or not covers(named, url):
        raise Refused("resource_mismatch", resource=str(named or "nothing"), url=url, place=at)
    said = tuple(dict.fromkeys(members.get("authorization_servers") or ()))[:MOST]
    servers = tuple(one for one in said if could_be_issuer(one))
    left_out = tuple(plain(one, SHOWN) for one in said if one not in servers)
    return Resource(named, servers, left_out, scopes(members.get("scopes_supported")))


_RESOURCE = ("scopes_supported", "bearer_methods_supported")


# -- the authorization server ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """RFC 8414 section 2, as far as we use it. None: not said."""

    issuer: str
    endpoints: Mapping[str, str]  # that can be called
    left_out: tuple[str, ...]  # names of those that cannot
    scopes: tuple[str, ...] | None
    grants: tuple[str, ...] | None
    responses: tuple[str, ...] | None
    challenges: tuple[str, ...] | None  # PKCE
    auth_methods: tuple[str, ...] | None
    assertion_algs: tuple[str, ...] | None
    names_itself: bool
    takes_documents: bool
    is_openid: bool
    sha256: str


_LISTS = (
    *("scopes_supported", "grant_types_supported", "response_types_supported"),
    *("code_challenge_methods_supported", "token_endpoint_auth_methods_supported"),
    "token_endpoint_auth_signing_alg_values_supported",
)
_NAMES_ITSELF = "authorization_response_iss_parameter_supported"
_TAKES_DOCUMENTS = "client_id_metadata_document_supported"


def read_server(body: bytes, issuers: Sequence[str], *, at: str) -> Server:
    """What `at` publishes, if it is of one of `issuers`, byte for byte (RFC 8414 section 3.3).

    Raises Refused: metadata_unreadable, issuer_mismatch.
    """
    flags = (_NAMES_ITSELF, _TAKES_DOCUMENTS)
    members = _members(body, at, texts=("issuer", *ENDPOINTS), lists=_LISTS, flags=flags)
    named = members.get("issuer")
    if named not in issuers:
        raise Refused("issuer_mismatch", issuer=issuers[0], found=str(named or "none"), place=at)
    said = {name: members[name] for name in ENDPOINTS if members.get(name) is not None}
    good = {name: url for name, url in said.items() if not _fault(url)}
    kept = {name: members.get(name) for name in _LISTS}
    return Server(
        issuer=str(named),
        endpoints=good,
        left_out=tuple(f"{name} {_fault(url)}" for name, url in said.items() if name not in good),
        scopes=None if kept[_LISTS[0]] is None else scopes(kept[_LISTS[0]]),
        grants=_tuple(kept["grant_types_supported"]),
        responses=_tuple(kept["response_types_supported"]),
        challenges=_tuple(kept["code_challenge_methods_supported"]),
        auth_methods=_tuple(kept["token_endpoint_auth_methods_supported"]),
        assertion_algs=_tuple(kept["token_endpoint_auth_signing_alg_values_supported"]),
        names_itself=members.get(_NAMES_ITSELF) is True,
        takes_documents=members.get(_TAKES_DOCUMENTS) is True,
        is_openid=OPENID in at or "openid" in (kept["scopes_supported"] or ()),
        sha256=hashlib.sha256(body).hexdigest(),
    )


def check_server(server: Server, *, grant: str, pkce: str) -> None:
    """Whether it is enough, and does what we need.

    Raises Refused: metadata_incomplete, grant_not_offered, pkce_not_offered. `pkce`: "required",
    or what an admin said knowingly instead (SEC-006).
    """
    is_code = grant == "authorization_code"
    needed = ("authorization_endpoint", "token_endpoint") if is_code else ("token_endpoint",)
    faults = [one for one in server.left_out if one.partition(" ")[0] in needed]
    lacks = [one for one in needed if one not in server.endpoints]
    if lacks:
        missing = ", ".join(faults or lacks)
        raise Refused("metadata_incomplete", issuer=server.issuer, missing=missing)
    wanted = {"grant_types_supported": (server.grants, grant)}
    if is_code:
        wanted["response_types_supported"] = (server.responses, "code")
    for name, (offered, ours) in wanted.items():
        if offered is not None and ours not in offered:
            said = ", ".join(offered) or "nothing"
            raise Refused(
                "grant_not_offered", issuer=server.issuer, grant=ours, offered=said, member=name
            )
    if is_code and pkce == "required" and "S256" not in (server.challenges or ()):
        said = "nothing" if server.challenges is None else ", ".join(server.challenges) or "none"
        raise Refused("pkce_not_offered", issuer=server.issuer, offered=said)


def _fault(url: str) -> str:
    """Why an endpoint cannot be called; empty: it can."""
    try:
        check_place(url)
    except Refused:
        return "is not an https address"
    return ""


# -- reading ---------------------------------------------------------------------------------------


def scopes(said: Sequence[str] | None) -> tuple[str, ...]:
    """Those that can be asked for (RFC 6749 section 3.3), each once."""
    good = (one for one in said or () if _SCOPE.fullmatch(one))
    return tuple(dict.fromkeys(good))[:MOST]


def _members(
    body: bytes,
    at: str,
    *,
    texts: Sequence[str] = (),
    lists: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """The object; what we use of it has the right type, or is not there. Raises Refused."""
    try:
        read = strict_json.loads(body.removeprefix(b"\xef\xbb\xbf"), endless=True)
    except strict_json.BadJSON as error:
        raise Refused("metadata_unreadable", place=at, hint=str(error)) from error
    if not isinstance(read, dict):
        raise Refused("metadata_unreadable", place=at, hint="It is not a JSON object.")
    for names, kind, fits in (
        (texts, "a text", _is_text),
        (lists, "a list of texts", _is_list),
        (flags, "true or false", _is_flag),
    ):
        for name in names:
            if read.get(name) is not None and not fits(read[name]):  # null: not said
                raise Refused("metadata_unreadable", place=at, hint=f"{name} is not {kind}.")
    return read


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _tuple(said: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if said is None else tuple(dict.fromkeys(said))[:MOST]


def is_document(media_type: str, body: bytes) -> bool:
    """Whether somebody meant this as JSON: a page of a web app is answered at any address."""
    return media_type.endswith("json") or body.lstrip()[:1] == b"{"
