"""The front door, and what machines ask."""

from flask import Blueprint, jsonify, redirect
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response

from .. import schema
from ..draining import draining
from . import auth

bp = Blueprint("home", __name__)


@bp.get("/health")
def health() -> ResponseReturnValue:
    """The process answers. Says nothing else (SEC-120)."""
    return jsonify(status="ok")


@bp.get("/ready")
def ready() -> ResponseReturnValue:
    """The database answers and can be written to, and this server is going to stay."""
    draining().refuse_calls()
    schema.ping()
    return jsonify(status="ok")


@bp.get("/")
def index() -> Response:
    """A person's home is their connections, an admin's the gateways."""
    return redirect("/admin/gateways" if auth.person().is_admin else "/connections")
