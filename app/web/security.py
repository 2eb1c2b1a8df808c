"""What every answer carries, and which requests are for us at all."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import RequestEntityTooLarge

from .. import opening
from ..errors import AppError, Forbidden

CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = (
    ("Content-Security-Policy", CSP),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),  # not no-referrer: Flask-WTF refuses a form without one
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}
BY_ADDRESS = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?")


class Malformed(AppError):
    """No call of anybody yet, so under /mcp too it is a plain 400."""

    code, rpc = "bad_request", False


def register(app: Flask) -> None:
    public = urlsplit(app.config["PUBLIC_URL"])
    app.extensions["public_host"] = public.netloc
    app.before_request(open_database)
    app.before_request(refuse_foreign_hosts)
    app.before_request(refuse_forms_without_length)
    app.before_request(refuse_nul)
    app.after_request(add_headers)


def open_database() -> None:
    """What a start could not do. Whether we are alive does not depend on it. Raises Busy."""
    if request.path != "/health" and request.endpoint != "static":
        opening.see_to_it()


def refuse_foreign_hosts() -> None:
    """A missing or foreign Host is refused (SEC-098); health checks come by address, so they pass.

    On this machine any of its own names will do, as long as the port is ours.
    """
    ours: str = current_app.extensions["public_host"]
    if not request.environ.get("RAW_URI", "/").startswith(("/", "*")):
        raise Malformed  # absolute-form: it may name another server than Host does
    host = request.environ.get("HTTP_HOST", "")
    if host == ours or request.path in ("/health", "/ready"):
        return
    if request.path in ("/metrics", "/version") and BY_ADDRESS.fullmatch(host):
        return  # they are asked by address, too, and look at who asks
    name, _, port = ours.rpartition(":") if ":" in ours.rpartition("]")[2] else (ours, "", "")
    asked, _, asked_port = (
        host.rpartition(":") if ":" in host.rpartition("]")[2] else (host, "", "")
    )
    if name in _LOOPBACK and asked in _LOOPBACK and port == asked_port:
        return
    raise Forbidden("wrong_host", host=host[:100], public_url=current_app.config["PUBLIC_URL"])


def refuse_forms_without_length() -> None:
    """Werkzeug cuts a chunked form at the limit without a word. Browsers send none."""
    if "HTTP_TRANSFER_ENCODING" in request.environ and request.content_length is None:
        if not request.path.startswith(("/mcp", "/api/")):  # body() reads those
            raise RequestEntityTooLarge


def refuse_nul() -> None:
    """No text of ours holds the character NUL, and PostgreSQL takes none."""
    found = "\0" in request.path or b"%00" in request.query_string
    if not found and not request.path.startswith(("/mcp", "/api/")):  # which read no forms
        found = any("\0" in text for _, text in request.form.items(multi=True))
    if found:
        raise Malformed


def body() -> bytes:
    """What was sent, whole. Raises AppError (too_large).

    Werkzeug refuses a length over the limit, but cuts a chunked body there without a word.
    """
    most = current_app.config["MAX_BODY_BYTES"]
    if request.content_length is None:
        request.max_content_length = most + 1
    raw = request.get_data(cache=False)
    if len(raw) > most:
        raise RequestEntityTooLarge
    return raw


def add_headers(reply: Response) -> Response:
    """SEC-054, SEC-055. A page may have set a stricter Referrer-Policy of its own."""
    there = {name.lower() for name in reply.headers.keys()}  # one look: setdefault takes one each
    for name, value in _HEADERS:
        if name.lower() not in there:
            reply.headers.add(name, value)
    if request.endpoint != "static":
        reply.headers.setdefault("Cache-Control", "no-store")
    if current_app.config["PUBLIC_URL"].startswith("https://"):
        reply.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    return reply
