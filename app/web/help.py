"""/help: how things are done, and what each error means. Open to everyone, as errors are."""

from __future__ import annotations

import re

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from ..errors import NotFound, Text, texts

bp = Blueprint("help", __name__, url_prefix="/help")


@bp.get("")
def index() -> ResponseReturnValue:
    codes = [(code, _general(text.message)) for code, text in texts().items()]
    return render_template("help.html", codes=sorted(codes, key=lambda row: row[1].lower()))


@bp.get("/errors/<code>")
def error(code: str) -> ResponseReturnValue:
    text = texts().get(code)
    if text is None:
        raise NotFound
    general = Text(text.status, *map(_general, (text.message, text.cause, text.action, text.admin)))
    return render_template("help_error.html", code=code, text=general)


def _general(sentence: str) -> str:
    """The sentence without the facts of one case: "… did not answer in time"."""
    return re.sub(r"\{\w+\}", "…", sentence.replace("{hint}", "")).strip()
