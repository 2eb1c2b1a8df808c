"""Addresses that lead from an MCP server to its sign-in: where documents stand, what covers what.

Pure (RFC 8414 section 3, RFC 9728 section 3). Nothing is normalised that is compared by bytes.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

from ..addresses import Blocked, check_url
from ..edits import origin
from ..errors import UpstreamError
from .refusals import plain

RESOURCE = "/.well-known/oauth-protected-resource"
SERVER = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"
SHOWN = 200  # characters of what they say that an error quotes
_PORTS = {"https": 443, "http": 80}


class Refused(UpstreamError):
    """What was read is not believed. Its facts are theirs: one line each, to be escaped."""

    def __init__(self, code: str, **facts: str) -> None:
        for ours in {"url", "place"} & facts.keys():
            facts[ours] = facts[ours].partition("?")[0]  # where some servers keep a key
        super().__init__(code, **{name: plain(said, 2 * SHOWN) for name, said in facts.items()})


def normalised(url: str) -> str:
    """As we call it: no spaces around, no fragment, host in small letters, no default port.

    Path and query stay byte for byte. Raises Refused (blocked_address).
    """
    url = url.strip().partition("#")[0]
    check_place(url)
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
    rest = url[url.index("//") + 2 + len(parts.netloc) :]
    return f"{parts.scheme}://{host}{port}{rest}"


def check_place(url: str) -> None:
    """Raises Refused (blocked_address) for what may not be called, or could be read in two ways."""
    try:
        check_url(url)
        is_plain = not re.search(r"[^\x21-\x7e]", url) and not _climbs(urlsplit(url).path)
    except Blocked:
        is_plain = False
    if not is_plain:
        raise Refused("blocked_address", host=url.partition("?")[0])


def _climbs(path: str) -> bool:
    """Whether somebody on the way may shorten it: then it is not the path that was checked."""
    pieces = re.split("/|%2f", path, flags=re.IGNORECASE)
    return any(unquote(piece) in (".", "..") for piece in pieces)


def resource_places(url: str) -> tuple[str, ...]:
    """Where its resource metadata may stand, if nobody named a place (RFC 9728 section 3.1)."""
    parts = urlsplit(url)
    path = parts.path.removesuffix("/")
    root = f"{parts.scheme}://{parts.netloc}{RESOURCE}"
    query = f"?{parts.query}" if parts.query else ""
    return (f"{root}{path}{query}", root) if path or query else (root,)


def server_places(issuer: str) -> tuple[str, ...]:
    """Where the metadata of an issuer may stand (RFC 8414 section 3, OpenID Discovery 4).

    The root is never asked for an issuer with a path: others may live there.
    """
    parts = urlsplit(issuer)
    root, path = f"{parts.scheme}://{parts.netloc}", parts.path.removesuffix("/")
    if not path:
        return f"{root}{SERVER}", f"{root}{OPENID}"
    return f"{root}{SERVER}{path}", f"{root}{OPENID}{path}", f"{root}{path}{OPENID}"


def own_issuers(url: str) -> tuple[str, str]:
    """A server of 2025-03-26 is its own authorization server; both spellings have one place."""
    parts = urlsplit(url)
    root = f"{parts.scheme}://{parts.netloc}"
    return root, f"{root}/"


def assumed(url: str) -> dict[str, Any]:
    """The endpoints of such a server, if it publishes none."""
    root = own_issuers(url)[0]
    return {
        "authorization_endpoint": f"{root}/authorize",
        "token_endpoint": f"{root}/token",
        "registration_endpoint": f"{root}/register",
    }


def covers(resource: str, url: str) -> bool:
    """Same scheme, host and port; its path is the URL's, or a parent of it at a slash."""
    try:
        theirs, ours = urlsplit(resource), urlsplit(url)
        same = origin(resource) == origin(url)
        theirs_port = theirs.port
    except ValueError:
        return False
    if not same or theirs_port == 0 or theirs.username is not None:
        return False
    if re.search(r"[^\x21-\x7e]|#", resource):  # it is sent as it is
        return False
    if _climbs(theirs.path) or theirs.query not in ("", ours.query):
        return False
    base, path = theirs.path.removesuffix("/"), ours.path
    return path in (base, f"{base}/") or path.startswith(f"{base}/")


def could_be_issuer(text: str) -> bool:
    """RFC 8414 section 2: an address without query and fragment."""
    try:
        check_place(text)
    except Refused:
        return False
    return "?" not in text and "#" not in text
