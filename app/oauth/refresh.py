"""One token request per grant and expiry over all threads, workers and nodes (oauth.md 7.2).

Whoever renews takes a lease on the row by compare-and-swap and asks the provider with no
transaction open. A failure is written only by the holder of the lease, tokens only while no newer
ones are in, so neither a late loser nor a late winner does harm. Nothing here deletes a row.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from flask import current_app
from sqlalchemy.exc import SQLAlchemyError

from .. import metrics
from ..access import Seen, Usable, UsableConfig
from ..db import AWAY
from ..draining import draining
from ..errors import AppError, Kind, NotFound, NotRecorded, ProviderError, TokenRefused, Unsealable
from ..secretbox import Where, box
from ..states import LIVING
from . import asking, lease, spool
from .asking import Ask, Asking
from .freshness import Need, Timing, timing_of
from .lease import Kept
from .replies import TokenSet
from .row import Row, look


def renew(
    gateway: Usable,
    *,
    after: int | None = None,
    timing: Timing | None = None,
    ask: Ask = asking.ask_provider,
) -> Seen:
    """The connection with a token that lives, got anew if need be. Commits.

    Raises ConnectionNeeded, TokenRefused, ProviderError, NotFound. `after` is the token_gen that
    the MCP server answered 401 to: fifty callers who bring the same cause one request. Call it
    with no transaction open.
    """
    config, seen = gateway.config, gateway.connection
    if config is None:
        raise NotFound("gateway_not_found", gateway=gateway.slug)
    need = Need(config, timing or timing_of(config), after)
    give_up = time.monotonic() + need.timing.wait
    lock = _lock(f"{config.id} {gateway.owner_key}")
    if lock.locked() and not (seen is not None and need.lives(seen)):
        metrics.lease_wait()
    while True:
        alive = seen is not None and need.lives(seen)
        if lock.acquire(timeout=0 if alive else lease.between(0.1, 0.3)):
            break
        if seen is not None and alive:
            return seen  # somebody is on it, and this one works
        if time.monotonic() > give_up:
            raise _unavailable(gateway, seen)
        # Do not queue through the next renewal: by now it may be alive again.
        seen, need = look(gateway, need)
    try:
        return _renew(gateway, need, ask, give_up)
    finally:
        lock.release()


def _renew(gateway: Usable, need: Need, ask: Ask, give_up: float) -> Seen:
    waited = False
    while True:
        row, need = look(gateway, need)  # always again: another process may have finished
        found = _turn(gateway, need, row, ask)
        if found is not None:
            return found
        if time.monotonic() > give_up:
            row, _ = look(gateway, need)  # raises what was found out just now, if it is over
            raise _unavailable(gateway, row)
        if not waited:
            metrics.lease_wait()
            waited = True
        time.sleep(lease.between(0.02, 0.06))


def _turn(gateway: Usable, need: Need, row: Row | None, ask: Ask) -> Seen | None:
    """A connection to use, or None: look again."""
    if row is None or row.state not in LIVING or not need.fits(row):
        lease.start_over(gateway, need.config, row)
        return None
    if need.is_fresh(row):
        return row
    waiting = spool.find(row)
    if waiting is not None:
        return _use_waiting(need, row, waiting)
    if not need.can_renew(row):
        return _use_up(need, row)
    if _was_forced_just_now(need, row):
        code = None if gateway.signs_people_in else "token_refused_shared"
        raise TokenRefused(code, gateway=gateway.slug)
    if row.is_paused or lease.is_held(row, need.timing) or _is_uncertain(need, row):
        return _meanwhile(gateway, need, row)
    return _take(gateway, need, row, ask)


def _use_waiting(need: Need, row: Row, waiting: Row) -> Row | None:
    """The database has not got the last tokens yet; those before may be void, so nobody asks.

    Raises what the database does, if they do not serve this call.
    """
    if need.lives(waiting):
        return waiting
    spool.recover(row)
    return None


def _use_up(need: Need, row: Row) -> Row | None:
    """A token that nothing can follow serves to its end, or until it is refused."""
    if need.lives(row):
        return row
    lease.end(row, "refused_by_server" if need.after == row.token_gen else "expired")
    return None


def _meanwhile(gateway: Usable, need: Need, row: Row) -> Row | None:
    """Another has the lease, or the provider is left in peace for a while."""
    if need.lives(row):
        return row
    if row.is_paused:
        raise _unavailable(gateway, row)  # nobody sleeps through a Retry-After
    return None


def _was_forced_just_now(need: Need, row: Row) -> bool:
    gap = row.forced_ms + lease.ms(need.timing.forced_gap)
    return need.after == row.token_gen and row.state == "active" and row.now() < gap


def _is_uncertain(need: Need, row: Row) -> bool:
    """Its holder died or lost the answer: use up the living token before the old grant is shown
    again. Client credentials can be asked for twice without harm.
    """
    quiet = row.lease_ms + lease.ms(need.timing.quiet)
    open_ended = row.state == "refreshing" and not need.config.is_shared and row.now() < quiet
    return open_ended and need.lives(row)


def _take(gateway: Usable, need: Need, row: Row, ask: Ask) -> Seen | None:
    """Take the lease, and ask."""
    try:
        with_what = _asking(gateway, need.config, row)
    except Unsealable:
        lease.end(row, "secret_unreadable")
        return None
    attempt = lease.new_attempt()
    try:
        t0 = lease.claim(need, row, attempt)
    except AWAY:
        if not need.lives(row):
            raise
        return row  # a database that nobody can write to now need not stop a call
    if t0 is None:
        return None
    return _attempt(need, row, (attempt, t0), lambda: _news(ask(with_what), with_what))


def _news(tokens: TokenSet, asked: Asking) -> TokenSet:
    """Without a refresh token that is the old one, said again."""
    # nosemgrep: secret-compared  # both are the provider's; nobody guesses here
    is_old = tokens.refresh_token == asked.refresh_token
    return replace(tokens, refresh_token=None) if is_old else tokens


def _attempt(
    need: Need, row: Row, claim: tuple[str, int], ask: Callable[[], TokenSet]
) -> Seen | None:
    """Ask, and write down what came of it. Nothing of the database is held meanwhile."""
    (attempt, t0), found = claim, None
    ends = time.monotonic() + need.timing.lease
    with draining().unfinished():
        try:
            tokens = ask()
        except AppError as error:
            is_over = lease.give_back(need, row, attempt, error)
        else:
            found = _keep(need, row, lease.kept(need, row, tokens, t0), ends)
            is_over = found is not None
        if not is_over:
            lease.let_go(row, attempt)
    return found


def _keep(need: Need, row: Row, it: Kept, ends: float) -> Seen | None:
    """What nobody gives twice: into the database, else into the spool, tried until the lease ends.

    None: the connection moved on. With a file in the spool nobody has to wait that long. Whatever
    the database says instead of yes: nothing of it is kept.
    """
    unkept = (SQLAlchemyError, NotRecorded)
    try:
        stored = lease.store(it, patience=0.0)
    except unkept:
        is_safe = spool.write(it)
        left = max(0.0, ends - time.monotonic())
        try:
            stored = lease.store(it, patience=min(left, need.timing.patience) if is_safe else left)
        except unkept:
            return spool.find(row)
    spool.settle(it, stored)
    return stored if stored is not None and stored.state in LIVING else None


def _asking(gateway: Usable, config: UsableConfig, row: Row) -> Asking:
    """A person's grant is renewed where and as whom it was given, never by today's config."""
    if config.is_shared:
        return asking.of_config(gateway, config)
    where = Where("connection", row.id, "refresh_token_sealed", row.owner_key)
    opened = box().open(row.refresh_token_sealed or "", where=where)
    client = row.registration_id or ""  # without one: client_needed, and never another's
    return Asking(config, client, row.resource, row.token_url, row.refresh_url, opened)


def _unavailable(gateway: Usable, seen: Seen | None) -> ProviderError:
    """What is told while there is no living token: the grant is kept, and when to ask again."""
    code, said, wait = "provider_unreachable", None, 1
    facts = {"gateway": gateway.slug, "host": _host(gateway)}
    if seen is not None:
        wait = max(1, -((seen.now() - max(seen.not_before_ms, seen.lease_ms)) // 1000))
    admins_matter = set(asking.CLIENT_CODES)
    if gateway.owner_key == "shared":
        admins_matter |= set(asking.ADMIN_CODES)
    if isinstance(seen, Row) and seen.state == "failing" and seen.last_error_code in admins_matter:
        code, said = seen.last_error_code, seen.last_error_text
    kind: Kind = "busy" if code == "provider_unreachable" else "client"
    if seen is not None:
        facts["state"] = seen.state  # after the attempt; the caller knows the one before
    if isinstance(seen, Row) and seen.is_refused_for_long and gateway.signs_people_in:
        page = f"{current_app.config['PUBLIC_URL']}/connections/{gateway.slug}"
        facts["hint"] = f"Or connect again: {page}"
    return ProviderError(code, kind=kind, said=said, retry_after=wait, **facts)


def _host(gateway: Usable) -> str:
    url = gateway.config.spec.token_url if gateway.config else None
    return urlsplit(url or "").hostname or ""


_locks: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()
_locks_guard = threading.Lock()


def _lock(key: str) -> threading.Lock:
    """One in this process per connection, for as long as somebody holds or awaits it."""
    with _locks_guard:
        return _locks.setdefault(key, threading.Lock())
