from __future__ import annotations

import base64
import secrets
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import Unsealable
from app.secretbox import (
    Altered,
    Bound,
    HandleOver,
    NotSealed,
    SecretBox,
    UnknownKey,
    WeakSecret,
    Where,
    key_id,
    key_of,
)

OLD, NEW = secrets.token_urlsafe(32), secrets.token_hex(32)
HERE = Where("connection", "0b7e", "refresh_token_sealed", "user-7")
box = SecretBox([OLD])


@pytest.mark.parametrize("secret", ["", "rt-1", "ü ☃ \x00", "x" * 16_384])
def test_a_sealed_secret_opens_in_its_place(secret: str) -> None:
    assert box.open(box.seal(secret, where=HERE), where=HERE) == secret


@pytest.mark.parametrize("part", ["table", "row", "column", "owner"])
def test_sec_078_a_moved_value_does_not_open(part: str) -> None:
    sealed = box.seal("rt", where=HERE)
    with pytest.raises(Altered):
        box.open(sealed, where=replace(HERE, **{part: "other"}))


def test_sec_078_neighbouring_parts_do_not_run_together() -> None:
    sealed = box.seal("rt", where=Where("ab", "c", "", ""))
    with pytest.raises(Altered):
        box.open(sealed, where=Where("a", "bc", "", ""))


@pytest.mark.parametrize(
    "value", ["gho_plaintexttoken", "", "mg1", "mg1.abc", "mg0.a.b", "a.b.c.d"]
)
def test_sec_079_a_value_without_our_envelope_is_refused(value: str) -> None:
    with pytest.raises(NotSealed):
        box.open(value, where=HERE)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "my-test-salt",
        "changeme" * 3,
        "a" * 64,
        "0" * 64,
        "this phrase has more than thirty-two bytes, but it is not random!",
        "V_KiftvPpSPhAarcqpCcqw",  # 16 bytes
    ],
)
def test_sec_080_a_weak_secret_stops_the_start(secret: str) -> None:
    with pytest.raises(WeakSecret):
        SecretBox([secret])


def test_sec_080_a_weak_old_secret_is_named_as_what_it_is() -> None:
    with pytest.raises(WeakSecret, match="^AUTH_ENCRYPTION_SECRETS_OLD: each must be") as caught:
        SecretBox([NEW, "zzz"])
    assert "Make one" not in str(caught.value)


def test_sec_080_no_secret_stops_the_start() -> None:
    with pytest.raises(WeakSecret):
        SecretBox([])


def test_sec_082_an_old_key_opens_and_reseal_moves_on() -> None:
    sealed, ring = box.seal("rt", where=HERE), SecretBox([NEW, OLD])
    moved = ring.reseal(sealed, where=HERE)
    assert ring.open(moved, where=HERE) == "rt"
    assert key_id(moved) == ring.active
    assert ring.reseal(moved, where=HERE) == moved
    with pytest.raises(UnknownKey):
        box.open(moved, where=HERE)


def test_a_value_cannot_be_relabelled_to_another_key() -> None:
    ring = SecretBox([NEW, OLD])
    sealed = box.seal("rt", where=HERE).replace(box.active, ring.active)
    with pytest.raises(Altered):
        ring.open(sealed, where=HERE)


def test_sec_043_a_handle_opens_for_its_purpose_person_and_gateway_only() -> None:
    bound = Bound("mcp-session", "user-7", "g-1")
    handle = box.seal_handle({"upstream": "s-1", "legacy": True}, bound=bound, life_s=60)
    assert box.open_handle(handle, bound=bound) == {"upstream": "s-1", "legacy": True}
    for part in ("purpose", "person", "gateway"):
        with pytest.raises(Altered):
            box.open_handle(handle, bound=replace(bound, **{part: "other"}))
    with pytest.raises(Altered):
        box.open(handle, where=HERE)


def test_sec_043_a_handle_ends() -> None:
    bound = Bound("ask", "user-7", "g-1")
    with pytest.raises(HandleOver):
        box.open_handle(box.seal_handle({}, bound=bound, life_s=-1), bound=bound)


def test_sec_083_equal_secrets_do_not_look_equal() -> None:
    """Salt and nonce are fresh for each: 100,000 of them differ in both."""
    raw = [box.seal("same", where=HERE).rpartition(".")[2] for _ in range(100_000)]
    heads = [base64.urlsafe_b64decode(one[:40])[:28] for one in raw]  # salt 16, nonce 12
    assert len({head[:16] for head in heads}) == len({head[16:] for head in heads}) == 100_000


def test_sec_084_the_text_of_the_error_tells_no_cause() -> None:
    causes = (NotSealed(), UnknownKey(), Altered(), HandleOver())
    assert {(str(one), one.message) for one in causes} == {
        ("secret_unreadable", "A stored secret cannot be read")
    }


@settings(max_examples=300)
@given(st.data())
def test_any_changed_bit_is_noticed(data: st.DataObject) -> None:
    sealed = box.seal("secret-token-value", where=HERE)
    letters = bytearray(sealed.encode())
    letters[data.draw(st.integers(0, len(letters) - 1))] ^= 1 << data.draw(st.integers(0, 6))
    with pytest.raises(Unsealable):
        box.open(letters.decode("latin1"), where=HERE)


ANY = st.characters()  # surrogates, too
PARTS = st.builds(Where, *[st.text(max_size=20)] * 4)


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(ANY, max_size=200), st.from_regex(r"mg1\.[0-9a-f]{12}\.[\w-]{0,90}", fullmatch=True)
    )
)
def test_garbage_raises_nothing_but_unsealable(value: str) -> None:
    with pytest.raises(Unsealable):
        box.open(value, where=HERE)
    with pytest.raises(Unsealable):
        box.open_handle(value, bound=Bound("ask", "user-7", "g-1"))
    assert isinstance(key_of(value), str)


@settings(max_examples=300)
@given(st.text(max_size=200), PARTS, PARTS)
def test_sec_078_a_value_opens_where_it_was_sealed_and_nowhere_else(secret, here, there) -> None:
    sealed = box.seal(secret, where=here)
    assert box.open(sealed, where=here) == secret
    if here != there:
        with pytest.raises(Altered):
            box.open(sealed, where=there)


@settings(max_examples=300)
@given(st.binary(max_size=120), st.sampled_from(["", box.active, "deadbeef0000", "."]))
def test_an_envelope_around_garbage_does_not_open(body, key) -> None:
    text = base64.urlsafe_b64encode(body).rstrip(b"=").decode()
    with pytest.raises(Unsealable):
        box.open(f"mg1.{key}.{text}", where=HERE)
