"""Who asks too often is asked to wait: 429 with Retry-After (SEC-101)."""

from __future__ import annotations

import time

from flask import Response, after_this_request, current_app, request

from .. import api_tokens, limits
from ..access import Caller
from ..addresses import whose
from ..errors import Busy
from . import where


def count(caller: Caller | None) -> None:
    """This request, under its API token, its person and its address. Raises Busy."""
    rates = limits.rates()
    if rates.is_due():
        _share_afterwards(rates)
    keys = [("address", _whose())]
    if caller is not None:
        keys.append(("person", caller.user_id))
        if caller.token_id is not None:
            keys.append(("token", caller.token_id))
    rates.count(keys)


def note_guess(shown: str) -> None:
    """A wrong API token, counted for all workers. Raises Busy for one too many. Commits.

    From then on each costs a read, by its hash, and no write. Good ones are let in meanwhile: who
    guesses may share the address of many who do not.
    """
    most, address = current_app.config["RATE_LIMIT_WRONG_TOKENS"], _whose()
    if not most or not api_tokens.looks_right(shown):
        return
    refused = _refused()
    left = refused.get(address, 0.0) - time.monotonic()
    if left > 0:
        raise Busy("too_many_requests", retry_after=int(left) + 1)
    try:
        limits.strictly("wrong_token", address, most=most)
    except Busy as error:
        if len(refused) >= limits.MOST:
            refused.clear()
        refused[address] = time.monotonic() + error.retry_after
        raise


def _refused() -> dict[str, float]:
    """An address -> until when this process counts its wrong tokens no more, monotonic."""
    held: dict[str, float] = current_app.extensions.setdefault("refused", {})
    return held


def _whose() -> str:
    environ = request.environ  # quicker than to look at headers
    if "HTTP_X_FORWARDED_FOR" in environ:
        return whose(where.address())
    return whose(environ.get("REMOTE_ADDR") or "")


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
