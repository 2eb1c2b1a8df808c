"""SEC-050: one JSON reader."""

import json

import pytest

from app.strict_json import BadJSON, loads


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON: look at line 1, column 2"),
        (b"{} {}", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b"\xff", "UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), "not JSON"),
        ('{"a": 1}'.encode("utf-32-be"), "not JSON"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "'c' stands twice"),
        (b'{"a": 1, "\\u0061": 1}', "'a' stands twice"),
        (b"[NaN]", "NaN"),
        (b"Infinity", "Infinity"),
        (b"-Infinity", "-Infinity"),
        (b"1e999", "too large"),
        (b"-1.5e400", "too large"),
        (b"1" * 4301, "too many digits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\uDFFF": 1}', "surrogate"),
        (b'["\\udc00\\ud800"]', "surrogate"),
        (b"[" * 65 + b"]" * 65, "deeper than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64"),
        (b"[" * 1_000_000, "deeper than 64"),
        (b'["\\"", ' + b"[" * 64 + b"]" * 64 + b"]", "deeper than 64"),
        (b"[1]" * 70, "not JSON"),
        (b'["' + b"[" * 70, "not JSON"),
        (b"[" * 64 + b"]" * 100, "not JSON"),
    ],
)
def test_sec_050_what_two_readers_may_read_differently_is_refused(text, said):
    with pytest.raises(BadJSON, match=said):
        loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b' {"a": [1, 2.5, -3e2, true, null, "x"]} ',
        '{"ä": "\U0001f600"}'.encode(),
        b'"\\ud83d\\ude00"',
        b'"\\\\ud800"',
        b"9" * 4300,
        b"[" * 64 + b"]" * 64,
        b"[" + b",".join([b"[{}]"] * 1000) + b"]",
        b'["' + b"[{" * 500 + b'", "\\"[[\\\\", []]',
    ],
)
def test_what_every_reader_reads_alike_is_read(text):
    assert loads(text) == json.loads(text)


def test_a_refusal_quotes_no_value():
    with pytest.raises(BadJSON) as caught:
        loads(b'{"client_secret": "canary-1", "client_secret": "canary-2"}')
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 64 + b'["' + b'\\"' * 500_000,
        b"[" * 64 + b'["' + b"\\" * 1_000_001,
        b'{"a":0' + b"".join(b',"%d":0' % n for n in range(100_000)) + b',"99999":0}',
    ],
)
def test_bad_input_is_read_once(text):
    with pytest.raises(BadJSON):
        loads(text)


def test_where_it_is_wanted_a_number_without_end_is_infinity():
    assert loads(b"[1e999, 2.5]", endless=True) == [float("inf"), 2.5]
