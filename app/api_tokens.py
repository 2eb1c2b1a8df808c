"""API tokens: what AI clients and scripts show us. Kept as a hash; shown once (SEC-045)."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
import unicodedata
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from . import audit
from .access import Caller
from .audit import Actor, Subject
from .db import AWAY, db, recent, utcnow
from .errors import Conflict, Invalid, NotFound, SignInRequired
from .models import ApiToken, Gateway, User

log = logging.getLogger(__name__)

SCOPES = {
    "mcp": "Call tools through /mcp",
    "api:read": "Read gateways and connections through /api",
    "api:write": "Change gateways through /api, as far as you may",
}
_SHAPE = re.compile(r"mcpg_[A-Za-z0-9_-]{43}")
_ID = re.compile(r"[0-9a-f]{32}")
NOTE_EVERY_S = 60  # seconds between two notes of a token's use
_due: dict[str, float] = {}  # token id -> when this process may note its use again, monotonic


def issue(  # noqa: PLR0913  # what a token is made of
    user_id: str,
    *,
    name: str,
    scopes: Collection[str],
    gateway_ids: Sequence[str] | None,
    expires_at: datetime | None,
    by: Actor,
    form_id: str = "",
) -> tuple[ApiToken, str]:
    """A new token and its text, which is nowhere else. `gateway_ids` None: all, later ones too.

    `form_id`: the one-use id of a form; sent again, it raises Conflict. Raises Invalid.
    """
    _check(name, scopes, gateway_ids, expires_at)
    shown = f"mcpg_{secrets.token_urlsafe(32)}"
    token = ApiToken(user_id=user_id, name=name.strip(), token_hash=_hash(shown))
    if form_id:
        token.id = _as_id(form_id)
    token.hint = f"{shown[:8]}…{shown[-4:]}"
    token.scopes = [scope for scope in SCOPES if scope in scopes]
    token.gateway_ids = None if gateway_ids is None else list(gateway_ids)
    token.expires_at = expires_at
    db.session.add(token)
    try:
        db.session.flush()
    except IntegrityError as error:
        db.session.rollback()
        raise Conflict("token_shown") from error
    audit.record(by, "api_token.created", _subject(token), scopes=token.scopes)
    return token, shown


def authenticate(shown: str) -> Caller:
    """Whose token this is. Raises SignInRequired for unknown, ended, revoked and disabled alike.

    At most a second old, so a revocation holds everywhere within that. Warm, it asks no database.
    """
    if not _SHAPE.fullmatch(shown):
        raise SignInRequired
    token_hash = _hash(shown)
    caller = recent().get(("api_token", token_hash), lambda: _load(token_hash))
    if caller is None:
        raise SignInRequired
    return caller


def looks_right(shown: str) -> bool:
    """Whether it may be a token at all; nothing else is looked up."""
    return _SHAPE.fullmatch(shown) is not None


def is_due(token_id: str) -> bool:
    """Whether a use should be noted now: once a minute and process. For the way out of a call."""
    now = time.monotonic()
    if _due.get(token_id, 0.0) > now:
        return False
    if len(_due) >= 10_000:
        _due.clear()
    _due[token_id] = now + NOTE_EVERY_S
    return True


def note_use(token_id: str, client: str, *, is_named: bool) -> None:
    """Keep when the token was used last, and by what. Commits. A locked database loses the note.

    `client` is what it says of itself: by name, or else a User-Agent, which replaces no name.
    """
    t, now = ApiToken, utcnow()
    said = "".join(one for one in client if unicodedata.category(one)[0] != "C")[:100] or None
    used_by = sa.func.coalesce(said, t.used_by) if is_named else sa.func.coalesce(t.used_by, said)
    change = sa.update(t).where(t.id == token_id).values(used_at=now, used_by=used_by)
    try:
        with db.engine.begin() as link:
            link.execute(change)
    except AWAY:
        log.warning("the use of an API token was not noted")


def of(user_id: str) -> Sequence[ApiToken]:
    """Those not revoked, the newest first."""
    t = ApiToken
    query = sa.select(t).where(t.user_id == user_id, t.revoked_at.is_(None))
    return db.session.scalars(query.order_by(t.created_at.desc())).all()


def find(token_id: str, *, user_id: str | None = None) -> ApiToken:
    """A token not revoked, of this person. Raises NotFound, for a foreign one too."""
    token = db.session.get(ApiToken, token_id)
    if token is None or token.revoked_at or user_id not in (None, token.user_id):
        raise NotFound("token_not_found")
    return token


def revoke(token_id: str, *, by: Actor, user_id: str | None = None) -> ApiToken:
    """Raises NotFound. With `user_id`: only a token of theirs."""
    token = find(token_id, user_id=user_id)
    token.revoked_at = utcnow()
    audit.record(by, "api_token.revoked", _subject(token))
    return token


def _load(token_hash: str) -> Caller | None:
    t, u = ApiToken, User
    query = (
        sa.select(t.id, t.scopes, t.gateway_ids, t.user_id, u.email, u.role)
        .join(u, u.id == t.user_id)
        .where(t.token_hash == token_hash, t.revoked_at.is_(None), ~u.is_disabled)
        .where(sa.or_(t.expires_at.is_(None), t.expires_at > utcnow()))
    )
    with db.engine.connect() as link:
        row = link.execute(query).first()
    if row is None:
        return None
    return Caller(
        user_id=row.user_id,
        email=row.email,
        is_admin=row.role == "admin",
        token_id=row.id,
        scopes=frozenset(row.scopes),
        gateway_ids=None if row.gateway_ids is None else frozenset(row.gateway_ids),
    )


def _check(
    name: str,
    scopes: Collection[str],
    gateway_ids: Sequence[str] | None,
    expires_at: datetime | None,
) -> None:
    wrong: dict[str, str] = {}
    if not 1 <= len(name.strip()) <= 100 or not name.isprintable():
        wrong["name"] = "Give it a name of 1 to 100 characters."
    if not scopes or not set(scopes) <= SCOPES.keys():
        wrong["scopes"] = "Choose at least one thing it may do."
    if gateway_ids is not None and not _are_known(gateway_ids):
        wrong["gateways"] = "Choose at least one gateway from the list."
    if expires_at is not None and not utcnow() < expires_at < utcnow() + timedelta(days=3660):
        wrong["ends"] = "Choose an end that is still to come, within ten years."
    if wrong:
        raise Invalid(wrong)


def _are_known(gateway_ids: Sequence[str]) -> bool:
    query = sa.select(sa.func.count()).where(Gateway.id.in_(gateway_ids))
    return bool(gateway_ids) and db.session.scalar(query) == len(set(gateway_ids))


def _as_id(form_id: str) -> str:
    if not _ID.fullmatch(form_id):
        raise Invalid({"name": "Load this page again and send it once more."})
    return form_id


def _subject(token: ApiToken) -> Subject:
    return Subject("api_token", token.id, token.name)


def _hash(shown: str) -> str:
    return hashlib.sha256(shown.encode()).hexdigest()
