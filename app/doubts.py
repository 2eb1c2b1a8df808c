"""What can be said of a gateway's settings, and of a clock, without asking anybody. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from .addresses import Blocked, check_url
from .errors import UpstreamError


def check_scheme(url: str) -> None:
    """Raises UpstreamError (blocked_address) for http where https is due, or another scheme."""
    try:
        check_url(url)
    except Blocked as error:
        raise UpstreamError("blocked_address", host=urlsplit(url).hostname or url) from error


def doubts_about(client_id: str, secret: str | None, scopes: Iterable[str]) -> Iterator[str]:
    """Sentences about what was typed. None quotes a secret."""
    if client_id != client_id.strip():
        yield "There are spaces around the client ID."
    # What an admin typed, compared with what they typed: nobody guesses here.
    if secret is not None and secret != secret.strip():  # nosemgrep: secret-compared
        yield "There are spaces around the client secret."
    if secret is not None and secret == client_id:  # nosemgrep: secret-compared
        yield "The client secret is the client ID."
    if any("," in scope for scope in scopes):
        yield "There is a comma in the scopes. Name one a line, without it."


def clock_off(got: str, now: float) -> float | None:
    """Seconds that an answer's Date differs from `now`; None: it named none."""
    dates = [line.partition(": ")[2] for line in got.splitlines() if line.lower()[:6] == "date: "]
    try:
        return parsedate_to_datetime(dates[0]).timestamp() - now if dates else None
    except ValueError:
        return None
