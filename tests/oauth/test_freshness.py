"""Which token may be handed out, and which is due (oauth.md 7.1)."""

import dataclasses
import hashlib
import time

import pytest

from app.access import Seen, UsableConfig
from app.oauth.freshness import Need, Timing, timing_of
from app.specs import OAuthConfigSpec

TIMING = Timing(threshold=300.0)
HOUR = 3600.0


def config(grant: str = "authorization_code", version: int = 1, **kept) -> UsableConfig:
    kept = {"store_tokens": True, "auto_refresh": True} | kept
    urls = {"token_url": "https://as.test/token", "authorization_url": "https://as.test/authorize"}
    spec = OAuthConfigSpec.model_validate({"grant_type": grant, "token_management": kept, **urls})
    return UsableConfig("c1", version, "r1", spec)


def seen(left: float | None, life: float = HOUR, **values) -> Seen:
    """A connection whose token has `left` seconds of its `life` to go."""
    now = 1_800_000_000_000
    fields = dict.fromkeys(Seen.__dataclass_fields__)
    fields |= dict.fromkeys(("lease_ms", "not_before_ms", "forced_ms", "fail_count"), 0)
    fields |= {"id": "a", "owner_key": "user:alice", "state": "active", "config_version": 1}
    fields |= {"access_token_sealed": "…", "refresh_token_sealed": "…", "token_gen": 1}
    if left is not None:
        fields |= {"expires_ms": now + int(left * 1000)}
        fields |= {"issued_ms": now + int((left - life) * 1000)}
    return Seen(**fields | {"now_ms": now, "read_at": time.monotonic()} | values)


@pytest.mark.parametrize(
    ("left", "life", "lives", "fresh"),
    [
        (HOUR, HOUR, True, True),
        (301, HOUR, True, True),
        (265, HOUR, True, False),  # due: the threshold, at most a tenth later for the jitter
        (6, HOUR, True, False),
        (4.9, HOUR, False, False),  # USABLE: it could end on the way
        (-1, HOUR, False, False),
        (151, 300, True, True),  # half of the life, as the threshold would make it due at once
        (134, 300, True, False),
        (1.1, 2, True, True),
        (0.6, 2, True, False),
        (0.4, 2, False, False),  # a quarter of the life
        (None, 0, True, True),  # nobody said when it ends (SEC-109)
    ],
)
def test_sec_108_a_token_is_handed_out_and_renewed_in_time(left, life, lives, fresh):
    need = Need(config(), TIMING)
    assert (need.lives(seen(left, life)), need.is_fresh(seen(left, life))) == (lives, fresh)


def test_sec_108_time_goes_on_while_a_value_is_kept():
    """By this process's monotonic clock, from the database's time as it was read."""
    kept = dataclasses.replace(seen(60), read_at=time.monotonic() - 58)
    assert not Need(config(), TIMING).lives(kept)


def test_people_who_came_together_do_not_renew_together():
    need = Need(config(), TIMING)
    ids = [hashlib.md5(bytes([number])).hexdigest() for number in range(200)]
    fresh = [need.is_fresh(seen(285, id=one)) for one in ids]
    assert 50 < sum(fresh) < 150
    assert fresh == [need.is_fresh(seen(285, id=one)) for one in ids]


@pytest.mark.parametrize("state", ["needs_reauth", "revoked", "orphaned"])
def test_a_connection_that_is_over_has_no_living_token(state):
    assert not Need(config(), TIMING).lives(seen(HOUR, state=state))


def test_sec_110_a_refused_token_does_not_live():
    assert not Need(config(), TIMING, after=1).lives(seen(HOUR))
    assert Need(config(), TIMING, after=1).lives(seen(HOUR, token_gen=2))


def test_sec_024_a_shared_token_is_good_for_the_config_it_was_asked_with():
    need = Need(config("client_credentials", version=2), TIMING)
    assert not need.lives(seen(HOUR))
    assert need.lives(seen(HOUR, config_version=2))


def test_a_persons_grant_outlives_an_edit_that_does_not_end_it():
    assert Need(config(version=2), TIMING).lives(seen(HOUR))


def test_timing_comes_from_the_gateway_else_from_the_settings(app_ctx):
    assert timing_of(config()) == Timing(deadline=30.0, threshold=300)
    assert timing_of(config(refresh_threshold_seconds=60)).threshold == 60
    assert timing_of(config("client_credentials", auto_refresh=False)).threshold == 0


def test_a_lease_outlives_its_request_and_nobody_waits_for_all_of_it():
    for deadline in (0.1, 30.0, 600.0):
        timing = Timing(deadline=deadline)
        assert timing.deadline < timing.wait < timing.lease
