"""Where a request comes from, and where a browser may go on to."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urlsplit

from flask import Flask, current_app, request

_OWN_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")  # printable ASCII without a backslash
_NO_PAGES = ("/login", "/logout", "/setup")  # to end up at


def register(app: Flask) -> None:
    proxies = app.config["TRUSTED_PROXIES"]
    app.extensions["trusted_proxies"] = [ipaddress.ip_network(text) for text in proxies]


def own_path(text: str | None) -> str:
    """`text` if it is a path of our own origin for every browser, else / (SEC-029)."""
    path = (text or "").partition("?")[0]
    good = _OWN_PATH.fullmatch(text or "") and "//" not in path and path not in _NO_PAGES
    return text if text and good else "/"


def here() -> str:
    """This page, to come back to: of a form that was sent, the page that held it."""
    if request.method in ("GET", "HEAD"):
        query = request.query_string.decode("ascii", "replace")
        return own_path(quote(request.path) + ("?" + query if query else ""))
    came_from = urlsplit(request.referrer or "")
    return own_path(came_from.path) if came_from.netloc == request.host else "/"


def address() -> str:
    """Whose connection this is. X-Forwarded-For counts only behind TRUSTED_PROXIES (SEC-037).

    Of its entries the last one that is no proxy of ours: those before it anybody can write.
    """
    said = request.headers.get("X-Forwarded-For", "").split(",")
    hops = [request.remote_addr or "", *(hop.strip() for hop in reversed(said) if hop.strip())]
    for nearer, hop in zip(hops, hops[1:], strict=False):
        if not _is_proxy(nearer) or _ip(hop) is None:
            return nearer
    return hops[-1]


def _is_proxy(hop: str) -> bool:
    ip = _ip(hop)
    proxies = current_app.extensions["trusted_proxies"]
    return ip is not None and any(ip in proxy for proxy in proxies)


def _ip(hop: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(hop)
    except ValueError:
        return None
