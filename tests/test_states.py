"""The table of oauth.md 6.2."""

import pytest

from app.states import LIVING, OVER, STATES, badge, may_follow

ROWS = [  # an event, the states it leads from, the one it leads to
    ("tokens stored", ["", *LIVING, *OVER], "active"),
    ("lease taken", LIVING, "refreshing"),
    ("the provider gave nothing", ["refreshing", "failing"], "failing"),
    ("ended, expired, unreadable", LIVING, "needs_reauth"),
    ("an edit, a lost permission", [*LIVING, "needs_reauth", "orphaned"], "orphaned"),
    ("disconnected", [*LIVING, "needs_reauth", "orphaned"], "revoked"),
]


@pytest.mark.parametrize(("before", "after"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_transition(before, after):
    every = ["", *STATES]
    assert [one for one in every if may_follow(one, after)] == [
        one for one in every if one in before
    ]


def test_every_state_has_words():
    assert {*LIVING, *OVER, "pending"} == {*STATES}
    for name in STATES:
        kind, word = badge(name)
        assert kind in ("ok", "warn", "bad", "draft") and word[0].isupper()
