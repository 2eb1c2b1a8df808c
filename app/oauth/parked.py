"""An operation that waits for a consent: kept sealed, run once, its result given once.

Where tokens are stored nothing waits here: the row then only carries what to ask for, and the
client's own next call runs.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.exc import IntegrityError

from ..access import Caller, Usable
from ..db import db, db_now_ms
from ..errors import AppError, ConsentFailed, NotFound, Unsealable
from ..models import ParkedCall
from ..secretbox import Bound, Facts, box, cell
from .stepping import TARGET_LIMIT

LIFE_S = 600  # of what waits, and of the links to it
RUN_MS = 75_000  # a run takes 60 s at most; after this nobody knows what became of it
SEEN_MS = 120_000  # what was run late can be read for so long at least
REQUEST_LIMIT, RESULT_LIMIT = 262_144, 1_048_576  # bytes
p = ParkedCall


@dataclass(frozen=True, slots=True)
class Parked:
    id: str
    state: str  # waiting, running, done, failed
    scopes: tuple[str, ...] = ()  # asked for beside those of the config
    config_id: str | None = None
    target: str = ""  # the tool, resource or prompt


@dataclass(frozen=True, slots=True)
class Outcome:
    """`state` also says `unknown`: whoever ran it was killed, and `over`: nothing was sent."""

    state: str
    request: bytes | None = field(repr=False)
    result: bytes | None = field(repr=False)


def park(
    caller: Caller,
    gateway: Usable,
    *,
    digest: str,
    request: bytes | None,
    scopes: Sequence[str] = (),
) -> Parked:
    """Keep a call until its person has consented. Commits.

    One for each person, config and `digest`: a live one is taken again, also one that ran and was
    not fetched yet. Whoever wants each press of a button to count puts a random part into the
    digest. `request` is None where tokens are stored. Raises NotFound for a gateway without OAuth,
    AppError (too_large).
    """
    config = gateway.config
    if config is None:
        raise NotFound("gateway_not_found", gateway=gateway.slug)
    if request is not None and len(request) > REQUEST_LIMIT:
        raise AppError("too_large", limit=REQUEST_LIMIT)
    row = ParkedCall(id=uuid.uuid4().hex, user_id=caller.user_id, gateway_id=gateway.id)
    row.oauth_config_id, row.digest, row.scopes_wanted = config.id, digest, list(scopes)
    row.request_sealed = _seal(row, "request_sealed", request)
    try:
        return _insert_or_find(row)
    except IntegrityError:  # the same call, parked at the same moment: PostgreSQL
        return _insert_or_find(row)


def link(caller: Caller, gateway: Usable, parked_id: str, *, target: str | None = None) -> str:
    """What an AI client shows: a page of ours. It names the row, and opens for its person only."""
    bound = Bound("ask", "*", gateway.id)
    facts: Facts = {"parked": parked_id, "target": (target or "")[:TARGET_LIMIT]}
    handle = box().seal_handle(facts, bound=bound, life_s=LIFE_S)
    return f"{current_app.config['PUBLIC_URL']}/connections/{gateway.slug}?ask={handle}"


def asked(caller: Caller, gateway: Usable, handle: str) -> Parked:
    """Raises ConsentFailed: ask_over, also for what is no handle of ours; ask_foreign."""
    try:
        facts = box().open_handle(handle, bound=Bound("ask", "*", gateway.id))
    except Unsealable as error:
        raise ConsentFailed("ask_over") from error
    row = _row(str(facts["parked"]))
    if row is None or row.is_over:
        raise ConsentFailed("ask_over")
    if row.user_id != caller.user_id:
        raise ConsentFailed("ask_foreign")
    target = str(facts.get("target") or "")
    return Parked(row.id, row.state, tuple(row.scopes_wanted), row.oauth_config_id, target)


def wanted(caller: Caller, parked_id: str) -> tuple[str, ...]:
    """The scopes that this call needs beside those of the config. Raises NotFound."""
    row = _row(parked_id)
    if row is None or row.user_id != caller.user_id:
        raise NotFound
    return tuple(row.scopes_wanted)


def take(parked_id: str) -> bytes | None:
    """The request, for the one who is to run it now; None if nothing waits. Commits."""
    row = _row(parked_id)
    if row is None or row.request_sealed is None:
        return None
    request = _open(row, "request_sealed")
    now = db_now_ms()
    end = sa.case((p.expires_ms < now + RUN_MS + SEEN_MS, now + RUN_MS + SEEN_MS))
    change = (
        sa.update(p)
        .where(p.id == parked_id, p.state == "waiting", p.expires_ms > now)
        .values(state="running", attempt_id=uuid.uuid4().hex, lease_ms=now + RUN_MS)
        .values(expires_ms=sa.func.coalesce(end, p.expires_ms))
    )
    return request if _changed(change) else None


def keep_result(parked_id: str, result: bytes, *, ok: bool) -> None:
    """Of what take() gave. Commits. Raises AppError (too_large): keep another result then."""
    if len(result) > RESULT_LIMIT:
        raise AppError("too_large", limit=RESULT_LIMIT)
    row = _row(parked_id)
    if row is None:  # its person or gateway was deleted meanwhile
        return
    sealed = _seal(ParkedCall(id=row.id, user_id=row.user_id), "result_sealed", result)
    change = sa.update(p).where(p.id == parked_id, p.state == "running")
    _changed(change.values(state="done" if ok else "failed", result_sealed=sealed))


def put_back(parked_id: str, scopes: Sequence[str]) -> bool:
    """What take() gave waits anew, for a consent to these scopes. Commits."""
    change = sa.update(p).where(p.id == parked_id, p.state == "running")
    later = {"expires_ms": db_now_ms() + LIFE_S * 1000, "lease_ms": 0}
    return _changed(change.values(state="waiting", scopes_wanted=list(scopes), **later))


def hand_over(caller: Caller, gateway: Usable, digest: str) -> bytes | None:
    """The result of the same call, once, to the AI client that repeats it. Commits."""
    if gateway.config is None:
        return None
    now = db_now_ms()
    change = (
        sa.update(p)
        .where(p.user_id == caller.user_id, p.oauth_config_id == gateway.config.id)
        .where(p.digest == digest, p.result_sealed.is_not(None))
        .where(p.handed_ms.is_(None), p.expires_ms > now)
        .values(handed_ms=now)
        .returning(*p.__table__.c)
    )
    with db.engine.begin() as link:
        row = link.execute(change).first()
    return None if row is None else _open(row, "result_sealed")


def outcome(caller: Caller, gateway: Usable, parked_id: str) -> Outcome:
    """For the browser's page, as often as it is loaded. Raises NotFound, also for a stranger."""
    row = _row(parked_id)
    if row is None or (row.user_id, row.gateway_id) != (caller.user_id, gateway.id):
        raise NotFound
    if row.is_over:
        return Outcome("over", None, None)
    is_lost = row.state == "running" and row.is_lost
    return Outcome(
        "unknown" if is_lost else row.state,
        _open(row, "request_sealed"),
        _open(row, "result_sealed"),
    )


def _insert_or_find(row: ParkedCall) -> Parked:
    """First what is in the way goes: a write, so that SQLite takes its write lock for all of it."""
    mine = sa.and_(
        p.user_id == row.user_id,
        p.oauth_config_id == row.oauth_config_id,
        p.digest == row.digest,
    )
    now, keeps = db_now_ms(), row.request_sealed is not None
    is_of_before = sa.and_(  # tokens are stored since, or are no longer
        p.state == "waiting",
        p.request_sealed.is_(None) if keeps else p.request_sealed.is_not(None),
    )
    names = ("id", "user_id", "gateway_id", "oauth_config_id", "digest", "scopes_wanted")
    values: dict[str, Any] = {name: getattr(row, name) for name in (*names, "request_sealed")}
    with db.engine.begin() as link:
        gone = sa.or_(p.expires_ms <= now, p.handed_ms.is_not(None), is_of_before)
        link.execute(sa.delete(p).where(mine, gone))
        found = link.execute(sa.select(p.id, p.state, p.scopes_wanted).where(mine)).first()
        if found is None:
            link.execute(sa.insert(p).values(**values, expires_ms=now + LIFE_S * 1000))
            return Parked(row.id, "waiting", tuple(row.scopes_wanted))
        scopes = row.scopes_wanted or found.scopes_wanted
        link.execute(sa.update(p).where(p.id == found.id).values(scopes_wanted=scopes))
        return Parked(found.id, found.state, tuple(scopes))


def _row(parked_id: str) -> sa.Row[Any] | None:
    """As it is now, with what its times mean. A short transaction of its own."""
    now = db_now_ms()
    over, lost = (p.expires_ms <= now).label("is_over"), (p.lease_ms <= now).label("is_lost")
    query = sa.select(p.__table__, over, lost).where(p.id == parked_id)
    with db.engine.connect() as link:
        return link.execute(query).first()


def _changed(change: sa.Update) -> bool:
    with db.engine.begin() as link:
        return link.execute(change).rowcount == 1


def _seal(row: ParkedCall, column: str, content: bytes | None) -> str | None:
    """As Latin-1, which gives every byte back."""
    text = None if content is None else content.decode("latin-1")
    return text if text is None else box().seal(text, where=cell(row, column))


def _open(row: sa.Row[Any], column: str) -> bytes | None:
    sealed = row._mapping[column]
    if sealed is None:
        return None
    where = cell(ParkedCall(id=row.id, user_id=row.user_id), column)
    return box().open(sealed, where=where).encode("latin-1")
