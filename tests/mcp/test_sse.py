"""Event streams, in whatever pieces they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.mcp import sse

ENDS = ["\n", "\r\n", "\r"]


@given(st.sampled_from(ENDS), st.lists(st.integers(1, 40), max_size=12))
def test_events_pass_byte_for_byte_and_whole(end, cuts):
    lines = ["id: 1", "data:", "", "event: message", 'data: {"a":', "data: 1}", "", ": x", "", ""]
    raw = end.join(lines).encode()
    splitter, blocks, rest = sse.Splitter(), [], raw
    for cut in [*cuts, len(raw)]:
        blocks.append(splitter.feed(rest[:cut]))
        rest = rest[cut:]
    passed = b"".join(blocks)
    assert raw.startswith(passed) and raw[len(passed) :] in (b"", b"\n")
    found = [event for block in blocks for event in sse.events(block)]
    assert [(one.id, one.data) for one in found] == [("1", ""), (None, '{"a":\n1}')]


def test_half_an_event_is_held_back():
    splitter = sse.Splitter()
    assert splitter.feed(b"data: 1\n") == b""
    assert splitter.feed(b"\ndata: 2\n\nda") == b"data: 1\n\ndata: 2\n\n"
    assert splitter.feed(b"ta: 3\n\n") == b"data: 3\n\n"


def test_sec_049_an_event_without_an_end_is_given_up():
    splitter = sse.Splitter(most=1000)
    with pytest.raises(sse.TooLong):
        for _ in range(20):
            splitter.feed(b"x" * 100)


@pytest.mark.parametrize("end", ENDS)
def test_an_event_is_read_as_it_was_meant(end):
    said = [": a comment", "event: endpoint", "data: /a", "data:  b", "id: 4", "retry: 50", "", ""]
    [found] = sse.events(end.join(said).encode())
    assert found == sse.Event("endpoint", "/a\n b", "4", 50)


@pytest.mark.parametrize("line", ["id: a\0b", "retry: soon", "retry: -1", "retry: 9999999999999"])
def test_a_field_that_makes_no_sense_is_left_out(line):
    [found] = sse.events(f"{line}\ndata: x\n\n".encode())
    assert found == sse.Event("message", "x")


@given(st.text())
def test_what_is_made_an_event_is_read_back(data):
    [found] = sse.events(sse.event(data.encode()))
    assert found.data == data.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("/messages?s=1", "https://up.test:8443/messages?s=1"),
        ("messages", "https://up.test:8443/a/messages"),
        ("?s=1", "https://up.test:8443/a/sse?s=1"),
        ("https://up.test:8443/x#y", "https://up.test:8443/x"),
        (" /x ", "https://up.test:8443/x"),
        ("HTTPS://UP.test:8443/x", "https://UP.test:8443/x"),
    ],
)
def test_an_endpoint_is_taken_from_its_own_server(said, url):
    assert sse.endpoint("https://up.test:8443/a/sse", said) == url


@pytest.mark.parametrize(
    "said",
    [
        "https://evil.test/x",
        "https://up.test/x",
        "http://up.test:8443/x",
        "//evil.test/x",
        "https://up.test:8443@evil.test/x",
        "https://me@up.test:8443/x",
        "https://up.test:8443.evil.test/x",
        "ftp://up.test:8443/x",
        "https://up.test:bad/x",
        "javascript:alert(1)",
        "/a b",
        "/a\\b",
    ],
)
def test_an_endpoint_elsewhere_gets_no_token(said):
    with pytest.raises(sse.Foreign):
        sse.endpoint("https://up.test:8443/a/sse", said)
