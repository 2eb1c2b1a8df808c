"""Gateways that admins have begun to add: what they typed, and what was found out.

Never a secret: those are typed again when the gateway is saved. The caller commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .db import db, db_now_ms
from .errors import AppError, NotFound
from .models import GatewayDraft
from .proposals import Proposal

MOST = 100  # that are listed; older ones stay until somebody deletes newer ones
d = GatewayDraft


@dataclass(frozen=True, slots=True)
class Draft:
    id: str
    record: Mapping[str, Any]  # fields of the form
    said: tuple[str, ...]  # what was found, in sentences
    provider: str | None  # the host that people will be sent to
    registers: bool  # it makes a client for us by itself
    problem: AppError | None
    is_kept: bool
    updated_ms: int

    @property
    def name(self) -> str:
        return str(self.record.get("name") or self.url or "Without a name")

    @property
    def url(self) -> str:
        return str(self.record.get("url") or "")


def begin(user_id: str, record: Mapping[str, Any], proposal: Proposal | None = None) -> str:
    """Its id. Not listed until it is kept."""
    row = GatewayDraft(user_id=user_id, record=dict(record), found=_found(proposal))
    row.updated_ms = db_now_ms()
    db.session.add(row)
    db.session.flush()
    return row.id


def find(draft_id: str, *, user_id: str) -> Draft:
    """One's own, or one that was kept for all admins. Raises NotFound."""
    return _seen(_row(draft_id, user_id))


def keep(draft_id: str, record: Mapping[str, Any], *, user_id: str) -> None:
    """List it, with what is typed by now. Raises NotFound."""
    row = _row(draft_id, user_id)
    row.record, row.is_kept, row.updated_ms = dict(record), True, db_now_ms()


def drop(draft_id: str, *, user_id: str) -> None:
    """Raises NotFound."""
    db.session.delete(_row(draft_id, user_id))


def kept() -> list[Draft]:
    """Of all admins, the latest first."""
    rows = db.session.scalars(
        sa.select(d).where(d.is_kept).order_by(d.updated_ms.desc(), d.id).limit(MOST)
    )
    return [_seen(row) for row in rows]


def _row(draft_id: str, user_id: str) -> GatewayDraft:
    mine = sa.or_(d.user_id == user_id, d.is_kept)
    row = db.session.scalar(sa.select(d).where(d.id == draft_id, mine))
    if row is None:
        raise NotFound
    return row


def _found(proposal: Proposal | None) -> dict[str, Any]:
    if proposal is None:
        return {}
    found: dict[str, Any] = {"said": list(proposal.said), "provider": proposal.provider}
    found["registers"] = proposal.registers
    if proposal.problem is not None:
        found["problem"] = {"code": proposal.problem.code, "facts": dict(proposal.problem.facts)}
    return found


def _seen(row: GatewayDraft) -> Draft:
    problem = row.found.get("problem")
    return Draft(
        id=row.id,
        record=row.record,
        said=tuple(row.found.get("said", ())),
        provider=row.found.get("provider"),
        registers=bool(row.found.get("registers")),
        problem=AppError(problem["code"], **problem["facts"]) if problem else None,
        is_kept=row.is_kept,
        updated_ms=row.updated_ms,
    )
