"""After an old copy of the database was put back, and after what is stored got into wrong hands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from . import audit
from .audit import Actor, Subject
from .db import db, utcnow
from .models import ApiToken, BrowserSession, Connection, Flow, ParkedCall, SetupCode
from .oauth import keeping, lease
from .states import LIVING

BATCH = 100  # connections ended in one transaction
c = Connection


@dataclass(frozen=True, slots=True)
class Voided:
    """How many of each."""

    sessions: int
    api_tokens: int
    flows: int
    parked_calls: int
    connections: int  # not ended: they are used until their provider says no


def restored(*, by: Actor) -> Voided:
    """Nothing that was ended since the copy was made works again (SEC-085). The caller commits.

    Grants are kept: most are as good as before. Those that were renewed or ended meanwhile are not,
    and the first clear no of their provider ends them, in whatever words.
    """
    marked = (
        sa.update(c)
        .where(c.state.in_(LIVING), c.owner_key != "shared")
        .values(reason=lease.RESTORED, attempt_id=None, lease_ms=0, not_before_ms=0)
        .values(version=c.version + 1, token_gen=c.token_gen + 1)
    )
    found = Voided(
        sessions=_done(sa.delete(BrowserSession)),
        api_tokens=_done(_revoked()),
        flows=_done(sa.delete(Flow)),
        parked_calls=_done(sa.delete(ParkedCall)),
        connections=_done(marked),
    )
    _done(sa.delete(SetupCode))
    audit.record(by, "backup.restored", Subject("database"), **dataclasses.asdict(found))
    return found


@dataclass(frozen=True, slots=True)
class Ended:
    api_tokens: int
    connections: int
    queued: int  # tokens that the gateway ends at their providers, as soon as it runs


def revoke_all(
    *, by: Actor, progress: Callable[[int], None] | None = None, batch: int = BATCH
) -> Ended:
    """Every API token, sign-in under way and connection. Commits, batch by batch.

    It may be stopped anywhere and run again. Opens no network: the housekeeper asks the providers.
    """
    api_tokens = _done(_revoked())
    _done(sa.delete(Flow))
    db.session.commit()
    connections = queued = 0
    holds = sa.or_(c.access_token_sealed.is_not(None), c.refresh_token_sealed.is_not(None))
    some = sa.select(c.id).where(holds).order_by(c.id).limit(batch)
    while ids := db.session.scalars(some).all():
        db.session.rollback()  # a write is next, and begins its transaction
        for row in keeping.locked(c.id.in_(ids), holds):
            queued += keeping.part(row, state="revoked", why="leak", reason="by_admin")
            about = Subject("connection", row.id)
            audit.record(by, "connection.disconnected", about, code="by_admin")
            connections += 1
        db.session.commit()
        if progress is not None:
            progress(connections)
    audit.record(
        *(by, "tokens.revoked", Subject("database")),
        api_tokens=api_tokens,
        connections=connections,
        queued=queued,
    )
    db.session.commit()
    return Ended(api_tokens, connections, queued)


def _revoked() -> sa.Update:
    return sa.update(ApiToken).where(ApiToken.revoked_at.is_(None)).values(revoked_at=utcnow())


def _done(change: sa.Update | sa.Delete) -> int:
    options = {"synchronize_session": False}
    found: Any = db.session.execute(change, execution_options=options)
    count: int = found.rowcount
    return count
