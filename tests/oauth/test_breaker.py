"""A breaker turns away, and decides nothing."""

import pytest

from app.errors import ProviderError
from app.oauth.breaker import AFTER, FOR_S, Breaker

URL = "https://as.test/token"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock) -> Breaker:
    return Breaker(clock)


def fails(breaker, kind="unsent", url=URL) -> ProviderError:
    with pytest.raises(ProviderError) as caught, breaker.passing(url):
        raise ProviderError("timeout" if kind == "unknown" else "connect_failed", kind=kind)
    return caught.value


@pytest.mark.parametrize("kind", ["unsent", "unknown"])
def test_f_02_five_in_a_row_open_it_for_ten_seconds(breaker, clock, kind):
    for _ in range(AFTER):
        assert fails(breaker, kind).retry_after is None
    turned_away = fails(breaker, kind)
    assert (turned_away.kind, turned_away.retry_after) == ("unsent", 10)
    assert turned_away.code == ("timeout" if kind == "unknown" else "connect_failed")
    clock.now += FOR_S - 0.1
    assert fails(breaker).retry_after == 1


def test_f_02_half_open_it_lets_one_through_and_closes_with_an_answer(breaker, clock):
    for _ in range(AFTER):
        fails(breaker)
    clock.now += FOR_S
    with breaker.passing(URL):
        with pytest.raises(ProviderError):  # another, meanwhile
            breaker.passing(URL).__enter__()
    with breaker.passing(URL):
        pass
    assert fails(breaker).retry_after is None  # it counts from the beginning


def test_f_02_half_open_a_failure_opens_it_again(breaker, clock):
    for _ in range(AFTER):
        fails(breaker)
    clock.now += FOR_S
    assert fails(breaker).retry_after is None
    assert fails(breaker).retry_after == 10


def test_one_that_was_let_through_and_never_came_back_does_not_keep_it_shut(breaker, clock):
    for _ in range(AFTER):
        fails(breaker)
    clock.now += FOR_S
    breaker.passing(URL).__enter__()
    clock.now += FOR_S
    with breaker.passing(URL):
        pass


@pytest.mark.parametrize("kind", ["busy", "refused", "client", "dead"])
def test_who_answers_is_there(breaker, kind):
    for _ in range(AFTER - 1):
        fails(breaker)
    fails(breaker, kind)
    for _ in range(AFTER):
        assert fails(breaker).retry_after is None


def test_endpoints_fail_apart_from_each_other(breaker):
    for _ in range(AFTER):
        fails(breaker)
    with breaker.passing("https://other.test/token"):
        pass
