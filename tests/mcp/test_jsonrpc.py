"""Answers are known by their id, and can be given another one without touching the rest."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.mcp import jsonrpc

LONG = b"x" * 70_000
IDS = st.one_of(st.integers(), st.text())
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(IDS, VALUES, st.booleans(), st.booleans())
def test_an_answer_is_found_wherever_its_id_stands(call_id, value, is_first, is_spaced):
    ours = {"jsonrpc": "2.0", "id": call_id}
    message = {**ours, "result": value} if is_first else {"result": value, **ours}
    raw = json.dumps(message, indent=1 if is_spaced else None).encode()
    assert jsonrpc.answers(raw, call_id)
    assert not jsonrpc.answers(raw, f"{call_id}x")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"jsonrpc":"2.0","id":7,"result":"%b"}',
        b' {"jsonrpc":"2.0","result":"%b","id":7}\n',
        b'{"result":{"a":"%b}{"},"id":7,"jsonrpc":"2.0"}',
        b'{"result":"%b","id":7,"extra":1}',
    ],
)
def test_a_long_answer_is_found_by_its_ends(raw):
    assert jsonrpc.answers(raw % LONG, 7) and not jsonrpc.answers(raw % LONG, 8)


@pytest.mark.parametrize(
    ("raw", "call_id"),
    [
        (b'{"jsonrpc":"2.0","id":"1","result":{}}', 1),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', "1"),
        (b'{"jsonrpc":"2.0","id":true,"result":{}}', 1),
        (b'{"jsonrpc":"2.0","result":{"id":1},"id":2}', 1),
        (b'{"jsonrpc":"2.0","result":{"a":{"id":1}}}', 1),
        (b'{"jsonrpc":"2.0","id":1}', 1),
        (b'[{"jsonrpc":"2.0","id":1,"result":{}}]', 1),
        (b"", 1),
        (b"<html>", 1),
        (b'{"jsonrpc":"2.0","result":' + b"[" * 100_000, 1),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}{"id":9}', 1),
        (b'{"jsonrpc":"2.0","id":1,"result":{}} x', 1),
        (b'{"jsonrpc":"2.0","id":1,"result":NaN}', 1),
        (b'{"jsonrpc":"2.0","id":1,"result":%b%b}' % (b"[" * 9_999, b"]" * 9_999), 1),
        (b'{"jsonrpc":"2.0","id":1,"result":"%b"}{"id":9}' % LONG, 1),
        (b'{"jsonrpc":"2.0","id":1,"result":"%b"},"id":9}' % LONG, 1),
        (b'x,"result":"%b","id":1}' % LONG, 1),
        (b'{"jsonrpc":"2.0","id":1,"result":"%b"' % LONG, 1),
    ],
)
def test_what_only_looks_like_the_answer_is_not_taken_for_it(raw, call_id):
    assert not jsonrpc.answers(raw, call_id)


@given(IDS, IDS, VALUES)
def test_another_id_leaves_every_other_byte(old, new, value):
    before = json.dumps({"a": {"id": 9}, "x": value, "id": old, "z": value}, indent=2)
    after = jsonrpc.with_id(before.encode(), new).decode()
    assert json.loads(after) == {"a": {"id": 9}, "x": value, "id": new, "z": value}
    assert after == before.replace(f'\n  "id": {json.dumps(old)}', f'\n  "id": {json.dumps(new)}')


def test_odd_spellings_survive_another_id():
    raw = b' { "params" : {"n":1e2, "s":"\\u00e9\\/"} ,"id":0, "method":"x" } '
    assert jsonrpc.with_id(raw, "k") == raw.replace(b'"id":0', b'"id":"k"')


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"a":1}', b'{"a":', b"\xff", b"[" * 99_999])
def test_what_has_no_id_cannot_get_another(raw):
    with pytest.raises(ValueError):
        jsonrpc.with_id(raw, 1)
