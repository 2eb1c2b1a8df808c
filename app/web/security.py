"""What every answer carries, and which requests are for us at all."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, Response, current_app, request

from ..errors import Forbidden

CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}


def register(app: Flask) -> None:
    public = urlsplit(app.config["PUBLIC_URL"])
    app.extensions["public_host"] = public.netloc
    app.before_request(refuse_foreign_hosts)
    app.after_request(add_headers)


def refuse_foreign_hosts() -> None:
    """A missing or foreign Host is refused (SEC-098); health checks come by address, so they pass.

    On this machine any of its own names will do, as long as the port is ours.
    """
    ours: str = current_app.extensions["public_host"]
    host = request.environ.get("HTTP_HOST", "")
    if host == ours or request.path in ("/health", "/ready"):
        return
    name, _, port = ours.rpartition(":") if ":" in ours.rpartition("]")[2] else (ours, "", "")
    asked, _, asked_port = (
        host.rpartition(":") if ":" in host.rpartition("]")[2] else (host, "", "")
    )
    if name in _LOOPBACK and asked in _LOOPBACK and port == asked_port:
        return
    raise Forbidden("wrong_host", host=host[:100], public_url=current_app.config["PUBLIC_URL"])


def add_headers(reply: Response) -> Response:
    """SEC-054, SEC-055. A page may have set a stricter Referrer-Policy of its own."""
    headers = reply.headers
    headers.setdefault("Content-Security-Policy", CSP)
    headers.setdefault("X-Content-Type-Options", "nosniff")
    # Not no-referrer: Flask-WTF on https refuses a form without a Referer.
    headers.setdefault("Referrer-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    if request.endpoint != "static":
        headers.setdefault("Cache-Control", "no-store")
    if current_app.config["PUBLIC_URL"].startswith("https://"):
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    return reply
