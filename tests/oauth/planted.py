"""A gateway with OAuth, its people, and their connections, put straight into the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from app import access
from app.db import db, recent
from app.models import ClientRegistration, Connection, Gateway, OAuthConfig, User
from app.oauth.asking import Asking
from app.oauth.replies import TokenSet
from app.secretbox import box, cell
from app.specs import OAuthConfigSpec

ALICE = access.Caller("alice", "alice@example.com", is_admin=False)
TOKEN_URL = "https://as.test/token"
DEAD, STALE, FRESH = 0.2, 300.0, 3600.0  # seconds left: not usable, usable but due, fine
KEPT = {"store_tokens": True, "auto_refresh": True}
NEW = TokenSet("at-2", "rt-2", 3600.0)


def plant(
    *, grant: str = "authorization_code", token_url: str = TOKEN_URL, kept: Any = KEPT, **more: Any
) -> str:
    """The gateway `acme` with its client; the id of its config."""
    spec = OAuthConfigSpec.model_validate(
        {
            "grant_type": grant,
            "token_url": token_url,
            "authorization_url": "https://as.test/authorize",
            "token_management": kept,
            **more,
        }
    )
    gateway = Gateway(slug="acme", name="Acme", url="https://mcp.test/mcp", auth_type="oauth")
    config = OAuthConfig(grant_type=grant, token_url=token_url, settings=spec.settings())
    client = ClientRegistration(kind="manual", issuer="static:https://as.test", client_id="us")
    client.redirect_uri, client.oauth_config_id = "https://gw.test/oauth/callback", config.id
    client.auth_method = "post"
    client.client_secret_sealed = box().seal("secret", where=cell(client, "client_secret_sealed"))
    config.registration = client
    gateway.oauth_configs.append(config)
    db.session.add_all([gateway, User(id=ALICE.user_id, email=ALICE.email)])
    config_id = config.id
    db.session.commit()
    return config_id


def grant(
    left: float | None = FRESH,
    *,
    life: float = 3600.0,
    owner_key: str = ALICE.owner_key,
    access_token: str = "at-1",
    refresh_token: str | None = "rt-1",
    **values: Any,
) -> str:
    """A connection to `acme` whose token lives for `life` seconds and has `left` to go; its id."""
    config = db.session.scalars(sa.select(OAuthConfig)).one()
    now = int(time.time() * 1000)  # the database is on this machine
    row = Connection(oauth_config_id=config.id, gateway_id=config.gateway_id, state="active")
    row.owner_key = owner_key
    row.token_url, row.registration_id = config.token_url, config.registration_id
    row.expires_ms = None if left is None else now + int(left * 1000)
    row.issued_ms = now if left is None else now + int((left - life) * 1000)
    for name, token in (("access_token", access_token), ("refresh_token", refresh_token)):
        column = f"{name}_sealed"
        setattr(row, column, token and box().seal(token, where=cell(row, column)))
    for name, value in values.items():
        setattr(row, name, value)
    db.session.add(row)
    row_id = row.id
    db.session.commit()
    return row_id


def change(**values: Any) -> None:
    """The one connection, as another process would change it."""
    with db.engine.begin() as link:
        link.execute(sa.update(Connection).values(**values))


def sealed(token: str, column: str = "access_token_sealed") -> str:
    """This token as the one connection would hold it."""
    return box().seal(token, where=cell(stored(), column))


def stored() -> Connection:
    with sa.orm.Session(db.engine) as session:
        return session.scalars(sa.select(Connection)).one()


def token_of(seen: access.Seen | Connection, column: str = "access_token_sealed") -> str:
    return box().open(getattr(seen, column), where=cell(stored(), column))


def acme(caller: access.Caller = ALICE) -> access.Usable:
    """The gateway as this caller sees it now."""
    recent().clear()
    return access.usable(caller, "acme")


class Ask:
    """Stands for the provider: one answer after the other, and what it was asked with."""

    def __init__(self, *answers: TokenSet | Exception | Callable[[], TokenSet]) -> None:
        self.answers, self.asked = list(answers), list[str | None]()

    def __call__(self, asking: Asking) -> TokenSet:
        assert not db.session().in_transaction(), "a transaction waits for somebody else's server"
        self.asked.append(asking.refresh_token)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, TokenSet) else answer()
