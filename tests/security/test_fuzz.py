"""Whatever bytes come: readers of foreign text give an answer or the one error they declare."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app import addresses, certificates, specs, strict_json
from app.errors import Invalid, UpstreamError, WireError
from app.mcp import answers, jsonrpc, sse, wire
from app.oauth import challenge
from app.specs import GatewaySpec

MANY = settings(max_examples=400, deadline=None)
PARTS = st.sampled_from(
    [
        *("http://", "https://", "HTTPS://", "ftp:", "//", "/", "\\", "@", ":", "#", "?", "%2f"),
        *(
            "localhost",
            "127.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0x7f.1",
            "2130706433",
            "[v1.a]",
        ),
        *("a.test", "xn--a", "é", "\u2024", "\uff0f", "\0", "\t", "\r\n", " ", "[", "]", ":22"),
        *(":443", ":8443", ":0", ":99999", ":-1", "user:pw@", "..", ";", "&", "=", "%", "%00"),
    ]
)
URLS = st.one_of(st.text(max_size=60), st.lists(PARTS, max_size=8).map("".join))
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)
TEXTS = st.one_of(
    st.binary(max_size=200),
    JSONISH.map(lambda value: json.dumps(value).encode()),
    JSONISH.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="replace")),
    st.lists(
        st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b"\\u", b"d800", b",", b":"])
    ).map(b"".join),
)


@MANY
@given(URLS)
@example("https://[::1")
@example("https://a:٣/")
@example("https://a.test:443@b.test/")
def test_sec_096_any_text_is_an_address_or_blocked(url: str) -> None:
    """And what passes names one host, by https or on this machine."""
    try:
        addresses.check_url(url)
    except addresses.Blocked:
        return
    assert re.match(r"https://|http://(localhost|127\.0\.0\.1|\[::1\])([:/?]|$)", url, re.I), url
    assert "@" not in url.split("/")[2] and not re.search(r"[\s\\]", url)


@MANY
@given(URLS)
def test_sec_096_what_a_form_takes_can_be_called(url: str) -> None:
    """The rule of the form is no weaker than that of the door."""
    with contextlib.suppress(Invalid):
        spec = specs.read(GatewaySpec, {"name": "a", "url": url})
        addresses.check_url(spec.url)


@MANY
@given(st.one_of(st.ip_addresses().map(str), st.integers(0, 2**128 - 1).map(str), URLS))
def test_sec_090_any_address_is_public_or_blocked(text: str) -> None:
    try:
        addresses.check_address(text)
    except (addresses.Blocked, ValueError):  # a resolver gives no other texts than addresses
        return
    assert not text.startswith(("10.", "127.", "169.254.", "192.168.", "fe80", "fc", "fd", "::"))


@MANY
@given(TEXTS)
@example(b"[" * 100_000)
@example(b'{"a":1e999}')
@example(b"9" * 5000)
def test_sec_050_any_bytes_are_json_or_bad_json(raw: bytes) -> None:
    try:
        value = strict_json.loads(raw)
    except strict_json.BadJSON:
        return
    assert json.loads(raw) == value


@MANY
@given(TEXTS, st.dictionaries(st.sampled_from(["MCP-Protocol-Version", "Mcp-Method"]), st.text()))
def test_sec_050_any_request_is_a_call_or_a_wire_error(raw: bytes, headers: dict[str, str]) -> None:
    with contextlib.suppress(WireError):
        call = wire.read("POST", headers, raw)
        assert call.raw == raw


@MANY
@given(TEXTS, st.integers() | st.text(max_size=10))
def test_f_34_any_answer_is_one_to_the_call_or_none(raw: bytes, call_id: int | str) -> None:
    assert jsonrpc.answers(raw, call_id) in (True, False)
    with contextlib.suppress(UpstreamError):
        answers.message_of(raw)
    with contextlib.suppress(ValueError):
        jsonrpc.with_id(raw, call_id)


EVENTS = st.lists(
    st.sampled_from(
        [
            *(b"data: ", b"data:", b"event: x", b"id: 1", b"id: \0", b"retry: 9", b"retry: x"),
            *(b"\n", b"\r", b"\r\n", b"\n\n", b": c", b"\xef\xbb\xbf", b"\xff", b"{", b"}"),
        ]
    )
    | st.binary(max_size=9),
    max_size=30,
)


@MANY
@given(EVENTS, st.integers(1, 64))
def test_f_34_any_stream_is_cut_into_events_or_too_long(pieces: list[bytes], most: int) -> None:
    """However it is cut into pieces, the same comes out, and nothing is added."""
    whole = b"".join(pieces)
    found, splitter = b"", sse.Splitter(most)
    for piece in pieces:
        try:
            found += splitter.feed(piece)
        except sse.TooLong:
            return
    assert whole.startswith(found)
    for event in sse.events(found):
        assert isinstance(event.data, str) and "\0" not in (event.id or "")


@MANY
@given(URLS)
def test_any_endpoint_is_of_the_same_server_or_foreign(said: str) -> None:
    with contextlib.suppress(sse.Foreign):
        found = sse.endpoint("https://here.test/sse", said)
        assert found.startswith(
            ("https://here.test/", "https://here.test:443/", "https://here.test?")
        )


CHALLENGES = st.lists(
    st.sampled_from(
        [
            *("Bearer ", "Basic ", 'error="insufficient_scope"', "error=insufficient_scope"),
            *('scope="', 'a b"', 'scope=""', "scope=a", ", ", '"', "\\", 'realm="scope=\\"x\\""'),
        ]
    )
    | st.text(max_size=9),
    max_size=12,
)


@MANY
@given(CHALLENGES)
def test_f_32_any_challenge_names_scopes_or_none(parts: list[str]) -> None:
    found = challenge.parse(["".join(parts)])
    assert found is None or all(re.fullmatch(r"[\x21-\x7e]{1,200}", one) for one in found.scopes)


@MANY
@given(st.one_of(st.text(max_size=300), st.binary(max_size=90).map(bytes.hex)))
def test_any_text_is_certificates_or_unusable(text: str) -> None:
    framed = f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"
    for pem in (text, framed):
        with pytest.raises(certificates.Unusable):
            certificates.tidy(pem)
