"""/admin/activity and /api/v1/activity: what happened, in words, for admins alone."""

import ast
import csv
import io
import re
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import activity, audit
from app.audit import SYSTEM, Actor, Subject
from app.db import db, utcnow
from app.models import AuditEvent, User
from tests.conftest import rows
from tests.mcp import world
from tests.web.credentials import bearer, token_of

HOUR = timedelta(hours=1)
APP = Path(__file__).parents[2] / "app"
HERE = "https://gw.test"
ANA = Actor("user", "u-ana", "ana@example.com", "203.0.113.9", "req0123456")


def note(app, *events) -> None:
    """Each an action, or an action with more that audit.entry takes."""
    with app.app_context():
        for event in events:
            action, more = (event, {}) if isinstance(event, str) else event
            by, subject = more.pop("by", ANA), more.pop("subject", Subject("gateway", "g", "Jira"))
            audit.record(by, action, subject, **more)
        db.session.commit()


def said(page) -> list[str]:
    """What the rows of the list say."""
    body = page.text.partition("the newest first</caption>")[2]
    return re.findall(r'<th role="rowheader" scope="row">(.*?)</th>', body)


def test_what_happened_is_told_in_words_with_who_and_where(app, admin):
    note(
        app,
        ("gateway.updated", {"fields": ["url", "oauth_config.client_secret"]}),
        ("connection.failing", {"by": SYSTEM, "outcome": "failed", "code": "provider_error"}),
    )
    page = admin.get("/admin/activity")
    assert page.status_code == 200
    changed = "Changed the gateway Jira: url, client secret"
    failing, first = said(page)[:2]
    assert first == changed and failing.startswith("Could not be renewed: ")
    assert "ana@example.com" in page.text and "from 203.0.113.9" in page.text
    assert "<code>req0123456</code>" in page.text
    assert "gateway.updated" not in page.text  # words, not codes


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("type=users&person=bo@example.com", ["Disabled the account bo@example.com"]),
        ("type=gateways&outcome=ok", ["Added the gateway Jira"]),
        ("outcome=failed", ["Could not be renewed"]),
        ("person=bo@example.com", ["Disabled the account bo@example.com"]),
        ("person=BO@example.com%20", ["Disabled the account bo@example.com"]),
        ("person=nobody@example.com", []),
        ("from=2020-01-01&type=gateways", ["Added the gateway Jira"]),
        ("from=2999-01-01", []),
    ],
)
def test_a_filter_finds_what_it_names(app, admin, query, found):
    bo = Subject("user", "u-bo", "bo@example.com")
    note(
        app,
        "gateway.created",
        ("user.disabled", {"subject": bo}),
        ("connection.failing", {"by": SYSTEM, "outcome": "failed", "code": "provider_error"}),
    )
    page = admin.get(f"/admin/activity?{query}")
    assert [line.partition(":")[0] for line in said(page)] == found
    assert ("Nothing matches this filter." in page.text) == (not found)


def test_a_gateway_and_a_person_are_found_by_what_is_theirs(app, admin, alice):
    world.add(app, "https://one.test/mcp", "one")
    world.add(app, "https://two.test/mcp", "two")
    token_of(app, "alice@example.com")
    page = admin.get("/admin/activity?gateway=two")
    assert said(page) == ["Added the gateway Two"]
    page = admin.get("/admin/activity?person=alice@example.com")
    assert said(page) == ["Made the API token test", "Added the account alice@example.com: user"]
    assert admin.get("/admin/activity?gateway=nope").status_code == 404


def test_a_long_list_is_read_to_its_end_by_cursor(app, admin):
    note(app, *("gateway.created" for _ in range(120)))
    seen, url = [], "/admin/activity?type=gateways"
    while url:
        page = admin.get(url)
        seen.append(len(said(page)))
        older = re.search(r'href="([^"]+)">Older', page.text)
        url = older and older.group(1).replace("&amp;", "&")
        note(app, "gateway.created")  # what comes meanwhile moves nothing
    assert seen == [50, 50, 20]


@pytest.mark.parametrize(
    ("query", "field", "sentence"),
    [
        ("from=yesterday&person=ana@example.com", "from", "from must look like 2026-11-23."),
        ("from=2026-W01", "from", "from must look like 2026-11-23."),
        ("from=20261101", "from", "from must look like 2026-11-23."),
        ("from=2026-13-40", "from", "from must look like 2026-11-23."),
        ("type=x", "type", "Choose one of"),
        ("outcome=x", "outcome", "Choose one of"),
        ("before=x", "before", "before must be the number of an event."),
        ("before=" + "9" * 30, "before", "before must be the number of an event."),
    ],
)
def test_a_filter_that_is_none_is_named_and_nothing_is_lost(app, admin, query, field, sentence):
    page = admin.get(f"/admin/activity?{query}")
    assert page.status_code == 422
    if field != "before":  # which no field shows
        assert sentence in page.text
    if "person" in query:
        assert 'value="ana@example.com"' in page.text and 'value="yesterday"' in page.text
    token = token_of(app, "admin@example.com")
    answer = app.test_client().get(
        f"/api/v1/activity?{query}", headers=bearer(token), base_url=HERE
    )
    assert answer.status_code == 422
    [problem] = answer.json["error"]["fields"]
    assert problem["field"] == field and problem["message"].startswith(sentence)


def test_the_last_day_is_counted_with_its_failures_by_cause(app, admin):
    failed = {"outcome": "failed", "code": "provider_error", "by": SYSTEM}
    note(app, *(("connection.failing", dict(failed)) for _ in range(3)), "gateway.created")
    page = admin.get("/admin/activity")
    assert "denied or failed." in page.text and "Failures by cause" in page.text
    assert re.search(r"3 times, last <time", page.text)
    assert "/help/errors/provider_error" in page.text
    with app.app_context():
        now = utcnow()
        first, second = (activity.summary(activity.Filter(), now=at) for at in (now, now + HOUR))
        lately = [
            sum(counts) for counts in zip(*(hour[1:] for hour in first.hours[-2:]), strict=True)
        ]
        assert lately == [first.done, first.not_done] == [2, 3]
        assert (second.done, second.not_done) == (2, 3) and second.hours != first.hours
        old = sa.update(AuditEvent).values(at=now - timedelta(hours=30))
        db.session.execute(old)
        db.session.commit()
        counted = activity.summary(activity.Filter(), now=now)
    assert (counted.done, counted.not_done, len(counted.hours)) == (0, 0, 24)
    assert "No failures in this time. 0 events." in admin.get("/admin/activity").text


def test_the_file_holds_the_same_and_no_formula(app, admin):
    note(app, ("gateway.created", {"subject": Subject("gateway", None, "Jira, big")}))
    evil = Actor("user", "x", "=cmd|' /C calc'!A0")
    note(app, ("gateway.created", {"by": evil}))
    reply = admin.get("/admin/activity?format=csv&type=gateways")
    assert reply.content_type == "text/csv; charset=utf-8"
    assert "attachment" in reply.headers["Content-Disposition"]
    lines = list(csv.DictReader(io.StringIO(reply.text)))
    assert [line["what"] for line in lines] == [
        "Added the gateway Jira",
        "Added the gateway Jira, big",
    ]
    assert lines[0]["who"].startswith("'=") and lines[1]["request id"] == "req0123456"


def test_the_api_gives_the_same_by_cursor(app, admin, alice):
    note(app, *("gateway.created" for _ in range(5)))
    token, client = token_of(app, "admin@example.com"), app.test_client()

    def ask(query, token=token):
        url = f"/api/v1/activity?{query}"
        return client.get(url, headers=bearer(token), base_url=HERE)

    first = ask("type=gateways&limit=3").json
    assert [one["message"] for one in first["activity"]] == ["Added the gateway Jira"] * 3
    one = first["activity"][0]
    assert (one["who"], one["action"]) == ("ana@example.com", "gateway.created")
    rest = ask(f"type=gateways&limit=3&before={first['next']}").json
    assert len(rest["activity"]) == 2 and rest["next"] is None
    assert rest["activity"][0]["number"] == first["next"] - 1
    assert ask("limit=0").status_code == ask("limit=501").status_code == 422

    assert ask("", token_of(app, "alice@example.com")).status_code == 403
    assert ask("", token_of(app, "admin@example.com", scopes=["mcp"])).status_code == 403
    assert ask("", "mcpg_x").status_code == 401


def test_only_admins_see_it(alice, stranger):
    assert alice.get("/admin/activity").status_code == 403
    assert stranger.get("/admin/activity").status_code in (302, 303)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\N{RIGHT-TO-LEFT OVERRIDE}x"])
def test_sec_056_names_in_the_record_are_text(app, admin, text):
    note(app, ("gateway.created", {"subject": Subject("gateway", "g", text)}))
    assert "<script>alert" not in admin.get("/admin/activity").text


# -- every action has words -----------------------------------------------------------------------

KINDS = "access api_token audit backup client connection consent gateway key login session"
KINDS += " tool_config user"
ACTION = re.compile(rf"({KINDS.replace(' ', '|')})\.(?!html|id\b)[a-z_]+")


def actions() -> set[str]:
    """Every text in the code that is an action."""
    found = {"login", "logout", "setup"}
    for path in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if ACTION.fullmatch(node.value):
                    found.add(node.value)
    return found


def test_every_action_has_words_and_a_type(app):
    starts = tuple(start for some in activity.TYPES.values() for start in some)
    assert len(actions()) > 25
    for action in actions():
        assert activity.knows(action), action
        assert action.startswith(starts), action
    assert {row.action for row in rows(app, AuditEvent)} <= actions()
    assert rows(app, User) == []
