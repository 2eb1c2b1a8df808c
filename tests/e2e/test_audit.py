"""The record of what happened: where the log is full, and under a role that may not change it."""

import re
from pathlib import Path

import psycopg
import pytest
import requests

from app import create_app, people
from app.db import db
from config import Config
from tests import postgres
from tests.conftest import SECRETS
from tests.e2e.gateway import PASSWORD, Gateway
from tests.web.credentials import bearer

ROOT = Path(__file__).parents[2]
PLAIN = {"name": "Acme", "url": "https://mcp.test/mcp", "auth_type": "none"}


def add(gateway, token, name: str) -> int:
    record = PLAIN | {"name": name}
    url = f"{gateway.url}/api/v1/gateways"
    return requests.post(url, json=record, headers=bearer(token), timeout=30).status_code


def test_f_44_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    """The record is in the database; a line that is lost is lost."""
    full = ["sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh"]
    database = f"sqlite:///{tmp_path / 'gateway.db'}"
    with Gateway(database, prefix=full) as gateway:
        admin = gateway.admin()
        assert admin.at("/admin/activity").status_code == 200
        token = gateway.token(scope="api:write")
        assert [add(gateway, token, name) for name in ("One", "Two")] == [201, 201]
        assert "records hold together" in gateway.flask("audit", "verify")
        assert requests.get(f"{gateway.url}/ready", timeout=30).status_code == 200
        assert gateway.log() == ""


def grants() -> str:
    """As docs/why/audit.md gives them."""
    text = (ROOT / "docs/why/audit.md").read_text()
    return re.search(r"```sql\n(.*?)```", text, re.S)[1].replace("'…'", "'x'")


def test_sec_114_a_role_of_the_database_can_be_kept_from_changing_records():
    with postgres.server() as server:
        owner = server.create("gateway")
        app = owner.replace("postgres@", "gateway_app@")
        made = create_app(Config(**SECRETS, DATABASE_URL=owner))  # which migrates it
        with made.app_context():
            people.create("admin@example.com", password=PASSWORD, role="admin")
            db.session.commit()
            db.engine.dispose()
        with psycopg.connect(owner.replace("+psycopg", ""), autocommit=True) as link:
            link.execute(grants())
        with Gateway(app, MIGRATE_AT_START="false", **SECRETS) as gateway:
            token = gateway.token(scope="api:write")
            assert add(gateway, token, "One") == 201
            assert "records hold together" in gateway.flask("audit", "verify")
            with psycopg.connect(app.replace("+psycopg", ""), autocommit=True) as link:
                for statement in (
                    "UPDATE audit_event SET action = 'x'",
                    "DELETE FROM audit_event",
                    "TRUNCATE audit_event",
                    "ALTER TABLE audit_event DISABLE TRIGGER ALL",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        link.execute(statement)
                [count] = link.execute("SELECT count(*) FROM audit_event").fetchone()
            assert count >= 3
