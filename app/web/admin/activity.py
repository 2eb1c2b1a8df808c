"""What happened here, for admins: a page, and the same as a file."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass

from flask import Blueprint, Response, render_template, request
from flask.typing import ResponseReturnValue

from ... import activity, gateways
from ...activity import Event, Filter
from ...errors import Invalid
from ..auth import admin_only
from ..words import iso

bp = Blueprint("activity", __name__, url_prefix="/admin/activity")
PAGE_SIZE = 50
_TYPES = {
    "sign-in": "Signing in and out",
    "denied": "Kept out",
    "connections": "Connections",
    "gateways": "Gateways",
    "users": "Users",
    "tokens": "API tokens",
    "server": "This server",
}


@bp.get("")
@admin_only
def index() -> ResponseReturnValue:
    """`?person= gateway= type= outcome= from= before=`; `format=csv` for a file."""
    given, wrong = request.args.to_dict(), {}
    try:
        wanted = activity.read_filter(given)
    except Invalid as error:  # the rest of the form stays as it was filled in
        wrong = error.fields
        wanted = activity.read_filter({k: v for k, v in given.items() if k not in wrong})
    if given.get("format") == "csv" and not wrong:
        return _file(wanted)
    found = activity.events(wanted, limit=PAGE_SIZE + 1)
    names = [(one.slug, one.name) for one in gateways.everything()]
    page = render_template(
        "admin/activity.html",
        events=found[:PAGE_SIZE],
        older=found[PAGE_SIZE - 1].seq if len(found) > PAGE_SIZE else None,
        summary=activity.summary(wanted),
        given=given,
        wrong=wrong,
        query={k: v for k, v in given.items() if v and k in ("person", "gateway", *_QUERY)},
        gateways=names,
        types=_TYPES,
        outcomes=activity.OUTCOMES,
    )
    return page, 422 if wrong else 200


_QUERY = ("type", "outcome", "from")


@dataclass(frozen=True, slots=True)
class Line:
    """Of the file."""

    number: int
    at: str
    who: str
    what: str
    gateway: str
    outcome: str
    action: str
    address: str
    request_id: str


def _file(wanted: Filter) -> Response:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([name.replace("_", " ") for name in Line.__dataclass_fields__])
    for event in activity.events(wanted, limit=activity.IN_FILE):
        writer.writerow([_cell(value) for value in astuple(_line(event))])
    reply = Response(text.getvalue(), content_type="text/csv; charset=utf-8")
    reply.headers["Content-Disposition"] = 'attachment; filename="activity.csv"'
    return reply


def _line(event: Event) -> Line:
    return Line(
        number=event.seq,
        at=iso(event.at),
        who=event.who,
        what=event.words,
        gateway=event.gateway or "",
        outcome=activity.OUTCOMES.get(event.outcome, event.outcome),
        action=event.action,
        address=event.address,
        request_id=event.request_id,
    )


def _cell(value: object) -> str:
    """Spreadsheets take a text that begins like this for a formula."""
    text = str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
