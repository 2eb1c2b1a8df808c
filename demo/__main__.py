"""`python -m demo`: the gateway, with a provider and an MCP server, registered and connected.

Starts from nothing each time. The admin's account is connected by the real consent, walked over
HTTP. Ctrl-C ends everything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from flask import Flask
from werkzeug.serving import make_server

from .grants import Client, Grants
from .instance import ROOT, Instance, NotStarted, listen
from .mcp_server import create_mcp_server
from .person import Person
from .provider import PASSWORD, create_provider
from .visitor import Stuck

ADMIN = "admin@example.com"
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
READY = """
MCP Gateway demo is ready.

  Open      {url}
  Sign in   {admin}   password: {password}

A tool call with the account that the admin connected (Ana Example, at the demo provider):

  {person}

The same server through one shared service account (client credentials):

  {robot}

The log is in {log}. Ctrl-C ends everything.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo", description="Run the demo.")
    parser.add_argument("--port", type=int, default=8000, help="the gateway's")
    parser.add_argument("--folder", type=Path, default=ROOT / "instance" / "demo")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # A shell starts what runs in the background with SIGINT ignored, and Python keeps it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        run(options.port, options.folder)


def run(port: int, folder: Path) -> None:
    """Until somebody stops it."""
    try:
        listener = listen(port)
    except OSError as error:
        sys.exit(f"Port {port} cannot be used ({error.strerror}). Try: make demo PORT={port + 1}")
    instance = Instance(folder, f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        with upstreams(instance.url) as gateways, instance.serve(listener) as server:
            print(prepare(instance, gateways), flush=True)
            sys.exit(server.wait())
    except (NotStarted, Stuck) as error:
        sys.exit(f"The demo could not start. {error}")


@contextlib.contextmanager
def upstreams(gateway: str) -> Iterator[list[dict[str, object]]]:
    """The provider and the MCP server; gives the two gateways to register, one for each grant."""
    grants = Grants()
    person = Client("gateway", secrets.token_urlsafe(), "MCP Gateway", f"{gateway}/oauth/callback")
    robot = Client("robot", secrets.token_urlsafe(), "Notes robot")
    with contextlib.ExitStack() as running:
        ports = [listen() for _ in range(2)]
        issuer, origin = (f"http://127.0.0.1:{one.getsockname()[1]}" for one in ports)
        provider = create_provider(issuer, [person, robot], grants)
        server = create_mcp_server(origin, issuer, grants.access)
        for listener, app in zip(ports, (provider, server), strict=True):
            running.enter_context(in_background(app, listener))
        yield [
            record("Notes", "Each person's own notes", person, issuer=issuer, origin=origin),
            record(
                "Notes shared", "One account for everybody", robot, issuer=issuer, origin=origin
            ),
        ]


def record(name: str, about: str, client: Client, *, issuer: str, origin: str) -> dict[str, object]:
    """A gateway as `flask gateways add` takes it."""
    oauth: dict[str, object] = {
        "grant_type": "client_credentials",
        "client_id": client.id,
        "client_secret": client.secret,
        "token_url": f"{issuer}/token",
        "resource": f"{origin}/mcp",
        "scopes": ["notes:read", "notes:write"],
    }
    if client.redirect_uri:
        oauth |= {
            "grant_type": "authorization_code",
            "issuer": issuer,
            "authorization_url": f"{issuer}/authorize",
            "revocation_url": f"{issuer}/revoke",
            "userinfo_url": f"{issuer}/userinfo",
            "account_path": ["name"],
            "redirect_uri": client.redirect_uri,
            "token_management": {"store_tokens": True, "auto_refresh": True},
        }
    shown = {"name": name, "slug": name.lower().replace(" ", "-"), "description": about}
    return {**shown, "url": f"{origin}/mcp", "auth_type": "oauth", "oauth_config": oauth}


@contextlib.contextmanager
def in_background(app: Flask, listener: socket.socket) -> Iterator[None]:
    port = listener.getsockname()[1]
    server = make_server("127.0.0.1", port, app, threaded=True, fd=listener.fileno())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        listener.close()


def prepare(instance: Instance, gateways: list[dict[str, object]]) -> str:
    """Admin, gateways, API token, and one person's consent; gives what to tell the person."""
    password = secrets.token_urlsafe(9)
    instance.flask("users", "create-admin", ADMIN, "--password-stdin", stdin=f"{password}\n")
    for gateway in gateways:
        file = instance.keep(f"{gateway['slug']}.json", json.dumps(gateway, indent=2))
        instance.flask("gateways", "add", file)
    token = instance.flask("tokens", "create", ADMIN, "--name", "demo").split()[-1]
    admin = Person(instance.url).login(ADMIN, password)
    end = admin.connect("notes", user="ana", password=PASSWORD)
    if end.status_code != 200:
        raise Stuck(f"{end.url} answered {end.status_code}: {end.text[:2000]}")
    return READY.format(
        url=instance.url,
        admin=ADMIN,
        password=password,
        person=curl(f"{instance.url}/mcp/notes", token),
        robot=curl(f"{instance.url}/mcp/notes-shared", token),
        log=instance.log,
    )


def curl(url: str, token: str) -> str:
    """The line that calls the tool `whoami`."""
    body = json.dumps(CALL | {"params": {"name": "whoami", "arguments": {}}})
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    sent = " ".join(f"-H '{name}: {value}'" for name, value in headers.items())
    return f"curl -s {url} {sent} -d '{body}'"


if __name__ == "__main__":
    main()
