"""What a page loads: little, and all of it ours (Q2, Q4)."""

import gzip
import re
from pathlib import Path

import pytest

STATIC = Path(__file__).parents[2] / "static"
KIB = 1024


def test_q4_the_stylesheet_is_small_on_the_wire_and_written_to_be_read():
    text = (STATIC / "app.css").read_text()
    assert len(gzip.compress(text.encode(), 9)) <= 6 * KIB
    assert all(line.count(";") <= 1 for line in text.splitlines() if not line.startswith("/*"))
    assert not re.search(r"@import|url\((?!#)", text)


def test_q4_the_script_is_small_and_asks_nobody():
    text = (STATIC / "app.js").read_text()
    assert len(text.encode()) <= 4 * KIB
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|eval\(|innerHTML", text)


def test_q2_a_page_asks_for_four_files_of_our_own_and_is_light(alice):
    page = alice.get("/connections")
    wanted = re.findall(r'(?:href|src)="(/static/[^"#]+)', page.text)
    files = {page.text.encode()}
    for name in set(wanted):
        with alice.get(name) as reply:
            assert reply.status_code == 200, name
            files.add(reply.data)
    assert len(files) <= 5
    assert sum(map(len, files)) <= 60 * KIB
    assert sum(len(gzip.compress(one)) for one in files) <= 30 * KIB


def test_every_symbol_that_templates_name_is_in_the_sprite():
    sprite = (STATIC / "i.svg").read_text()
    known = set(re.findall(r'<symbol id="(\w+)"', sprite))
    templates = (STATIC.parent / "templates").rglob("*.html")
    named = set()
    for path in templates:
        named |= set(re.findall(r"(?:icon|badge|note)\('(\w+)'", path.read_text()))
    assert named and named <= known


@pytest.mark.parametrize("name", ["app.css", "app.js", "i.svg", "icon.svg"])
def test_static_files_may_be_kept_by_browsers(stranger, name):
    with stranger.get(f"/static/{name}") as reply:
        assert reply.status_code == 200 and "no-store" not in reply.headers["Cache-Control"]
