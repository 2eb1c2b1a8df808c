"""Moments and counts as people say them. Filters for templates."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Flask

from ..db import utcnow

_UNITS = ((86_400, "day", "days"), (3600, "h", "h"), (60, "min", "min"))
_WEEK_S = 7 * 86_400  # from here on a date says more


def register(app: Flask) -> None:
    for one in (ago, utc, iso, many):
        app.add_template_filter(one)


def moment(value: datetime | int) -> datetime:
    """A column as a moment: those named `*_ms` are milliseconds since 1970."""
    return datetime.fromtimestamp(value / 1000, UTC) if isinstance(value, int) else value


def ago(value: datetime | int, now: datetime | None = None) -> str:
    """Such as 5 min ago, in 42 min, now; a date when it is a week or more away."""
    at = moment(value)
    seconds = (at - (now or utcnow())).total_seconds()
    if abs(seconds) >= _WEEK_S:
        return f"{at.day} {at:%b %Y}"
    words = span(abs(seconds))
    if words is None:
        return "now" if seconds < 0 else "in under a minute"
    return f"in {words}" if seconds > 0 else f"{words} ago"


def span(seconds: float) -> str | None:
    """Such as 42 min, 3 h, 2 days. None below a minute."""
    for size, one, several in _UNITS:
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {one if number == 1 else several}"
    return None


def utc(value: datetime | int) -> str:
    at = moment(value)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def iso(value: datetime | int) -> str:
    return f"{moment(value):%Y-%m-%dT%H:%M:%SZ}"


def many(number: int, one: str, several: str = "") -> str:
    """Such as 1 tool, 12 tools."""
    return f"{number} {one if number == 1 else several or one + 's'}"
