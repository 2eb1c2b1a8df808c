"""Ending grants at their providers (RFC 7009, oauth.md 8.1, SEC-025): a queue that outlives them.

What ended here is put by in the transaction that ends it, and asked for afterwards: right away as
best effort, then by the housekeeper, with growing pauses and an end.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from .. import keys, trust
from ..audit import SYSTEM, Subject, entry, record, stage
from ..db import db, db_now_ms, utcnow
from ..errors import AppError, Unsealable
from ..models import ClientRegistration, Connection, Gateway, OAuthConfig, Revocation
from ..secretbox import box, cell
from ..specs import OAuthConfigSpec
from ..states import LIVING
from . import registration, revoking
from .client import OAuthClient, Registration
from .discovered import spec_of
from .replies import TokenSet
from .revoking import Hint, Verdict

AT_ONCE_S = 5.0  # for one token; somebody may be waiting for the answer
LEASE_S = 2 * AT_ONCE_S + 5.0
MOST_TRIES = 16  # some two days
SLOWEST_S = 6 * 3600.0
NO_WAY = "no_revocation"
SPARED = "ends_all"  # asking would end what the person still uses (oauth.md 8.2)
UNREADABLE = ""  # stands for a secret that was there and does not open
_TOKENS: tuple[tuple[str, Hint], ...] = (  # in this order
    ("refresh_token_sealed", "refresh_token"),
    ("access_token_sealed", "access_token"),
)
r = Revocation
log = logging.getLogger(__name__)


# -- what is to end --------------------------------------------------------------------------------


def queue(row: Connection, *, why: str) -> int:
    """Put by what this connection holds, in the caller's transaction. How many tokens.

    The caller has locked the row, and empties its columns. 0: nothing is held that opens, or its
    provider has no way to end it; then a row says so to what comes late. Opens no network. Whether
    it would end other connections too is seen when the provider is about to be asked.
    """
    config = db.session.get(OAuthConfig, row.oauth_config_id)
    gateway = db.session.get(Gateway, row.gateway_id)
    tokens = {column: _opened(row, column) for column, _ in _TOKENS}
    if gateway is None or config is None or not any(tokens.values()):
        return 0
    made = Revocation(connection_id=row.id, user_id=row.user_id, style="none", url="")
    made.gateway_id, made.gateway_name, made.client_id = gateway.id, gateway.name, ""
    spec = spec_of(config.settings, config.discovered)
    style, url = spec.revocation_style, row.revocation_url
    client = db.session.get(ClientRegistration, row.registration_id or "")
    if row.owner_key == "shared":  # nobody consented, so nothing was pinned
        client, url = config.registration, spec.revocation_url
    if client is None or url is None or style == "none":
        made.state, made.ended_at, made.last_error_code = "done", utcnow(), NO_WAY
        db.session.add(made)
        return 0
    made.style, made.url = style, url
    made.ends_all_at = row.token_url if spec.revocation_ends_all else None
    made.client_id, made.auth_method = client.client_id, registration.method_of(client, spec)
    made.assertion_alg = spec.assertion_alg
    made.assertion_audience = registration.audience_of(spec, row.token_url or spec.token_url)
    made.ca_pem, made.client_cert_pem = gateway.ca_pem, gateway.client_cert_pem
    held = tokens | {
        "client_secret_sealed": _opened(client, "client_secret_sealed"),
        "private_key_sealed": _opened(client, "private_key_sealed"),
        "client_key_sealed": _opened(gateway, "client_key_sealed"),
    }
    count = _add(db.session(), made, held)
    subject = Subject("connection", row.id, gateway.name)
    record(SYSTEM, "connection.revocation_queued", subject, why=why, tokens=count)
    return count


def drop(token_set: TokenSet, *, connection_id: str) -> int:
    """Tokens that came after their connection was ended (F-40, F-41). How many. Commits.

    They are ended as the ones before them are: as the same client, at the same place. Never call
    it while the connection holds newer ones, which may hang on the same grant.
    """
    with Session(db.engine) as session, session.begin():
        query = sa.select(r).where(r.connection_id == connection_id).order_by(r.created_at.desc())
        before = session.scalars(query.limit(1)).first()
        row = session.get(Connection, connection_id)
        if before is None or before.style == "none" or (row and row.reason == "access_lost"):
            return 0
        names = ("user_id", "gateway_id", "gateway_name", "style", "url", "client_id")
        more = ("ends_all_at", "auth_method", "ca_pem", "client_cert_pem")
        signed = ("assertion_alg", "assertion_audience")
        copied = {name: getattr(before, name) for name in (*names, *more, *signed)}
        made = Revocation(connection_id=connection_id, **copied)
        kept = ("client_secret_sealed", "client_key_sealed", "private_key_sealed")
        return _add_late(session, made, token_set, {name: _opened(before, name) for name in kept})


def drop_unkept(
    token_set: TokenSet, us: Registration, *, flow_id: str, user_id: str, gateway: tuple[str, str]
) -> int:
    """Tokens of a consent that found no place any more (F-41). How many. Commits.

    `us` is who asked for them; `gateway` its id and name.
    """
    spec = us.spec
    if spec.revocation_url is None or spec.revocation_style == "none":
        return 0
    trusted = us.trust
    key = trusted.key_pem() if trusted is not None else None
    made = Revocation(
        connection_id=flow_id,  # there is no connection, and never was one
        user_id=user_id,
        gateway_id=gateway[0],
        gateway_name=gateway[1],
        style=spec.revocation_style,
        url=spec.revocation_url,
        ends_all_at=us.token_url if spec.revocation_ends_all else None,
        client_id=us.client_id,
        auth_method=us.auth_method,
        assertion_alg=spec.assertion_alg,
        assertion_audience=registration.audience_of(spec, us.token_url),
        ca_pem=trusted and trusted.ca_pem,
        client_cert_pem=trusted and trusted.cert_pem,
    )
    held = {"client_secret_sealed": us.client_secret, "client_key_sealed": key}
    held["private_key_sealed"] = us.private_key
    with Session(db.engine) as session, session.begin():
        return _add_late(session, made, token_set, held)


def _add_late(
    session: Session, made: Revocation, token_set: TokenSet, held: Mapping[str, str | None]
) -> int:
    tokens = {
        "refresh_token_sealed": token_set.refresh_token,
        "access_token_sealed": token_set.access_token or None,
    }
    count = _add(session, made, tokens | dict(held))
    subject = Subject("connection", made.connection_id, made.gateway_name)
    action = "connection.revocation_queued"
    stage(session, entry(SYSTEM, action, subject, why="late", tokens=count))
    return count


def _opened(row: Connection | ClientRegistration | Gateway | Revocation, column: str) -> str | None:
    """UNREADABLE for what does not open: a wrong key must not keep anybody from leaving."""
    sealed: str | None = getattr(row, column)
    try:
        return None if sealed is None else box().open(sealed, where=cell(row, column))
    except Unsealable:
        return UNREADABLE


def _add(session: Session, made: Revocation, held: Mapping[str, str | None]) -> int:
    """Sealed anew: a sealed value is bound to its row."""
    for column, secret in held.items():
        sealed = None if secret is None else box().seal(secret, where=cell(made, column))
        setattr(made, column, sealed)
    session.add(made)
    return sum(bool(held[column]) for column, _ in _TOKENS)


# -- asking the providers --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Taken:
    """A row that this process has the lease of, with its secrets open."""

    id: str
    connection_id: str
    gateway_name: str
    style: str
    url: str
    tries: int
    attempt: str
    client: OAuthClient
    spared_for: str | None  # the gateway whose connection would end, too
    secrets: Mapping[str, str | None] = field(repr=False)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


def work_off(*, limit: int = 50, only: Collection[str] | None = None) -> dict[str, int]:
    """Ask for what is due; how many of each outcome. `only`: of these connections. Commits.

    A provider that does not answer is asked once in a round. Call it with no transaction open.
    """
    done: Counter[str] = Counter()
    away: set[str] = set()
    for revocation_id, host in _due(limit, only):
        if host in away:
            continue
        try:
            taken = _take(revocation_id)
        except AppError as error:  # another process has the key
            log.warning("a revocation waits for a process with its key: %s", error.code)
            done["waits_for_key"] += 1
            continue
        if taken is None:
            continue
        verdicts = {column: _ask(taken, column, hint) for column, hint in _TOKENS}
        outcome = _settle(taken, verdicts)
        if outcome == "later":
            away.add(host)
        done[outcome] += 1
    return dict(done)


def _due(limit: int, only: Collection[str] | None) -> list[tuple[str, str]]:
    now = db_now_ms()
    query = sa.select(r.id, r.url).where(r.state == "queued", r.not_before_ms <= now)
    if only is not None:
        query = query.where(r.connection_id.in_(only))
    first = (r.not_before_ms, r.created_at, r.id)
    query = query.where(r.lease_ms <= now).order_by(*first).limit(limit)
    with db.engine.connect() as link:
        return [(row.id, urlsplit(row.url).netloc) for row in link.execute(query)]


def _take(revocation_id: str) -> _Taken | None:
    """None: another has it, or it is over. Commits. Raises AppError (key_missing): not ours."""
    now, attempt = db_now_ms(), secrets.token_hex(16)
    claim = (
        sa.update(r)
        .where(r.id == revocation_id, r.state == "queued", r.lease_ms <= now)
        .values(attempt_id=attempt, lease_ms=now + int(LEASE_S * 1000), tries=r.tries + 1)
        .returning(r.id)
        .execution_options(synchronize_session=False)
    )
    with Session(db.engine, expire_on_commit=False) as session, session.begin():
        if session.scalar(claim) is None:
            return None
        row = session.get_one(r, revocation_id)
        opened = {column: _readable(row, column) for column in _SECRETS}
        spared_for = _would_end_too(session, row)
    return _Taken(
        id=row.id,
        connection_id=row.connection_id,
        gateway_name=row.gateway_name,
        style=row.style,
        url=row.url,
        tries=row.tries,
        attempt=attempt,
        client=_client(row, opened["client_secret_sealed"], opened["private_key_sealed"]),
        spared_for=spared_for,
        secrets=opened,
    )


_OF_CLIENT = ("client_secret_sealed", "private_key_sealed")
_SECRETS = (*(column for column, _ in _TOKENS), *_OF_CLIENT)


def _readable(row: Revocation, column: str) -> str | None:
    """What no key of the gateway opens is UNREADABLE. Raises AppError if only we lack the key."""
    found = _opened(row, column)
    if found == UNREADABLE:
        keys.demand(getattr(row, column))
    return found


def _would_end_too(session: Session, row: Revocation) -> str | None:
    """The gateway of a connection that the person has by the same client, where one ends all.

    One that waits for its person to come back counts as well.
    """
    if row.ends_all_at is None or row.user_id is None:
        return None
    c, client = Connection, ClientRegistration
    is_held = c.access_token_sealed.is_not(None)
    waits = sa.and_(c.state == "orphaned", c.reason == "access_lost", is_held)
    query = (
        sa.select(Gateway.name)
        .join(c, c.gateway_id == Gateway.id)
        .join(client, client.id == c.registration_id)
        .where(c.user_id == row.user_id, sa.or_(c.state.in_(LIVING), waits))
        .where(c.token_url == row.ends_all_at, client.client_id == row.client_id)
    )
    return session.scalar(query.order_by(Gateway.name).limit(1))


def _client(row: Revocation, secret: str | None, key: str | None) -> OAuthClient:
    spec = OAuthConfigSpec(grant_type="authorization_code")
    if key:  # as a copy, since an issuer that was found may be longer than what an admin may type
        signed = {"assertion_alg": row.assertion_alg, "assertion_audience": row.assertion_audience}
        spec = spec.model_copy(update=signed)
    return OAuthClient(
        Registration(
            client_id=row.client_id,
            client_secret=secret,
            private_key=key or None,
            auth_method=row.auth_method,
            authorization_url=None,
            token_url=row.url,
            refresh_url=None,
            redirect_uri="",
            timeout_s=AT_ONCE_S,
            retries=0,
            spec=spec,
            trust=trust.of(row),
        )
    )


def _ask(taken: _Taken, column: str, hint: Hint) -> Verdict | None:
    token = taken.secrets[column]
    if token is None:
        return None
    if taken.spared_for is not None:
        return Verdict("unsupported", SPARED)
    if UNREADABLE in (token, *(taken.secrets[column] for column in _OF_CLIENT)):
        return Verdict("refused", Unsealable.code)
    seconds = min(AT_ONCE_S, current_app.config["OAUTH_REQUEST_TIMEOUT"])
    return taken.client.revoke(token, hint, url=taken.url, style=taken.style, seconds=seconds)


def _settle(taken: _Taken, verdicts: Mapping[str, Verdict | None]) -> str:
    """Write down what came of it. Commits. What it is called in the counts."""
    refresh, access = (verdicts[column] for column, _ in _TOKENS)
    outcome: str = revoking.together(refresh, access)
    told = next((one for one in (refresh, access) if one and one.outcome == outcome), None)
    code = told.code if told else None
    if outcome == "later" and taken.tries >= MOST_TRIES:
        outcome = "refused"
    change = sa.update(r).where(r.id == taken.id, r.attempt_id == taken.attempt)
    change = change.values(attempt_id=None, lease_ms=0, last_error_code=code)
    if outcome == "later":
        over = [name for name, one in verdicts.items() if one and one.outcome != "later"]
        pause = min(SLOWEST_S, 30.0 * 2.0 ** min(taken.tries, 12))
        wait = max(pause, (told and told.retry_after) or 0)
        change = change.values(not_before_ms=db_now_ms() + int(wait * 1000))
        change = change.values(dict.fromkeys(over))
    else:
        change = change.values(dict.fromkeys(column for column, _ in _TOKENS))
        change = change.values(state="given_up" if outcome == "refused" else "done")
        change = change.values(ended_at=utcnow())
    subject = Subject("connection", taken.connection_id, taken.gateway_name)
    about = {"host": taken.host, "tries": taken.tries} | ({"code": code} if code else {})
    if taken.spared_for is not None:
        about["spared_for"] = taken.spared_for
    with Session(db.engine) as session, session.begin():
        if session.scalar(change.returning(r.id)) is not None:
            action, result = _EVENTS[outcome]
            if outcome != "later" or taken.tries == 1:
                stage(session, entry(SYSTEM, action, subject, outcome=result, **about))
    return outcome


_EVENTS = {
    "ended": ("connection.ended_at_provider", "ok"),
    "gone": ("connection.ended_at_provider", "ok"),
    "unsupported": ("connection.revocation_unsupported", "failed"),
    "later": ("connection.revocation_waits", "failed"),
    "refused": ("connection.revocation_given_up", "failed"),
}


# -- what came of it -------------------------------------------------------------------------------


_WORDS = {
    ("done", NO_WAY): "unsupported",
    ("done", "unsupported_token_type"): "unsupported",
    ("done", SPARED): "spared",
    ("given_up", Unsealable.code): "unreadable",
}


def outcomes(connection_ids: Collection[str]) -> dict[str, str]:
    """What came of the last that was queued for each.

    revoked, unsupported, spared, waiting, given_up, unreadable.
    """
    mine = r.connection_id.in_(connection_ids)
    query = sa.select(r.connection_id, r.state, r.last_error_code).where(mine)
    found: dict[str, str] = {}
    with db.engine.connect() as link:
        for row in link.execute(query.order_by(r.created_at)):
            word = {"queued": "waiting", "given_up": "given_up"}.get(row.state, "revoked")
            found[row.connection_id] = _WORDS.get((row.state, row.last_error_code), word)
    return found
