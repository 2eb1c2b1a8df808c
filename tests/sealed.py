"""One row of every table that holds something sealed, with a value in each such column."""

from __future__ import annotations

import sqlalchemy as sa

from app import audit
from app.db import db
from app.models import (
    ClientRegistration,
    Connection,
    Flow,
    Gateway,
    OAuthConfig,
    ParkedCall,
    Revocation,
    User,
)
from app.resealing import sealed_columns
from app.secretbox import box, cell

OLD = "00112233445566778899aabbccddeeff" * 2  # the secret of the tests' configuration
NEW = "8f7e6d5c4b3a29180716253443526170" * 2
Place = tuple[str, str, str]  # table, row, column


def plant(number: int = 1) -> dict[Place, str]:
    """Where what is stored, but for the head of the audit trail, which moves. Commits."""
    name, url = f"n{number}", "https://as.test/token"
    user = User(email=f"{name}@example.com")
    gateway = Gateway(slug=name, name=name, url="https://mcp.test/mcp", auth_type="oauth")
    config = OAuthConfig(grant_type="authorization_code", token_url=url, settings={})
    client = ClientRegistration(kind="manual", issuer="static:https://as.test", client_id="us")
    client.redirect_uri, client.oauth_config_id = "https://gw.test/oauth/callback", config.id
    config.registration_id = client.id
    gateway.oauth_configs.append(config)
    whose = {"oauth_config_id": config.id, "gateway_id": gateway.id, "user_id": user.id}
    connection = Connection(**whose, owner_key=f"user:{user.id}", state="active")
    revocation = Revocation(connection_id=connection.id, gateway_id=gateway.id, gateway_name=name)
    revocation.style, revocation.url, revocation.client_id = "rfc7009", url, "us"
    flow = Flow(user_id=user.id, oauth_config_id=config.id, config_version=1, return_to="/")
    flow.state_hash, flow.cookie_hash, flow.created_ms, flow.expires_ms = name, name, 0, 1 << 50
    flow.authorization_url, flow.token_url, flow.redirect_uri = url, url, url
    flow.registration_id = client.id
    parked = ParkedCall(**whose, digest=name, expires_ms=1 << 50)
    rows = [user, client, gateway, connection, revocation, flow, parked]
    planted = {}
    for row in rows:
        for column in sealed_columns().get(type(row), ()):
            place = (row.__tablename__, row.id, column)
            planted[place] = f"secret-{'.'.join(place)}"
            setattr(row, column, box().seal(planted[place], where=cell(row, column)))
    for row in rows:
        db.session.add(row)
        db.session.flush()
    audit.record(audit.SYSTEM, "tests.planted", audit.Subject("gateway", gateway.id))
    db.session.commit()
    return planted


def read(place: Place) -> str:
    """What is stored there. Raises Unsealable."""
    table, row_id, column = place
    [model] = [one for one in sealed_columns() if one.__tablename__ == table]
    with sa.orm.Session(db.engine) as session:
        row = session.get(model, row_id)
        return box().open(getattr(row, column), where=cell(row, column))


def put(place: Place, sealed: str | None) -> None:
    """As somebody who can write to the database."""
    table, row_id, column = place
    [model] = [one for one in sealed_columns() if one.__tablename__ == table]
    with db.engine.begin() as link:
        link.execute(sa.update(model).where(model.id == row_id).values({column: sealed}))
