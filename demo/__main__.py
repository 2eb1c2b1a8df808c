"""`python -m demo`: the gateway, with a provider and an MCP server, registered and connected.

Starts from nothing each time. The admin's account is connected by the real consent, walked over
HTTP. Ctrl-C ends everything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import requests
from flask import Flask
from werkzeug.serving import make_server

from .grants import Client, Grants
from .mcp_server import create_mcp_server
from .person import Person
from .provider import PASSWORD, create_provider

ROOT = Path(__file__).resolve().parents[1]
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
    with contextlib.suppress(KeyboardInterrupt):
        run(options.port, options.folder)


def run(port: int, folder: Path) -> None:
    """Until somebody stops it."""
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        sys.exit(f"Port {port} cannot be used ({error.strerror}). Try: make demo PORT={port + 1}")
    demo = Demo(f"http://127.0.0.1:{listener.getsockname()[1]}", folder)
    with upstreams(demo.url) as gateways, demo.serve(listener) as server:
        print(demo.prepare(gateways), flush=True)
        sys.exit(server.wait())


@contextlib.contextmanager
def upstreams(gateway: str) -> Iterator[list[dict[str, object]]]:
    """The provider and the MCP server; gives the two gateways to register, one for each grant."""
    grants = Grants()
    person = Client("gateway", secrets.token_urlsafe(), "MCP Gateway", f"{gateway}/oauth/callback")
    robot = Client("robot", secrets.token_urlsafe(), "Notes robot")
    with contextlib.ExitStack() as running:
        ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        issuer, origin = (f"http://127.0.0.1:{one.getsockname()[1]}" for one in ports)
        provider = create_provider(issuer, [person, robot], grants)
        server = create_mcp_server(origin, issuer, grants.access)
        for listener, app in zip(ports, (provider, server), strict=True):
            running.enter_context(in_background(app, listener))
        yield [
            record("Notes", "Each person's own notes", person, issuer=issuer, origin=origin),
            record("Notes robot", "One service account", robot, issuer=issuer, origin=origin),
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


class Demo:
    """A fresh instance of the product in a folder of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.password = secrets.token_urlsafe(9)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in folder.glob("gateway.*"):
            old.unlink()
        self.settings = {
            "SECRET_KEY": secrets.token_urlsafe(32),
            "AUTH_ENCRYPTION_SECRET": secrets.token_urlsafe(32),
            "PUBLIC_URL": url,
            "DATABASE_URL": f"sqlite:///{folder.resolve()}/gateway.db",
            "EGRESS_ALLOW": "127.0.0.0/8",  # provider and MCP server are on this machine
        }
        self._keep("settings.env", "".join(f"{k}='{v}'\n" for k, v in self.settings.items()))

    def _keep(self, name: str, text: str) -> Path:
        path = self.folder / f"gateway.{name}"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        return path

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return kept | self.settings

    @contextlib.contextmanager
    def serve(self, listener: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
        """gunicorn takes the socket over, which listens already: early callers wait, no more."""
        fd = listener.fileno()
        command = [sys.executable, "-m", "gunicorn", "--bind", f"fd://{fd}", "wsgi:app"]
        with (self.folder / "gateway.log").open("wb") as log:
            server = subprocess.Popen(
                command, cwd=ROOT, env=self._environment(), pass_fds=[fd], stdout=log, stderr=log
            )
        listener.close()
        try:
            yield server
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()

    def flask(self, *command: str | Path, stdin: str = "") -> str:
        """One of the product's commands; gives what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", *command],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self._environment(),
        )
        if done.returncode:
            sys.exit(f"flask {' '.join(map(str, command))} failed:\n{done.stderr}{done.stdout}")
        return done.stdout

    def prepare(self, gateways: list[dict[str, object]]) -> str:
        """Admin, gateways, API token, and one person's consent; gives what to tell the person."""
        try:
            requests.get(f"{self.url}/health", timeout=60).raise_for_status()
        except requests.RequestException as error:
            log = (self.folder / "gateway.log").read_text()
            sys.exit(f"The gateway did not start ({error}):\n{log[-3000:]}")
        self.flask("users", "create-admin", ADMIN, "--password-stdin", stdin=f"{self.password}\n")
        for gateway in gateways:
            file = self._keep(f"{gateway['slug']}.json", json.dumps(gateway, indent=2))
            self.flask("gateways", "add", file)
        token = self.flask("tokens", "create", ADMIN, "--name", "demo").split()[-1]
        Person(self.url).login(ADMIN, self.password).connect("notes", user="ana", password=PASSWORD)
        return READY.format(
            url=self.url,
            admin=ADMIN,
            password=self.password,
            person=self._curl("notes", token),
            robot=self._curl("notes-robot", token),
            log=self.folder / "gateway.log",
        )

    def _curl(self, slug: str, token: str) -> str:
        body = json.dumps(CALL | {"params": {"name": "whoami", "arguments": {}}})
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        sent = " ".join(f"-H '{name}: {value}'" for name, value in headers.items())
        return f"curl -s {self.url}/mcp/{slug} {sent} -d '{body}'"


if __name__ == "__main__":
    main()
