"""Credentials for tests: API tokens, and the CSRF token of a page."""

import html
import re

from app import api_tokens, people
from app.audit import SYSTEM
from app.db import db

ALL = ("mcp", "api:read", "api:write")


def token_of(app, email, *, scopes=ALL, **more) -> str:
    """A new API token of this person, as it would be shown."""
    with app.app_context():
        user = people.named(email)
        given = {"name": "test", "gateway_ids": None, "expires_at": None} | more
        _, shown = api_tokens.issue(user.id, scopes=scopes, by=SYSTEM, **given)
        db.session.commit()
    return shown


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def csrf_of(page) -> str:
    return html.unescape(re.search(r'name="csrf_token"[^>]*value="([^"]+)', page.text)[1])
