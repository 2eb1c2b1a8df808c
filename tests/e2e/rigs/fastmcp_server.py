#!/usr/bin/env python3
"""FastMCP as MCP server and authorization server in one, with its in-memory OAuth provider.

It registers everybody, approves everybody, and rotates refresh tokens.

Prints one line "READY <url>" once it listens. Ends on SIGTERM.
"""

import argparse
import os
import signal
import socket
import threading

import uvicorn
from fastmcp import FastMCP
from fastmcp.server.auth.auth import ClientRegistrationOptions, RevocationOptions
from fastmcp.server.auth.providers.in_memory import InMemoryOAuthProvider
from fastmcp.server.dependencies import get_access_token

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--with-parent", action="store_true", help="end when stdin closes")
options = parser.parse_args()

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
ORIGIN = f"http://127.0.0.1:{listener.getsockname()[1]}"

provider = InMemoryOAuthProvider(
    base_url=ORIGIN,
    required_scopes=["mcp:tools"],
    client_registration_options=ClientRegistrationOptions(
        enabled=True, valid_scopes=["mcp:tools"], default_scopes=["mcp:tools"]
    ),
    revocation_options=RevocationOptions(enabled=True),
)
mcp = FastMCP("fastmcp rig", auth=provider)


@mcp.tool
def whoami() -> str:
    """Who the token was given to."""
    token = get_access_token()
    return f"client {token.client_id} with {' '.join(token.scopes)}"


def end_with_parent():
    while os.read(0, 4096):
        pass
    os._exit(0)


def main():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    if options.with_parent:
        threading.Thread(target=end_with_parent, daemon=True).start()
    server = uvicorn.Server(uvicorn.Config(mcp.http_app(), log_level="warning"))
    threading.Thread(target=server.run, args=([listener],), daemon=True).start()
    print(f"READY {ORIGIN}/mcp", flush=True)  # who comes now waits: the socket listens already
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)


if __name__ == "__main__":
    main()
