"""The runbook of docs/keys.md, step by step, at a running server."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time

import requests
import sqlalchemy as sa

from app.secretbox import SecretBox
from tests.e2e.gateway import PASSWORD, ROOT, Gateway, Person
from tests.upstream import EVENTS, JSON, upstream  # noqa: F401  # a fixture

OLD, NEW = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
OLD_ID, NEW_ID = (SecretBox([secret]).active for secret in (OLD, NEW))
CHANGING = {"AUTH_ENCRYPTION_SECRET": NEW, "AUTH_ENCRYPTION_SECRETS_OLD": OLD}


def command(node: Gateway, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One of its commands, whatever its exit status."""
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=node.env | environment,
        timeout=120,
    )


def announced(node: Gateway, active: str) -> None:
    """Returns when a process has said that it seals with this key."""
    engine = sa.create_engine(node.env["DATABASE_URL"])
    query = sa.text("SELECT count(*) FROM key_holder WHERE active_key = :key")
    give_up = time.monotonic() + 60
    with engine.connect() as link:
        while not link.scalar(query, {"key": active}):
            link.rollback()
            assert time.monotonic() < give_up, node.log()[-3000:]
            time.sleep(0.1)
    engine.dispose()


def works(node: Gateway, token: str) -> bool:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    message |= {"params": {"name": "echo", "arguments": {}}}
    headers = {"Authorization": f"Bearer {token}", "Accept": f"{JSON}, {EVENTS}"}
    answer = requests.post(f"{node.url}/mcp/acme", json=message, headers=headers, timeout=30)
    return "Bearer the-token" in answer.text


def test_sec_082_f_28_the_runbook_changes_the_key_of_a_running_server(gateway_server, upstream):  # noqa: F811
    node = gateway_server(AUTH_ENCRYPTION_SECRET=OLD)
    node.admin()
    record = {"name": "Acme", "slug": "acme", "url": upstream.url, "auth_type": "bearer"}
    node.flask("gateways", "add", "-", stdin=json.dumps(record | {"bearer_token": "the-token"}))
    token = node.token()
    assert works(node, token)
    announced(node, OLD_ID)
    too_early = command(node, "secrets", "reseal", **CHANGING)
    assert too_early.returncode == 1 and f"has not got key {NEW_ID}" in too_early.stderr
    assert command(node, "secrets", "status", **CHANGING).returncode == 1
    refused = command(node, "users", "list", **CHANGING)
    assert refused.returncode == 78 and f"has not got key {NEW_ID}" in refused.stderr
    assert works(node, token)
    Person(node.url).login("admin@example.com", PASSWORD)  # which is written down
    node.restart()  # and its own settings still start it

    node.restart(AUTH_ENCRYPTION_SECRETS_OLD=NEW)  # 1: every node opens the new one
    node.restart(**CHANGING)  # 2: and now seals with it
    announced(node, NEW_ID)
    assert works(node, token)
    moved = command(node, "secrets", "reseal")  # 3: online
    assert moved.returncode == 0 and f"No longer needed: {OLD_ID}." in moved.stdout
    assert command(node, "secrets", "status").returncode == 0  # 4
    assert works(node, token)
    node.restart(AUTH_ENCRYPTION_SECRETS_OLD="")  # 5: the old one is gone
    assert works(node, token)
    assert "the-token" not in too_early.stderr + moved.stdout + moved.stderr
