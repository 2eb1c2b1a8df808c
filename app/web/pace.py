"""Who asks too often is asked to wait: 429 with Retry-After (SEC-101)."""

from __future__ import annotations

import ipaddress
import time

from flask import Response, after_this_request, current_app, request

from .. import api_tokens, limits
from ..access import Caller
from ..errors import Busy
from . import where

_refused: dict[str, float] = {}  # address -> until when this process asks no database, monotonic


def count(caller: Caller | None) -> None:
    """This request, under its API token, its person and its address. Raises Busy."""
    rates = limits.rates()
    if rates.is_due():
        _share_afterwards(rates)
    keys = [("address", _network())]
    if caller is not None:
        keys.append(("person", caller.user_id))
        if caller.token_id is not None:
            keys.append(("token", caller.token_id))
    rates.count(keys)


def refuse_guesses(shown: str) -> None:
    """Raises Busy where too many wrong API tokens came from, but not to a token that is known."""
    if not _refused or not api_tokens.looks_right(shown):
        return
    left = _refused.get(_network(), 0.0) - time.monotonic()
    if left > 0 and not api_tokens.is_known(shown):
        raise Busy("too_many_requests", retry_after=int(left) + 1)


def note_guess(shown: str) -> None:
    """A wrong API token, counted for all workers. Raises Busy for one too many. Commits."""
    most = current_app.config["RATE_LIMIT_WRONG_TOKENS"]
    if not most or not api_tokens.looks_right(shown):
        return
    try:
        limits.strictly("wrong_token", _network(), most=most)
    except Busy as error:
        if len(_refused) >= limits.MOST:
            _refused.clear()
        _refused[_network()] = time.monotonic() + error.retry_after
        raise


def _network() -> str:
    """Whose address it is: of IPv6 the /64, as who has one has all of them."""
    environ = request.environ
    if "HTTP_X_FORWARDED_FOR" in environ:
        address = where.address()
    else:
        address = environ.get("REMOTE_ADDR") or ""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))


def _share_afterwards(rates: limits.Rates) -> None:
    """When the answer is out: nobody waits for the database."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]

    @after_this_request
    def hook(reply: Response) -> Response:
        def share() -> None:
            with app.app_context():
                rates.share()

        reply.call_on_close(share)
        return reply
