"""Renewing against a model of it: any order of calls, faults, crashes, edits and goodbyes.

Time passes by moving the times of the row back. The provider rotates, forgives nothing, and notes
when each refresh token was shown and what we got to know of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.audit import SYSTEM
from app.db import AWAY, db, recent
from app.errors import AppError, ConnectionNeeded, ProviderError
from app.models import Connection, Revocation
from app.oauth import keeping, lease, refresh, spool, tokens
from app.oauth.asking import Asking
from app.oauth.freshness import Need, Timing
from app.oauth.replies import TokenSet
from app.oauth.row import look
from app.secretbox import box, cell
from app.states import LIVING
from tests.oauth.planted import ALICE, acme, change, grant, plant, stored
from tests.oauth.test_refresh import Fails

LIFE = 100.0
TIMING = Timing(  # a lease of 30 s, for which nobody waits in real time
    **{"deadline": -2.5, "margin": 32.5, "patience": 0.0},
    **{"quiet": 30.0, "threshold": 40.0, "usable": 5.0, "forced_gap": 60.0},
)
NOT_ACTED = ("unsent", "busy", "refused", "client")
LOST = ("lost before it acted", "lost after it acted")
CRASHES = ("crash before it acted", "crash after it acted")
MEANWHILE = ("disconnected", "detached", "connected anew", "overtaken")
CALL = st.tuples(
    st.sampled_from([0.0, 1.0, 20.0, 35.0, 70.0, 130.0]),
    st.sampled_from(
        [*["ok"] * 6, "ok, the same refresh token", *LOST * 2, *CRASHES * 2, *NOT_ACTED]
        + [*MEANWHILE, "the provider ended it"]
    ),
    st.booleans(),
)
TIMES = "issued_ms expires_ms lease_ms not_before_ms forced_ms attempt_ms refused_ms failing_ms"


class Crash(BaseException):
    """This process is gone."""


@dataclass
class Shown:
    """One request with this refresh token."""

    at: float
    heard: str = ""  # kept, replaced, dead, a failure; "": we got to know nothing


@dataclass
class Provider:
    """`families` are grants: by token, and those that are over."""

    now: float = 0.0
    minted: int = 0
    families: dict[str, int] = field(default_factory=dict)
    good: dict[int, str] = field(default_factory=dict)  # the refresh token that works
    over: set[int] = field(default_factory=set)
    ends: dict[str, float] = field(default_factory=dict)  # of access tokens
    shown: dict[str, list[Shown]] = field(default_factory=dict)

    def consent(self) -> TokenSet:
        return self._mint(self.minted, rotates=True)

    def _mint(self, family: int, *, rotates: bool) -> TokenSet:
        self.minted += 1
        access_token = f"at-{self.minted}"
        if rotates:
            self.good[family] = f"rt-{self.minted}"
        refresh_token = self.good[family]
        self.families[access_token] = self.families[refresh_token] = family
        self.ends[access_token] = self.now + LIFE
        return TokenSet(access_token, refresh_token if rotates else None, LIFE)

    def answer(self, token: str, *, rotates: bool) -> TokenSet:
        family = self.families[token]
        if family in self.over or token != self.good[family]:
            self.over.add(family)
            raise ProviderError("grant_ended", kind="dead")
        return self._mint(family, rotates=rotates)

    def works(self, token: str) -> bool:
        return self.families[token] not in self.over


class Renewing(RuleBasedStateMachine):
    def __init__(self, fails: Fails) -> None:
        super().__init__()
        self.provider, self.fails = Provider(), fails
        fails.left = 0
        self.before = (0, 0)
        self.heard_dead, self.family = False, 0

    @initialize()
    def consent(self) -> None:
        for model in (Connection, Revocation):
            with db.engine.begin() as link:
                link.execute(sa.delete(model))
        for file in self._spooled():
            file.unlink()
        self.provider.now = -70.0
        given = self.provider.consent()
        self.provider.now = 0.0
        names = {"access_token": given.access_token, "refresh_token": given.refresh_token}
        grant(30.0, life=LIFE, **names, revocation_url="https://as.test/revoke")

    # -- what happens ------------------------------------------------------------------------------

    @rule(data=st.data())
    def calls(self, data: st.DataObject) -> None:
        """Some, each after a while. `forced`: the server has refused the token."""
        for seconds, how, forced in data.draw(st.lists(CALL, min_size=2, max_size=6)):
            self._time_passes(seconds)
            self._call(how, after=stored().token_gen if forced else None)
            self.versions_only_grow()
            self.only_the_provider_ends_a_grant()

    @precondition(lambda self: not self.fails.left)
    @rule()
    def database_takes_no_tokens(self) -> None:
        self.fails.left = 10**6

    @precondition(lambda self: self.fails.left)
    @rule()
    def database_takes_them_again(self) -> None:
        self._database_is_back()

    @precondition(lambda self: any(self._spooled()))
    @rule()
    def housekeeping(self) -> None:
        spool.apply()

    @precondition(lambda self: stored().state not in LIVING)
    @rule()
    def connect_again(self) -> None:
        self._database_is_back()
        self._connect()

    # -- how ---------------------------------------------------------------------------------------

    def _spooled(self) -> list[Path]:
        return list(spool.folder().iterdir()) if spool.folder().exists() else []

    def _time_passes(self, seconds: float) -> None:
        self.provider.now += seconds
        back, c = int(seconds * 1000), Connection
        values: dict[str, Any] = {name: getattr(c, name) - back for name in TIMES.split()}
        attempt = stored().attempt_id
        if attempt:  # which begins with a time, too
            values["attempt_id"] = f"{int(attempt[:12], 16) - back:012x}{attempt[12:]}"
        change(**values)
        for file in self._spooled():
            it = spool._read(file.name)
            times = {n: v - back for n, v in it.columns.items() if n in TIMES and v is not None}
            spool.write(replace(it, columns={**it.columns, **times}))
        recent().clear()

    def _call(self, how: str, after: int | None = None) -> None:
        def ask(asked: Asking) -> TokenSet:
            token = asked.refresh_token or ""
            request = Shown(self.provider.now)
            self._may_be_shown(token)
            self.provider.shown.setdefault(token, []).append(request)
            try:
                got = self._answer(token, how)
            except ProviderError as error:
                owns = how not in ("overtaken", "connected anew")  # its attempt is over
                is_known = error.kind != "unknown" and (owns or error.kind != "dead")
                request.heard = error.kind if is_known else ""
                self.heard_dead |= request.heard == "dead"
                raise
            request.heard = "kept" if got.refresh_token in (None, token) else "replaced"
            return got

        try:
            seen = refresh.renew(acme(), after=after, timing=TIMING, ask=ask)
        except Crash:
            pass
        except (AppError, *AWAY) as error:
            if isinstance(error, ConnectionNeeded):
                assert error.state in ("needs_reauth", "revoked", "orphaned")
        else:
            served = tokens._opened(seen).headers["Authorization"].removeprefix("Bearer ")
            lives = self.provider.ends[served] - self.provider.now
            assert lives > 0, "a dead token was served"
            assert self.provider.families[served] == self.family, "of the grant before"

    def _answer(self, token: str, how: str) -> TokenSet:
        if how in NOT_ACTED:
            raise ProviderError("provider_error", kind=how)
        if "before it acted" in how:
            raise Crash if how.startswith("crash") else ProviderError("timeout", kind="unknown")
        if how == "the provider ended it":
            self.provider.over.add(self.provider.families[token])
        if how in MEANWHILE:
            self._meanwhile(how)
        got = self.provider.answer(token, rotates="the same" not in how)
        if "after it acted" in how:
            raise Crash if how.startswith("crash") else ProviderError("timeout", kind="unknown")
        return got

    def _meanwhile(self, how: str) -> None:
        if how == "disconnected":
            keeping.forget(ALICE, "acme", by=SYSTEM)
            db.session.commit()
        elif how == "detached":
            change(**lease.UNTOKENED, state="orphaned", token_gen=Connection.token_gen + 1)
        elif how == "connected anew":
            self._database_is_back()
            self._connect()
        else:  # our lease ran out, and another took it
            self._time_passes(31.0)
            gateway = acme()
            row, need = look(gateway, Need(gateway.config, TIMING))
            assert lease.claim(need, row, lease.new_attempt()) is not None

    def _connect(self) -> None:
        """As after a new consent: another grant, in the same row."""
        self.heard_dead = False
        self.family = self.provider.minted
        given, row = self.provider.consent(), stored()
        where = {name: cell(row, f"{name}_sealed") for name in ("access_token", "refresh_token")}
        columns = lease.sealed(row, given, 0, can_renew=True) | {
            f"{name}_sealed": box().seal(getattr(given, name), where=where[name]) for name in where
        }
        with db.engine.connect() as link:
            now = link.scalar(sa.select(lease.db_now_ms()))
        life = {"issued_ms": now, "expires_ms": now + int(LIFE * 1000)}
        moved = {"token_gen": row.token_gen + 1, "version": row.version + 1}
        change(**columns | lease.SETTLED | life | moved | {"forced_ms": 0})
        recent().clear()

    def _database_is_back(self) -> None:
        self.fails.left = 0

    def _may_be_shown(self, token: str) -> None:
        """At most once, unless the provider did not act; or nobody knows, and time has passed."""
        for before in self.provider.shown.get(token, []):
            if before.heard in (*NOT_ACTED, "kept"):
                continue
            assert before.heard == "", f"shown again although it was {before.heard}"
            assert self.provider.now - before.at >= TIMING.quiet, "shown again too soon"

    # -- what always holds -------------------------------------------------------------------------

    @invariant()
    def versions_only_grow(self) -> None:
        row = stored()
        now = (row.version, row.token_gen)
        assert now[0] >= self.before[0] and now[1] >= self.before[1]
        self.before = now

    @invariant()
    def only_the_provider_ends_a_grant(self) -> None:
        row = stored()
        if row.state == "needs_reauth":
            assert row.reason == "grant_ended" and self.heard_dead

    @invariant()
    def nothing_of_a_grant_that_lives_is_gone(self) -> None:
        row = stored()
        if row.state in LIVING:
            assert row.access_token_sealed and row.refresh_token_sealed

    def teardown(self) -> None:
        """I5: with all faults over, it works again, or its person was told why not."""
        self._database_is_back()
        spool.apply()
        self._time_passes(130.0)
        patient = replace(TIMING, quiet=0.0, deadline=20.0, margin=10.0)
        try:
            seen = refresh.renew(acme(), timing=patient, ask=self.last)
        except ConnectionNeeded:
            return
        served = tokens._opened(seen).headers["Authorization"].removeprefix("Bearer ")
        assert self.provider.works(served) and self.provider.ends[served] > self.provider.now

    def last(self, asked: Asking) -> TokenSet:
        return self.provider.answer(asked.refresh_token or "", rotates=True)


@pytest.mark.usefixtures("app_ctx")
def test_refresh_model():
    plant(revocation_url="https://as.test/revoke")
    fails = Fails("last_refresh_ms=", "before", times=0)
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        lambda: Renewing(fails),
        settings=settings(
            max_examples=15,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=checks,
            database=None,
            phases=[Phase.generate],  # shrinking what happens in a database takes minutes
        ),
    )
