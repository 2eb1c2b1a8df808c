"""The chain of audit events: each holds a hash over what it says and over the one before (SEC-114).

Events wait in their session until just before its commit. Only then the head of the chain is
locked: the last lock of a transaction, so that no two can wait for each other in a circle. The
head is sealed: whoever writes rows but has no key can neither move it, nor make us go on from
records that he mended. Savepoints are not used here, and would take the lock too early.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction

from . import about
from .db import AWAY, db
from .errors import NotRecorded, Unsealable
from .models import AuditEvent, AuditHead, CryptoMeta
from .secretbox import UnknownKey, Where, box, key_of

log = logging.getLogger(__name__)
e, h = AuditEvent, AuditHead

BATCH = 1_000  # records that verify() holds at a time
_FIRST = "0" * 64  # the link before the first record
_LOOSE_LESS = "records without a place in the chain were taken away"
_LOOSE_MORE = (
    "records without a place in the chain were put in: by hand, or by nodes of the release before "
    "it, while they were replaced (docs/deployment.md, Upgrade)"
)
_THE_ONE = "audit"
_WHERE = Where("audit_head", _THE_ONE, "head_sealed", "system")
_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_WAITING, _WRITTEN = "audit_waiting", "audit_written"  # keys of session.info
FACTS = (  # what a link is made of; a column that is added later belongs to a new kind of link
    *("seq", "id", "at", "actor_kind", "actor_id", "actor_label", "action", "subject_kind"),
    *("subject_id", "subject_label", "outcome", "details", "request_id", "address"),
    *("gateway_id", "person_id"),
)


@dataclass(frozen=True, slots=True)
class Head:
    """The last record, and where this chain began.

    `since` and `from_link`: the record before its first, which the chain does not vouch for;
    `loose`: how many records without a place there were then.
    """

    seq: int = 0
    link: str = _FIRST
    since: int = 0
    from_link: str = _FIRST
    loose: int = 0


@dataclass(frozen=True, slots=True)
class Break:
    """The first place where the chain does not hold. `seq`: of the record, 0 for the head."""

    seq: int
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    count: int  # records that hold together
    head: Head | None  # None: it is missing or does not open
    broken: Break | None


# -- writing --------------------------------------------------------------------------------------


def stage(session: Session, event: AuditEvent) -> None:
    """Have the event written by the commit of this session; with a rollback it is gone."""
    if not session.in_transaction():
        session.begin()  # the event goes with it, even if nothing else happens in it
    session.info.setdefault(_WAITING, []).append(event)


@sa.event.listens_for(e, "before_insert")
def _refuse_a_way_around(_mapper: object, _link: object, event: AuditEvent) -> None:
    if event.seq is None:
        raise RuntimeError("an audit event was added to a session: give it to audit.stage()")


@sa.event.listens_for(Session, "before_commit")
def _append(session: Session) -> None:
    """Raises NotRecorded: then nothing of the transaction is kept.

    With the code key_missing it is this process that must be started again.
    """
    waiting: list[AuditEvent] = session.info.get(_WAITING, [])
    if not waiting:
        return
    session.flush()  # the locks of the change come before that of the head
    try:
        _write(session, waiting)
    except AWAY:
        raise
    except (Unsealable, DBAPIError) as error:
        log.exception("an audit event cannot be written, so its change is refused")
        raise NotRecorded from error
    session.info[_WRITTEN] = session.info.pop(_WAITING)


@sa.event.listens_for(Session, "after_commit")
def _tell(session: Session) -> None:
    """The same in the log, where nobody who only writes to the database can reach it."""
    for event in session.info.pop(_WRITTEN, []):
        told = {name: value for name, value in facts(vars(event)).items() if value}
        log.info("%s %s", event.action, event.outcome, extra={"facts": told | {"link": event.link}})


@sa.event.listens_for(Session, "after_transaction_end")
def _forget(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_WAITING, None)
        session.info.pop(_WRITTEN, None)


def _write(session: Session, events: list[AuditEvent]) -> None:
    for event in events:
        event.gateway_id, event.person_id = about.of(session, event)
    head = _locked(session)
    for event in events:
        event.seq = head.seq + 1
        event.link = _link(head.link, vars(event))
        head = replace(head, seq=event.seq, link=event.link)
    session.add_all(events)
    session.flush()
    _execute(session, sa.update(h).where(h.id == _THE_ONE).values(head_sealed=_shut(head)))


def _locked(session: Session) -> Head:
    """The head, ours until the commit. Raises Unsealable, also if it was taken away."""
    kind = session.get_bind().dialect.name
    query: Any = sa.select(h.head_sealed).where(h.id == _THE_ONE).with_for_update()
    if kind == "sqlite":  # a write, so that it waits for its turn and reads what is there then
        query = sa.update(h).where(h.id == _THE_ONE).values(id=h.id).returning(h.head_sealed)
    sealed = _execute(session, query).scalar()
    if sealed is None:
        begun = replace(Head(), loose=_loose(session.connection()))
        first = _INSERTS[kind](h).values(id=_THE_ONE, head_sealed=_shut(begun))
        made = _execute(session, first.on_conflict_do_nothing().returning(h.id)).scalar()
        if made and session.scalar(sa.select(e.seq).where(e.seq.is_not(None)).limit(1)):
            raise Unsealable  # there are records, so there was a head
        sealed = _execute(session, query).scalar_one()  # ours, or of who was faster
    try:
        return _opened(sealed)
    except UnknownKey as error:
        key = key_of(sealed)
        if session.get(CryptoMeta, key) is None:
            raise  # nobody's key
        raise NotRecorded("key_missing", key=key) from error


def _execute(session: Session, statement: Any) -> Any:
    return session.execute(statement, execution_options={"synchronize_session": False})


def facts(record: Mapping[Any, Any]) -> dict[str, Any]:
    """What a record says, each value as JSON has it."""
    at: datetime = record["at"]
    plain = {"at": f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"}
    return {name: record[name] for name in FACTS} | plain


def _link(before: str, record: Mapping[Any, Any]) -> str:
    text = json.dumps(facts(record), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{before}|{text}".encode()).hexdigest()


def _shut(head: Head) -> str:
    return box().seal(json.dumps(asdict(head)), where=_WHERE)


def _opened(sealed: str) -> Head:
    return Head(**json.loads(box().open(sealed, where=_WHERE)))


# -- reading --------------------------------------------------------------------------------------


def verify(*, noted: tuple[int, str] | None = None, batch: int = BATCH) -> Verdict:
    """Walk the chain up to its first break. Changes nothing, and stops nobody.

    `noted`: a number and link that were kept elsewhere. Only they show that a whole database was
    put back, as its sealed head goes back with it.
    """
    with db.engine.connect() as link:
        most, loose = link.scalar(sa.select(sa.func.max(e.seq))), _loose(link)
        sealed = link.scalar(sa.select(h.head_sealed))  # last: events come all the time
    if sealed is None and most is None:
        return Verdict(0, Head(loose=loose), None)
    try:
        head = _opened(sealed or "")
    except Unsealable:
        said = "does not open: it was altered, or sealed with another key" if sealed else "is gone"
        return Verdict(0, None, Break(0, f"the sealed head {said}"))
    count, broken = _walk(head, noted, batch)
    if broken is None and most is not None and most > head.seq:
        broken = Break(head.seq + 1, "was put in after the end, or the head was put back")
    if broken is None and loose != head.loose:
        broken = Break(0, _LOOSE_MORE if loose > head.loose else _LOOSE_LESS)
    return Verdict(count, head, broken)


def _walk(head: Head, noted: tuple[int, str] | None, batch: int) -> tuple[int, Break | None]:
    """How many records hold, and the first that does not."""
    seq, link, held = head.since, head.from_link, None
    for record in _records(head, batch):
        wrong = _wrong(record, seq + 1, link)
        if wrong:
            return seq - head.since, Break(seq + 1, wrong)
        seq, link = seq + 1, record["link"]
        held = link if noted is not None and noted[0] == seq else held
    count, broken = seq - head.since, None
    if seq < head.seq:
        broken = Break(seq + 1, f"and all after it, up to {head.seq}, were cut off")
    elif link != head.link:
        broken = Break(seq, "does not end in the sealed head: the links were made anew")
    elif noted is not None and noted[0] > head.seq:
        ends = f"is not there, as the records end with {head.seq}"
        broken = Break(noted[0], f"{ends}: an older copy was put back, or the number is wrong")
    elif noted is not None and held != noted[1]:
        broken = Break(noted[0], "is not the one that was noted: an older copy was put back")
    return count, broken


def _wrong(record: Mapping[Any, Any], seq: int, before: str) -> str:
    if record["seq"] != seq:
        return "is missing"
    if record["link"] != _link(before, record):
        return "was changed: it is not what was recorded"
    return ""


def _records(head: Head, batch: int) -> Iterator[Mapping[Any, Any]]:
    """A short transaction for each batch; what a chain holds does not change."""
    columns = [getattr(e, name) for name in (*FACTS, "link")]
    seq = head.since
    while True:
        query = sa.select(*columns).where(e.seq > seq, e.seq <= head.seq)
        with db.engine.connect() as link:
            found = link.execute(query.order_by(e.seq).limit(batch)).mappings().all()
        yield from found
        if len(found) < batch:
            return
        seq = found[-1]["seq"]


def lines(*, after: int, limit: int) -> Iterator[dict[str, Any]]:
    """What records say, the oldest first, with their links."""
    columns = [getattr(e, name) for name in (*FACTS, "link")]
    query = sa.select(*columns).where(e.seq > after).order_by(e.seq).limit(limit)
    with db.engine.connect() as link:
        found = link.execute(query).mappings().all()
    for record in found:
        yield facts(record) | {"link": record["link"]}


def anew(session: Session) -> Head:
    """Begin a new chain after the last record, whatever became of the old one; caller commits.

    Records before it are kept, and not vouched for.
    """
    last = session.execute(
        sa.select(e.seq, e.link).where(e.seq.is_not(None)).order_by(e.seq.desc()).limit(1)
    ).first()
    seq, link = (last.seq, last.link or _FIRST) if last else (0, _FIRST)
    head = Head(seq, link, since=seq, from_link=link, loose=_loose(session.connection()))
    new = _INSERTS[session.get_bind().dialect.name](h).values(id=_THE_ONE, head_sealed=_shut(head))
    _execute(session, new.on_conflict_do_update(index_elements=["id"], set_=dict(new.excluded)))
    return head


def _loose(link: sa.Connection) -> int:
    """Records that the chain does not reach: from before there was one, or put in by hand."""
    nowhere = sa.or_(e.seq.is_(None), e.seq < 1)
    return link.scalar(sa.select(sa.func.count()).where(nowhere)) or 0
