"""Every number of the security programme has a test that is named after it."""

from pathlib import Path

import pytest

from tests.security import coverage

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def named():
    return coverage.tests()


def test_the_list_is_complete():
    wanted = [f"SEC-{n:03}" for n in range(1, 122)] + [f"F-{n:02}" for n in range(1, 47)]
    assert list(coverage.numbers()) == wanted


@pytest.mark.parametrize(("number", "entry"), coverage.numbers().items())
def test_every_number_has_a_test_or_says_why_not(number, entry, named):
    is_excused = bool(entry.reason or entry.open)
    assert bool(named.get(number)) != is_excused, entry
    assert entry.title.strip()


@pytest.mark.parametrize(("number", "entry"), coverage.numbers().items())
def test_what_cannot_apply_is_no_excuse_once_it_can(number, entry):
    assert bool(entry.until) == bool(entry.reason or entry.partly)
    assert not entry.until or not (ROOT / entry.until).exists()


def test_no_test_carries_a_number_that_there_is_not(named):
    assert named.keys() <= coverage.numbers().keys()


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("test_sec_001_a_state_works_once", {"SEC-001"}),
        ("test_f_04_a_busy_provider", {"F-04"}),
        ("test_sec_045_and_067_out", {"SEC-045", "SEC-067"}),
        ("test_sec_103_f_16_f_17_one_request", {"SEC-103", "F-16", "F-17"}),
        ("test_200_is_not_a_number", set()),
        ("test_an_answer_f_04", set()),
    ],
)
def test_a_name_carries_its_numbers_in_front(name, numbers):
    assert coverage.claims(name) == numbers
