"""People, their passwords, and what slows down guessing."""

import functools
import json
import subprocess
import sys
import threading

import argon2
import pytest
import sqlalchemy as sa

from app import passwords, people, sessions, throttle
from app.audit import SYSTEM, Actor
from app.db import db
from app.errors import Busy, Conflict, Invalid
from app.models import BrowserSession, Throttle, User
from tests.conftest import PASSWORD, rows
from tests.waiting import Deadlocks

GOOD = [
    *("correct horse battery", "four quiet zebras knit", "Tr0ub4dor&3xyzzy", "8$3!92#1@7^5&0"),
    *(
        "  spaces at the ends  ",
        "пароль очень длинный",
        "密码要长一点才安全对吗好的",
        "🦓" * 2 + "a zebra eats",
    ),
    *("kjw9" + "xqzpt" * 39 + "v", "alice reads quantum zebras", "x7Kd93jQpLm2"),
]
COMMON = [
    *("password1234", "Password1234", "P@ssw0rd2026", "passwordpassword", "qwertyuiop12"),
    *("123456789012", "1q2w3e4r5t6y", "qwerty123456", "iloveyou2026!", "abcabcabcabc"),
    *("aaaaaaaaaaaa", "letmeinletmein", "welcome2hell", "Summer-2026-Winter", "1qaz2wsx3edc"),
    *("admin-admin-admin", "dragonmonkey99", "trustno1trustno1", "zxcvbnm12345", "123123123123"),
    *("MCP-Gateway-2026", "changeme12345", "monkey.dragon.football"),
]


@pytest.mark.parametrize("password", GOOD)
def test_sec_073_a_long_password_of_any_kind_is_taken(password):
    passwords.check_new(password, email="ana@example.com")


@pytest.mark.parametrize("password", COMMON)
def test_sec_073_a_common_password_is_refused(password):
    with pytest.raises(Invalid):
        passwords.check_new(password, email="ana@example.com")


def test_sec_073_three_thousand_common_ones_are_refused():
    words = sorted(word for word in passwords._words() if 6 <= len(word) <= 12)
    tails = ["1234567", "2026!!", "123456789", "_2025_"]
    made = {f"{word}{tail}" for word in words for tail in tails if len(word + tail) >= 12}
    assert len([one for one in made if passwords.is_common(one)]) == len(made) > 1000
    pairs = {first + second for first in words[:80] for second in words[:80]}
    assert len([one for one in pairs if passwords.is_common(one)]) > 3000


@pytest.mark.parametrize("password", ["ana.sample2026", "Example-Ana-2026", "ana@example.com"])
def test_a_password_made_of_the_email_is_refused(password):
    with pytest.raises(Invalid):
        passwords.check_new(password, email="ana.sample@example.com")


@pytest.mark.parametrize("length", [11, 1001])
def test_sec_073_too_short_and_too_long_are_refused(length):
    with pytest.raises(Invalid):
        passwords.check_new("zk" * 500 + "q" if length > 1000 else "zkqjxwvpyth", email="a@b.c")


def test_a_password_counts_to_the_last_space(app_ctx):
    people.create("ana@example.com", password="  four quiet zebras ")
    db.session.commit()
    kept = people.named("ana@example.com").password_hash
    assert passwords.is_right("  four quiet zebras ", kept)
    for other in ("four quiet zebras", "  four quiet zebras", "  Four quiet zebras "):
        assert not passwords.is_right(other, kept)


def test_sec_069_hashes_are_argon2id_with_enough_memory(app_ctx):
    kept = argon2.extract_parameters(passwords.hashed(PASSWORD))
    assert kept.type is argon2.Type.ID
    assert kept.memory_cost >= 46 * 1024 and kept.time_cost >= 1 and kept.parallelism == 1


def test_sec_069_a_hash_of_less_memory_is_renewed_at_sign_in(app_ctx):
    user = people.create("ana@example.com", password=PASSWORD)
    user.password_hash = argon2.PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD)
    db.session.commit()
    assert people.sign_in("ana@example.com", PASSWORD, by=SYSTEM, agent="")
    db.session.commit()
    kept = argon2.extract_parameters(people.named("ana@example.com").password_hash)
    assert kept.memory_cost == passwords.MEMORY_KIB


@pytest.mark.parametrize("kept", [None, "", "not a hash", "$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA"])
def test_a_broken_or_missing_hash_lets_nobody_in(kept):
    assert not passwords.is_right("anything at all", kept)


UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import json, resource, sys, gevent
from app import passwords
passwords.is_right("x", None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ticks, done = 0, []
def tick():
    global ticks
    while len(done) < 24:
        ticks += 1
        gevent.sleep(0)
def sign_in():
    try:
        done.append(passwords.is_right("wrong", None))
    except passwords.Busy:
        done.append(None)
jobs = [gevent.spawn(tick)] + [gevent.spawn(sign_in) for _ in range(24)]
gevent.joinall(jobs)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"ticks": ticks, "grown_kib": grown, "done": len(done)}))
"""


def test_sec_069_many_sign_ins_stop_no_stream_and_stay_below_the_cap():
    done = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["done"] == 24
    assert seen["ticks"] > 24  # the hub went on while real threads hashed
    assert seen["grown_kib"] < passwords.AT_ONCE * passwords.MEMORY_KIB


# -- the rules about people -----------------------------------------------------------------------


def made(*roles):
    users = [
        people.create(f"{role}{number}@example.com", password=None, role=role)
        for number, role in enumerate(roles)
    ]
    ids = [user.id for user in users]
    db.session.commit()
    return ids


@pytest.mark.parametrize("email", ["", "ana", "@example.com", "ana@", "a b@c.d", "a@b\u202e.c"])
def test_what_is_no_email_is_refused(app_ctx, email):
    with pytest.raises(Invalid):
        people.create(email, password=None)


def test_an_email_is_taken_once_in_any_case(app_ctx):
    people.create("Ana@Example.com", password=None)
    with pytest.raises(Invalid) as refusal:
        people.create("ana@example.COM", password=None)
    assert refusal.value.fields == {"email": "There is already an account with this email."}


@pytest.mark.parametrize(
    "remove",
    [
        lambda one: people.set_role(one, "user", by=SYSTEM),
        lambda one: people.disable(one, by=SYSTEM),
        lambda one: people.delete(one, by=SYSTEM),
    ],
)
def test_the_last_admin_who_can_sign_in_stays(app_ctx, remove):
    first, second, _ = made("admin", "admin", "user")
    people.disable(second, by=SYSTEM)
    db.session.commit()
    with pytest.raises(Conflict):
        remove(first)
    db.session.rollback()
    people.enable(second, by=SYSTEM)
    db.session.commit()
    remove(first)


def test_two_admins_who_remove_each_other_leave_one(app):
    with app.app_context():
        ids = made("admin", "admin")
    ready, ends = threading.Barrier(2), []

    def demote(one):
        with app.app_context():
            ready.wait()
            try:
                people.set_role(one, "user", by=SYSTEM)
                db.session.commit()
                ends.append("done")
            except Conflict:
                db.session.rollback()
                ends.append("refused")

    threads = [threading.Thread(target=demote, args=[one]) for one in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["done", "refused"]
    assert sorted(user.role for user in rows(app, User)) == ["admin", "user"]


@pytest.mark.parametrize("second", ["delete", "disable"])
def test_f_26_two_admins_who_delete_each_other_do_not_wait_in_a_circle(app, second):
    """Both have their first lock, or one waits for the other's, before either goes on."""
    with app.app_context():
        ids = made("admin", "admin")
    met, passed, ends = Deadlocks(app), set(), []

    def after_first_lock(_link, _cursor, statement, *_):
        me = threading.get_ident()
        if "user_account" in statement and "FOR UPDATE" in statement and me not in passed:
            passed.add(me)
            met.wait_until(lambda: len(passed) == 2 or met.somebody_waits())

    def remove(how, one):
        with app.app_context():
            try:
                how(one, by=SYSTEM)
                db.session.commit()
                ends.append("done")
            except Conflict:
                db.session.rollback()
                ends.append("refused")

    with app.app_context():
        sa.event.listen(db.engine, "after_cursor_execute", after_first_lock)
    last_first = sorted(ids, reverse=True)  # the admins are locked in the order of their ids
    pairs = zip([people.delete, getattr(people, second)], last_first, strict=True)
    threads = [threading.Thread(target=remove, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert (sorted(ends), met.found) == (["done", "refused"], [])


def test_a_sign_in_under_way_does_not_survive_a_new_password(app_ctx):
    (ana,) = made("user")
    people.set_password(ana, PASSWORD, by=SYSTEM)
    db.session.commit()
    known = people._known("user0@example.com")
    people.set_password(ana, "four quiet zebras knit", by=SYSTEM)
    db.session.commit()
    assert not people._still(known, known.password_hash)


def test_ended_sessions_are_swept_when_somebody_signs_in(app_ctx):
    (ana,) = made("user")
    sessions.start(ana, address="", agent="")
    db.session.commit()
    old = (
        sa.func.datetime("now", "-2 days") if on_sqlite() else sa.text("now() - interval '2 days'")
    )
    db.session.execute(sa.update(BrowserSession).values(seen_at=old))
    db.session.commit()
    sessions.start(ana, address="", agent="")
    db.session.commit()
    assert len(db.session.scalars(sa.select(BrowserSession)).all()) == 1


def on_sqlite():
    return db.engine.dialect.name == "sqlite"


# -- the throttle ---------------------------------------------------------------------------------


def pauses(limits, tries):
    """The pause after each try, each made as soon as the one before was over."""
    seen = []
    for _ in range(tries):
        seen.append(throttle.take(limits))
        db.session.execute(sa.update(Throttle).values(not_before_ms=0))
        db.session.commit()
    return seen


def test_sec_070_pauses_double_and_end(app_ctx):
    limits = throttle.sign_in("ana@example.com", "203.0.113.6")
    assert pauses(limits, 16) == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]


def test_sec_070_strangers_slow_the_owner_by_seconds_only(app_ctx):
    for number in range(56):
        limits = throttle.sign_in("ana@example.com", f"203.0.113.{number}")
        longest = max(pauses(limits, 1))
    assert longest == 5


def test_sec_070_while_a_pause_lasts_nothing_is_counted(app_ctx):
    limits = throttle.sign_in("ana@example.com", "203.0.113.6")
    for _ in range(5):
        throttle.take(limits)
    counts = sorted(row.failures for row in db.session.scalars(sa.select(Throttle)))
    with pytest.raises(Busy) as refusal:
        throttle.take(limits)
    assert refusal.value.retry_after == 1
    db.session.expire_all()
    assert sorted(row.failures for row in db.session.scalars(sa.select(Throttle))) == counts


def test_a_right_password_takes_its_try_back(app_ctx):
    limits = throttle.sign_in("ana@example.com", "203.0.113.6")
    throttle.take(limits)
    throttle.take(limits)
    throttle.give_back(limits)
    db.session.commit()
    kept = {row.key: row.failures for row in db.session.scalars(sa.select(Throttle))}
    assert kept == {limits[1].key: 1, limits[2].key: 1}


def test_after_an_hour_the_count_starts_anew(app_ctx):
    limits = throttle.sign_in("ana@example.com", "203.0.113.6")
    pauses(limits, 9)
    db.session.execute(sa.update(Throttle).values(last_ms=Throttle.last_ms - 3_700_000))
    db.session.commit()
    assert pauses(limits, 2) == [0, 0]


def test_whoever_has_an_ipv6_address_has_all_of_its_network(app_ctx):
    one = throttle.sign_in("ana@example.com", "2001:db8:1:2::3")
    other = throttle.sign_in("ana@example.com", "2001:db8:1:2:ffff::4")
    far = throttle.sign_in("ana@example.com", "2001:db8:1:3::3")
    assert one == other != far
    mapped = throttle.sign_in("ana@example.com", "::ffff:203.0.113.6")  # of a socket for both
    assert mapped == throttle.sign_in("ana@example.com", "203.0.113.6")


def test_no_email_and_no_address_is_kept_by_the_throttle(app_ctx):
    throttle.take(throttle.sign_in("ana@example.com", "203.0.113.6"))
    kept = repr([vars(row) for row in db.session.scalars(sa.select(Throttle))])
    assert "ana" not in kept and "203.0.113" not in kept


def test_sec_071_whoever_it_is_one_hash_is_computed_and_the_same_is_asked(app_ctx):
    """Nothing here is timed: the work is counted."""
    people.create("ana@example.com", password=PASSWORD)
    people.create("off@example.com", password=PASSWORD)
    people.create("new@example.com", password=None)
    people.disable(people.named("off@example.com").id, by=SYSTEM)
    db.session.commit()
    strength = argon2.extract_parameters(people.named("ana@example.com").password_hash)
    db.session.rollback()
    work = {}
    for email in ("ana@example.com", "off@example.com", "new@example.com", "nobody@example.com"):
        hashed, asked = [], []

        def matches(kept, password, hashed=hashed):
            hashed.append(argon2.extract_parameters(kept))
            return passwords.matches(kept, password)

        def note(_link, _cursor, statement, *_rest, asked=asked):
            asked.append(statement)

        sa.event.listen(db.engine, "before_cursor_execute", note)
        by = Actor("anonymous", address="203.0.113.6")
        is_right = functools.partial(passwords.is_right, matches=matches)
        assert people.sign_in(email, PASSWORD + "x", by=by, agent="", is_right=is_right) is None
        db.session.commit()
        sa.event.remove(db.engine, "before_cursor_execute", note)
        assert hashed == [strength], email
        work[email] = asked
    assert len({tuple(asked) for asked in work.values()}) == 1, work
