"""Each kind of error, E1 to E20, made for real and told by its own code (Q14).

By `flask check`, by the page of the check, and by the front door where only a person meets it.
"""

import json
import re

import pytest

from app.errors import texts
from app.models import CheckRun
from tests.broken import BROKEN
from tests.conftest import rows
from tests.test_checks import CANARY, Rig
from tests.upstream import upstream

__all__ = ["upstream"]  # the fixture

each = pytest.mark.parametrize("broken", BROKEN.values(), ids=list(BROKEN))


@pytest.fixture
def rig(app, upstream):
    return Rig(app, upstream)


def assert_leads_somewhere(browser, link: str) -> None:
    """The page is there, and so is the part of it that the link names."""
    path, _, part = link.partition("#")
    page = browser.get(path)
    assert page.status_code == 200, link
    assert not part or re.search(rf'\b(id|name)="{re.escape(part)}"', page.text), link


def heading(code: str) -> str:
    """The longest piece of it without facts."""
    return max(re.split(r"\{\w+\}", texts()[code].message), key=len).strip()


@each
def test_q14_a_broken_setup_is_told_by_the_command(rig, broken, caplog):
    caplog.set_level("DEBUG")
    slug = broken.set_up(rig)
    ran = rig.app.test_cli_runner().invoke(args=["check", slug, "--json"])
    said = json.loads(ran.output)
    step = said["steps"][broken.step]
    assert (step["state"], step["code"]) == (broken.state, broken.code), said["verdict"]
    assert (step["e"], step["who"]) == (broken.e, texts()[broken.code].who)
    assert ran.exit_code == (1 if broken.state == "bad" else 0)
    assert CANARY not in ran.output + caplog.text


@each
def test_q14_the_page_of_the_check_tells_the_same(rig, broken, admin):
    slug = broken.set_up(rig)
    at = f"/admin/gateways/{slug}/checks"
    page = admin.get(admin.submit(at, at=at).headers["Location"]).text
    step = rows(rig.app, CheckRun)[0].steps[broken.step]
    assert (step["state"], step["code"]) == (broken.state, broken.code)
    assert heading(broken.code) in page and f"/help/errors/{broken.code}" in page
    assert broken.e in page and CANARY not in page
    facts = {f"({name})" for name in re.findall(r"\{(\w+)\}", repr(texts()[broken.code]))}
    assert not [name for name in facts if name in page], "a fact is missing"
    assert step["next"]["link"] in page
    assert_leads_somewhere(admin, step["next"]["link"])
    assert_leads_somewhere(admin, f"/help/errors/{broken.code}")
