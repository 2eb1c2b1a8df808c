"""Gateways of every kind, an API client, and a person who sends a page's form as it stands."""

import copy
import html.parser
import json

from app import api_tokens, gateways, people, specs
from app.audit import SYSTEM
from app.db import db
from app.models import Connection
from app.specs import GatewaySpec
from tests.conftest import PASSWORD

CANARY = "canary-7f3a"  # in every secret below
CODE = {
    "name": "GitHub MCP",
    "url": "https://github-mcp.example.com/sse",
    "auth_type": "oauth",
    "oauth_config": {
        "grant_type": "authorization_code",
        "client_id": "app-1",
        "client_secret": f"{CANARY}-code",
        "authorization_url": "https://github.com/login/oauth/authorize",
        "token_url": "https://github.com/login/oauth/access_token",
        "redirect_uri": "https://gw.test/oauth/callback",
        "scopes": ["repo", "read:user"],
    },
}
SHARED = {
    "name": "Billing",
    "url": "https://billing.example.com/mcp",
    "auth_type": "oauth",
    "oauth_config": {
        "grant_type": "client_credentials",
        "client_id": "app-2",
        "client_secret": f"{CANARY}-shared",
        "token_url": "https://auth.example.com/token",
        "scopes": ["read"],
    },
}
KEEPING = copy.deepcopy(CODE) | {"name": "Keeping"}
KEEPING["oauth_config"]["token_management"] = {"store_tokens": True, "auto_refresh": True}
RARE = {  # what the form draws as JSON or not at all, and what is not the default
    "name": "Slack",
    "slug": "slack",
    "description": "Writes to people",
    "url": "https://mcp.slack.com/mcp",
    "transport": "http",
    "timeout_s": 2.5,
    "enabled": False,
    "auth_type": "oauth",
    "oauth_config": {
        "grant_type": "authorization_code",
        "client_id": "app-3",
        "authorization_url": "https://slack.com/oauth/v2_user/authorize?a=%20b",
        "token_url": "https://slack.com/api/oauth.v2.user.access",
        "refresh_url": "https://slack.com/api/refresh",
        "token_endpoint_auth_method": "none",
        "redirect_uri": "https://gw.test/oauth/callback/slack",
        "scopes": [],
        "scope_separator": ",",
        "scope_param": "user_scope",
        "pkce": "unadvertised",
        "audience": "api",
        "resource": "never",
        "extra_authorize_params": {"prompt": "consent", "name": "a=b"},
        "extra_token_params": {"tenant": "x"},
        "account_path": ["authed_user.id", "team.name"],
        "offline": {"scopes": ["offline"], "params": {"access_type": "offline"}},
        "reply": {"token_path": "authed_user", "errors": {"invalid_code": "code_rejected"}},
        "lifetime": {"default": 3600},
        "token_management": {
            "store_tokens": True,
            "auto_refresh": True,
            "refresh_threshold_seconds": 60,
            "keep_alive": True,
        },
    },
}
CACHED = copy.deepcopy(SHARED) | {"name": "Cached"}
CACHED["oauth_config"]["token_management"] = {"store_tokens": True}
BASIC = {
    "name": "Wiki",
    "url": "https://wiki.example.com/mcp",
    "auth_type": "basic",
    "basic": {"username": "gw", "password": f"{CANARY}-basic"},
}
BEARER = {
    "name": "Weather",
    "url": "http://127.0.0.1:9000/mcp",
    "auth_type": "bearer",
    "bearer_token": f"{CANARY}-bearer",
}
HEADERS = {
    "name": "Search",
    "url": "https://search.example.com/mcp",
    "auth_type": "headers",
    "headers": {"X-Api-Key": f"{CANARY}-key", "X-Team": f"{CANARY}-team"},
}
NONE = {"name": "Open", "url": "https://open.example.com/mcp", "auth_type": "none"}
KINDS = {
    **{"code": CODE, "keeping": KEEPING, "rare": RARE, "shared": SHARED, "cached": CACHED},
    **{"basic": BASIC, "bearer": BEARER, "headers": HEADERS, "none": NONE},
}


def add(app, record) -> str:
    """A gateway from a record; its slug."""
    with app.app_context():
        gateway = gateways.create(specs.read(GatewaySpec, record), by=SYSTEM)
        db.session.commit()
        return gateway.slug


def connect(app, slug: str, email: str | None, **values) -> str:
    """A living connection, without a provider; its id."""
    with app.app_context():
        gateway = gateways.find(slug)
        user = people.named(email) if email else None
        row = Connection(
            oauth_config_id=gateway.oauth_config.id,
            gateway_id=gateway.id,
            user_id=user and user.id,
            owner_key=f"user:{user.id}" if user else "shared",
            registration_id=gateway.oauth_config.registration_id,
            **{"state": "active", "access_token_sealed": "a", "refresh_token_sealed": "r"} | values,
        )
        db.session.add(row)
        db.session.commit()
        return row.id


class Script:
    """A program with an API token."""

    def __init__(self, app, email: str, *, scopes=("api:read", "api:write"), slugs=None) -> None:
        with app.app_context():
            ids = None if slugs is None else [gateways.find(slug).id for slug in slugs]
            user = people.named(email)
            given = {"name": "t", "scopes": scopes, "gateway_ids": ids, "expires_at": None}
            _, self.token = api_tokens.issue(user.id, **given, by=SYSTEM)
            db.session.commit()
        self.client = app.test_client()

    def ask(self, method: str, path: str = "", body=None):
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        return self.client.open(
            f"/api/v1/gateways{path}",
            method=method,
            data=data,
            base_url="https://gw.test",
            headers={"Authorization": f"Bearer {self.token}"},
        )


def script(app, email: str = "admin@example.com", *, role: str = "admin", **given) -> Script:
    with app.app_context():
        people.create(email, password=PASSWORD, role=role)
        db.session.commit()
    return Script(app, email, **given)


class _Form(html.parser.HTMLParser):
    """What a browser would send of the page's one <main> form."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self._inside = False
        self._area = self._select = None

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag == "form":
            self._inside = a.get("method") == "post" and "novalidate" in a
        if not self._inside:
            return
        if tag == "input" and a.get("name"):
            if a.get("type") not in ("checkbox", "radio") or "checked" in a:
                self.values[a["name"]] = a.get("value", "")
        elif tag == "textarea":
            self._area = a["name"]
            self.values[self._area] = ""
        elif tag == "select":
            self._select = a["name"]
        elif tag == "option" and (self._select not in self.values or "selected" in a):
            self.values[self._select] = a["value"]

    def handle_data(self, data):
        if self._area:
            self.values[self._area] += data

    def handle_endtag(self, tag):
        self._area = None if tag == "textarea" else self._area
        self._inside = False if tag == "form" else self._inside


def drawn(page) -> dict[str, str]:
    """The fields of the form, as they would be sent with nothing typed."""
    form = _Form()
    form.feed(page.text)
    # a browser drops the first line break of a textarea, and sends CRLF
    return {
        name: value.removeprefix("\r\n").replace("\r\n", "\n").replace("\n", "\r\n")
        for name, value in form.values.items()
    }


def send(browser, url: str, /, *, without=(), **typed):
    """Load the form at `url`, type, and send it."""
    fields = drawn(browser.get(url)) | typed
    for name in without:
        fields.pop(name, None)
    return browser.post(url, data=fields, headers={"Referer": f"https://gw.test{url}"})
