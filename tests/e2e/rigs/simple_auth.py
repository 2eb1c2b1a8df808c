#!/usr/bin/env python3
"""The MCP Python SDK's example pair `simple-auth`: an authorization server and a resource server.

The example's issuer ends in a slash, people sign in at it as demo_user, and it gives no refresh
token. `setup` takes the example from the SDK's source distribution; here it only gets free ports.

Prints one line "READY <url>" once both listen. Ends on SIGTERM.
"""

import argparse
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import uvicorn
from pydantic import AnyHttpUrl

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--examples", type=Path, required=True, help="where `setup` put the example")
parser.add_argument("--oauth-strict", action="store_true", help="the example's own option")
parser.add_argument("--with-parent", action="store_true", help="end when stdin closes")
options = parser.parse_args()

sys.path.insert(0, str(options.examples))
from mcp_simple_auth import auth_server, server  # noqa: E402
from mcp_simple_auth.simple_auth_provider import SimpleAuthSettings  # noqa: E402


def listener():
    """A socket on a free port, and its origin."""
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    one.listen()
    return one, f"http://127.0.0.1:{one.getsockname()[1]}"


def authorization_server(origin):
    settings = auth_server.AuthServerSettings(
        server_url=AnyHttpUrl(origin), auth_callback_path=f"{origin}/login"
    )
    return auth_server.create_authorization_server(settings, SimpleAuthSettings())


def resource_server(origin, issuer):
    settings = server.ResourceServerSettings(
        server_url=AnyHttpUrl(f"{origin}/mcp"),
        auth_server_url=AnyHttpUrl(issuer),
        auth_server_introspection_endpoint=f"{issuer}/introspect",
        oauth_strict=options.oauth_strict,
    )
    return server.create_resource_server(settings).streamable_http_app(host="127.0.0.1")


def end_with_parent():
    while os.read(0, 4096):
        pass
    os._exit(0)


def main():
    (ours, issuer), (theirs, origin) = listener(), listener()
    apps = [(authorization_server(issuer), ours), (resource_server(origin, issuer), theirs)]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    if options.with_parent:
        threading.Thread(target=end_with_parent, daemon=True).start()
    for app, socket_of_it in apps:
        one = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        threading.Thread(target=one.run, args=([socket_of_it],), daemon=True).start()
    print(f"READY {origin}/mcp", flush=True)  # who comes now waits: both sockets listen already
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)


if __name__ == "__main__":
    main()
