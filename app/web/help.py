"""/help: how things are done, what each error means, how a provider is set up. Open to everyone."""

from __future__ import annotations

import re
from dataclasses import replace

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from ..errors import NotFound, texts
from ..oauth import templates
from ..oauth.registration import callback_uri

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
    general = replace(
        text,
        message=_general(text.message),
        cause=_general(text.cause),
        action=_general(text.action),
        admin=_general(text.admin),
    )
    return render_template("help_error.html", code=code, text=general)


@bp.get("/providers")
def providers() -> ResponseReturnValue:
    return render_template("help_providers.html", every=templates.every().values())


@bp.get("/providers/<template_id>")
def provider(template_id: str) -> ResponseReturnValue:
    one = templates.find(template_id)
    known = texts()
    return render_template(
        "help_provider.html",
        one=one,
        steps=[step.partition("{redirect}") for step in one.steps],
        redirect=callback_uri("SLUG") if one.redirect == "own" else callback_uri(),
        trouble=[(word, code, _general(known[code].message)) for word, code in one.errors.items()],
    )


def _general(sentence: str) -> str:
    """The sentence without the facts of one case: "… did not answer in time"."""
    return re.sub(r"\{\w+\}", "…", sentence.replace("{hint}", "")).strip()
