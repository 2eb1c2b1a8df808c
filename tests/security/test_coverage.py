"""Every number of the security programme has a test that is named after it."""

import pytest

from tests.security import coverage


def test_the_list_is_complete():
    wanted = [f"SEC-{n:03}" for n in range(1, 122)] + [f"F-{n:02}" for n in range(1, 47)]
    assert list(coverage.numbers()) == wanted


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
