"""One JSON line for each record, whatever is in it, and never a way out of the line (SEC-112)."""

import io
import json
import logging
from urllib.parse import quote

import pytest

from app import logs
from tests.oauth import acme
from tests.oauth.acme import leave
from tests.web.credentials import bearer

FORGED = '{"level": "error", "message": "forged"}'
HOSTILE = {
    "line feed": f"a\n{FORGED}",
    "carriage return": f"a\r\n{FORGED}\r",
    "colour": "a\x1b[31mred\x1b[0m",
    "window title": "a\x1b]0;title\x07",
    "backspace": "a\x08\x08\x7f",
    "C1 control": "a\x9b31m\x85b",
    "turned around": "a\u202egnp.exe\u2066",
    "other line ends": "a\u2028b\u2029c\x0bd\x0ce",
    "half a character": "a\udce9b",
    "quotes": 'a"},{"x":"',
}


@pytest.fixture
def lines():
    """A function that gives what was logged so far, as the log has it."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.JsonLines())
    counted = []
    handler.addFilter(lambda record: counted.append(record) or True)
    root = logging.getLogger()
    root.addHandler(handler)

    def read() -> list[dict]:
        text = out.getvalue()
        assert text.isascii() and not any(ord(one) < 32 and one != "\n" for one in text)
        assert "\x7f" not in text
        found = [json.loads(line) for line in text.splitlines()]
        assert len(found) == text.count("\n") == len(counted)
        assert all({"at", "level", "logger", "message"} <= line.keys() for line in found)
        return found

    read.handler = handler
    yield read
    root.removeHandler(handler)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_sec_112_a_record_is_one_line_that_says_what_was_said(text, lines):
    log = logging.Logger("alone")  # not caught: pytest cannot pass half a character on
    log.addHandler(lines.handler)
    log.warning("it said %s", text)
    log.warning("%s", "x", extra={"facts": {"said": text, text: 1}})
    log.error("it failed", exc_info=ValueError(text))
    first, second, third = lines()
    assert first["message"] == f"it said {text}"
    assert second["said"] == text and second[text] == 1
    assert text.splitlines()[-1] in third["trace"]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_sec_112_no_request_gets_out_of_its_line(app, alice, admin, provider, text, lines):
    """By path, name, header and a provider's words; each request still has its line."""
    acme.add(app)
    sent = quote(text.encode("utf-8", "surrogateescape"))
    alice.get(f"/nowhere/{sent}")
    alice.get("/nowhere", headers={"User-Agent": quote(text, errors="replace", safe="\x1b\x9b ")})
    app.test_client().post("/mcp/acme", headers=bearer("x" + sent), base_url="https://gw.test")
    leave(alice).back(
        code="", error="access_denied", error_description=text.encode("utf-8", "replace")
    )
    typed = {"name": text.encode("utf-8", "replace"), "url": "https://x.test"}
    admin.submit("/admin/gateways/new", auth_type="none", **typed)
    found = lines()
    assert not [line for line in found if line.get("message") == "forged"]
    assert {"not_found: None", "sign_in_required: None"} <= {line["message"] for line in found}


def test_sec_112_and_115_a_line_carries_the_request_id_that_the_person_reads(app, alice, lines):
    page = alice.get("/nowhere")
    [line] = [line for line in lines() if line["message"].startswith("not_found")]
    assert line["request_id"] == page.headers["X-Request-Id"]
    assert line["request_id"] in page.text
    assert (line["method"], line["path"]) == ("GET", "/nowhere")
