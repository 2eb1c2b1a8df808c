"""What a server and its provider said of themselves, and what that makes of a config. Pure.

Kept in `OAuthConfig.discovered` as JSON. What an admin typed always wins (oauth.md 2.3, 2.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ..specs import OAuthConfigSpec, Offline

OFFLINE = "offline_access"  # the scope of OpenID Connect Core 11
PUBLISHED_AS = {  # of a config -> of the metadata
    "issuer": "issuer",
    "authorization_url": "authorization_endpoint",
    "token_url": "token_endpoint",
    "revocation_url": "revocation_endpoint",
    "userinfo_url": "userinfo_endpoint",
}


_SAME = ("issuer", "authorization_url", "token_url")


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """Protected resource metadata (RFC 9728) and authorization server metadata (RFC 8414).

    None: not said. Tuples are in the order of the document.
    """

    issuer: str
    fetched_ms: int  # by the database's clock
    resource_url: str | None = None  # where the resource metadata stood; None: there is none
    resource: str | None = None
    resource_scopes: tuple[str, ...] = ()
    challenge_scopes: tuple[str, ...] = ()  # of the 401
    servers: tuple[str, ...] = ()  # issuers that the resource names
    metadata_url: str | None = None  # None: nothing is published, endpoints are assumed
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    registration_endpoint: str | None = None
    revocation_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    scopes_offered: tuple[str, ...] | None = None
    auth_methods: tuple[str, ...] | None = None
    assertion_algs: tuple[str, ...] | None = None
    grants: tuple[str, ...] | None = None
    has_s256: bool = False
    names_itself: bool = False  # in its answer (RFC 9207)
    takes_documents: bool = False  # client id metadata documents
    is_openid: bool = False
    sha256: str = ""  # of the server's document
    life_s: int = 3600  # for how long it is good, as it says itself

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, kept: Mapping[str, Any] | None) -> Self | None:
        """What another release wrote beside it is left out."""
        if not kept:
            return None
        names = {one.name for one in fields(cls)}
        lists = {name: tuple(value) for name, value in kept.items() if isinstance(value, list)}
        return cls(**{name: one for name, one in {**kept, **lists}.items() if name in names})


def spec_of(settings: Mapping[str, Any], kept: Mapping[str, Any] | None) -> OAuthConfigSpec:
    """A config as it works: what the admin said, and where nothing was said, what was found."""
    return both_of(settings, kept)[0]


def both_of(
    settings: Mapping[str, Any], kept: Mapping[str, Any] | None
) -> tuple[OAuthConfigSpec, Discovered | None]:
    """The config as it works, and what was found, if it is about the provider that was typed."""
    spec, found = OAuthConfigSpec.model_validate(settings), Discovered.of(kept)
    if found is None or contradiction(spec, found) is not None:
        return spec, None
    return effective(spec, found), found


def contradiction(spec: OAuthConfigSpec, found: Discovered) -> str | None:
    """The first field that an admin typed and that is published otherwise; None: there is none.

    Typed and published endpoints are never mixed: of two providers, one would get the codes of the
    other.
    """
    for ours in _SAME:
        typed = getattr(spec, ours)
        if typed is not None and typed != getattr(found, PUBLISHED_AS[ours]):
            return ours
    return None


def needs_metadata(spec: OAuthConfigSpec) -> bool:
    """Whether an admin left out what only the provider can say."""
    is_code = spec.grant_type == "authorization_code"
    return spec.token_url is None or (is_code and spec.authorization_url is None)


def effective(spec: OAuthConfigSpec, found: Discovered) -> OAuthConfigSpec:
    changes: dict[str, Any] = {
        ours: getattr(found, theirs)
        for ours, theirs in PUBLISHED_AS.items()
        if getattr(spec, ours) is None
    }
    if spec.resource == "auto" and found.resource is not None:
        changes["resource"] = found.resource  # verbatim (RFC 9728 section 7.3)
    if spec.scopes is None:
        changes["scopes"] = list(found.challenge_scopes or found.resource_scopes) or None
    if spec.offline is None and OFFLINE in (found.scopes_offered or ()):
        params = {"prompt": "consent"} if found.is_openid else {}
        changes["offline"] = Offline(scopes=[OFFLINE], params=params)
    if spec.token_endpoint_auth_method == "auto":  # noqa: S105  # a name
        changes["token_endpoint_auth_method"] = _method(found)
    return spec.model_copy(update=changes)


def _method(found: Discovered) -> str:
    """What `auto` comes to there; registration.method_of looks at what the client has, too.

    private_key_jwt: and a client with a secret sends it by `post`, as Basic is not listed.
    """
    listed = found.auth_methods
    if listed is None:  # which means Basic (RFC 8414 section 2); who has a key alone may try it
        return "auto"
    takes_basic = "client_secret_basic" in listed
    if "private_key_jwt" in listed:
        return "auto" if takes_basic else "private_key_jwt"
    return "basic" if takes_basic else "post"
