"""How each server answers somebody without a token: the light form of a check, now and then.

It tells apart who is up, who wants a sign-in (which is well), who refuses us, and who is down. No
credential is sent, so nobody's sign-in is used up, and a gateway is never down for want of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from flask import current_app

from . import trust
from .db import db, db_now_ms
from .errors import AppError
from .models import Gateway, OAuthConfig
from .oauth.fetching import Fetching
from .oauth.knocking import TURNED_AWAY, Door, knock
from .oauth.places import normalised
from .trust import Trust

LOOK_S = 10.0  # for all that is asked of one server
SOONEST_MS, LATEST_MS = 60_000, 3_600_000  # after a failure: then twice as long each time
WELL = ("up", "needs_sign_in")
g = Gateway


@dataclass(frozen=True, slots=True)
class _Due:
    id: str
    url: str
    auth_type: str
    is_personal: bool
    trust: Trust | None
    fails: int


def steps() -> Iterator[Mapping[str, int]]:
    """One server that is due after the other; counts by what was found. Commits after each."""
    interval_ms = int(current_app.config["HEALTH_CHECK_INTERVAL"] * 1000)
    while interval_ms and (due := _take(interval_ms)) is not None:
        found, code = look(due.url, due.auth_type, is_personal=due.is_personal, trust=due.trust)
        _note(due, found, code, interval_ms)
        yield {found: 1}


def look(
    url: str, auth_type: str, *, is_personal: bool, trust: Trust | None = None
) -> tuple[str, str | None]:
    """Its health, and the code of what is wrong. Call it with no transaction open."""
    try:
        return told(knock(Fetching(trust, LOOK_S), normalised(url)), auth_type, is_personal)
    except AppError as error:
        return "down", error.code


def told(door: Door, auth_type: str, is_personal: bool) -> tuple[str, str | None]:
    """A challenge is no outage. Whether what an admin typed is good, only a call can tell."""
    if door.is_open:
        return "up", None
    is_asked = door.status == 401 or (door.status in TURNED_AWAY and door.challenge is not None)
    if is_asked and auth_type == "none":
        return "refused", "sign_in_not_set_up"
    if is_asked:
        return "needs_sign_in" if is_personal else "up", None
    return "refused", "upstream_forbidden" if door.status == 403 else "upstream_bad_answer"


def after(fails: int, interval_ms: int) -> int:
    """Milliseconds until it is looked at again, after so many failures one upon the other."""
    if not fails:
        return interval_ms
    wait_ms = SOONEST_MS << min(fails - 1, 12)
    return max(min(interval_ms, LATEST_MS), min(LATEST_MS, wait_ms))


def _take(interval_ms: int) -> _Due | None:
    """The one that waits for longest; it counts as looked at, whatever becomes of us. Commits."""
    now, o = db_now_ms(), OAuthConfig
    columns = (g.id, g.url, g.auth_type, g.ca_pem, g.client_cert_pem, g.client_key_sealed)
    query = sa.select(*columns, g.health_fails, o.grant_type)
    query = query.outerjoin(o, sa.and_(o.gateway_id == g.id, o.is_default))
    query = query.where(g.is_enabled, g.health_next_ms <= now).order_by(g.health_next_ms).limit(1)
    with db.engine.begin() as link:
        row = link.execute(query).first()
        if row is None:
            return None
        later = sa.update(Gateway.__table__).where(Gateway.__table__.c.id == row.id)  # type: ignore[arg-type]
        link.execute(later.values(health_next_ms=now + interval_ms))
    return _Due(
        id=row.id,
        url=row.url,
        auth_type=row.auth_type,
        is_personal=row.auth_type == "oauth" and row.grant_type == "authorization_code",
        trust=trust.of_gateway(row.id, row.ca_pem, row.client_cert_pem, row.client_key_sealed),
        fails=row.health_fails,
    )


def _note(due: _Due, found: str, code: str | None, interval_ms: int) -> None:
    """`health_ms` stays while it is as it was. An edit of the URL meanwhile wins. Commits."""
    t, now = Gateway.__table__.c, db_now_ms()
    fails = 0 if found in WELL else due.fails + 1
    since = sa.case((t.health == found, t.health_ms), else_=now)
    change = sa.update(Gateway.__table__).where(t.id == due.id, t.url == due.url)  # type: ignore[arg-type]
    values = {"health": found, "health_code": code, "health_fails": fails, "health_ms": since}
    with db.engine.begin() as link:
        link.execute(change.values(**values, health_next_ms=now + after(fails, interval_ms)))
