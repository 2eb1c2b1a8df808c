"""A gateway that wants each person's sign-in, and a browser on its way through it."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from app import gateways, specs
from app.audit import SYSTEM
from app.db import db
from app.specs import GatewaySpec
from tests.conftest import Browser

AUTHORIZE, TOKEN = "https://as.test/go", "https://as.test/token"
NOWHERE = "https://192.0.2.1/mcp"  # documentation only: never called, never looked up
GOOD = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600}
KEPT = {"store_tokens": True, "auto_refresh": True}


def add(app, slug: str = "acme", *, url: str = NOWHERE, **oauth: Any) -> None:
    """Tokens are kept, unless `token_management` says otherwise."""
    config = {
        "grant_type": "authorization_code",
        "client_id": "cid",
        "client_secret": "s3cret",
        "authorization_url": AUTHORIZE,
        "token_url": TOKEN,
        "token_management": KEPT,
    } | oauth
    record = {"name": slug.title(), "slug": slug, "url": url, "auth_type": "oauth"}
    with app.app_context():
        spec = specs.read(GatewaySpec, record | {"oauth_config": config})
        gateways.create(spec, by=SYSTEM)
        db.session.commit()


@dataclass
class Trip:
    """A browser that was sent to the provider."""

    browser: Browser
    flow_id: str
    page: Any  # the stop-over page
    asked: dict[str, str]  # of the provider

    def back(self, path: str = "/oauth/callback", /, *, by: Browser | None = None, **query: str):
        """Come back with a code; a parameter of "" is left out."""
        sent = {"code": "the-code", "state": self.asked["state"]} | query
        given = urlencode({name: value for name, value in sent.items() if value})
        return (by or self.browser).get(f"{path}?{given}")


def leave(browser: Browser, slug: str = "acme", **fields: str) -> Trip:
    """Press Connect, and follow the stop-over page."""
    page = browser.submit(f"/oauth/connect/{slug}", at="/me", **fields)
    assert page.status_code == 200, page.text
    onward = html.unescape(re.search(r'href="(/oauth/connect/[^"]+)', page.text)[1])
    gone = browser.get(onward)
    assert gone.status_code == 302, gone.text
    asked = parse_qs(urlsplit(gone.location).query)
    assert all(len(values) == 1 for values in asked.values())
    flow_id = parse_qs(urlsplit(onward).query)["flow"][0]
    return Trip(browser, flow_id, page, {name: value for name, [value] in asked.items()})
