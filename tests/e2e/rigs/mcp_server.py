#!/usr/bin/env python3
"""A real MCP server (PyPI `mcp` SDK) which is an OAuth resource server, on loopback.

Tokens are checked against the issuer's keys (JWTs) or by RFC 7662 introspection (anything else, or
everything with --validate=introspect). The SDK serves RFC 9728 metadata and answers 401 and 403
with WWW-Authenticate; ScopeGate below adds 403 insufficient_scope for the tool `secret_scope`.

Prints one line "READY <url>" once it listens. Ends on SIGTERM.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from urllib.parse import urlsplit

import anyio
import httpx2
import jwt
import uvicorn
from mcp.server import MCPServer
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=0, help="0: any free one")
parser.add_argument("--issuer", required=True)
parser.add_argument(
    "--resource", help="our resource identifier; default http://HOST:PORT/mcp (or /sse)"
)
parser.add_argument("--transport", choices=["http", "sse"], default="http")
parser.add_argument("--validate", choices=["auto", "jwks", "introspect"], default="auto")
parser.add_argument("--scope", default="mcp:tools", help="scope every request needs; '' for none")
parser.add_argument("--extra-scope", default="mcp:secret", help="scope the tool secret_scope needs")
parser.add_argument("--rs-client", default="rs:rs-secret", help="id:secret for introspection")
parser.add_argument(
    "--introspection", metavar="URL", help="for issuers whose metadata does not name it"
)
parser.add_argument(
    "--no-audience", action="store_true", help="accept any audience (issuers without RFC 8707)"
)
parser.add_argument("--json-response", action="store_true", help="answer JSON, not event streams")
parser.add_argument("--stateless", action="store_true", help="no session ids")
parser.add_argument("--with-parent", action="store_true", help="end when stdin closes")
options = parser.parse_args()

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((options.host, options.port))
PATH = "/mcp" if options.transport == "http" else "/sse"
RESOURCE = options.resource or f"http://{options.host}:{listener.getsockname()[1]}{PATH}"


class Stats:
    """What /debug/stats shows."""

    def __init__(self):
        self.tokens: set[str] = set()
        self.numbers = {
            "verify_ok": 0,
            "verify_fail": 0,
            "http": {},
            "status": {},
            "calls": {},
            "fail_reasons": [],
        }

    def count(self, group, key):
        self.numbers[group][key] = self.numbers[group].get(key, 0) + 1

    def failed(self, error):
        self.numbers["verify_fail"] += 1
        self.numbers["fail_reasons"] = [
            *self.numbers["fail_reasons"][-19:],
            f"{type(error).__name__}: {error}",
        ]

    def as_json(self):
        return {**self.numbers, "tokens_seen": len(self.tokens)}


stats = Stats()


class Verifier(TokenVerifier):
    def __init__(self):
        self.http = httpx2.AsyncClient(timeout=10)
        self.meta = {}
        self.keys = {}

    async def metadata(self):
        if not self.meta:
            for tail in (
                "/.well-known/oauth-authorization-server",
                "/.well-known/openid-configuration",
            ):
                r = await self.http.get(options.issuer.rstrip("/") + tail)
                if r.status_code == 200:
                    self.meta = r.json()
                    break
            if self.meta.get("issuer") != options.issuer:
                raise RuntimeError(f"metadata is of issuer {self.meta.get('issuer')!r}")
        return self.meta

    async def key(self, kid):
        if kid not in self.keys:
            r = await self.http.get((await self.metadata())["jwks_uri"])
            self.keys = {k.get("kid"): jwt.PyJWK(k) for k in r.raise_for_status().json()["keys"]}
        return self.keys[kid]

    async def claims_of_jwt(self, token):
        kid = jwt.get_unverified_header(token).get("kid")
        return jwt.decode(
            token,
            await self.key(kid),
            algorithms=["RS256", "RS512", "ES256"],
            issuer=options.issuer,
            audience=None if options.no_audience else RESOURCE,
            options={"require": ["exp"], "verify_aud": not options.no_audience},
        )

    async def claims_by_introspection(self, token):
        url = options.introspection or (await self.metadata())["introspection_endpoint"]
        r = await self.http.post(
            url, data={"token": token}, auth=tuple(options.rs_client.split(":", 1))
        )
        claims = r.raise_for_status().json()
        if not claims.get("active"):
            raise ValueError("introspection says inactive")
        audience = claims.get("aud") or []
        if not options.no_audience and RESOURCE not in (
            [audience] if isinstance(audience, str) else audience
        ):
            raise ValueError(f"audience {audience!r} is not {RESOURCE}")
        return claims

    async def claims(self, token):
        is_jwt = token.count(".") == 2
        if options.validate == "jwks" and not is_jwt:
            raise ValueError("not a JWT")
        if is_jwt and options.validate != "introspect":
            return await self.claims_of_jwt(token)
        return await self.claims_by_introspection(token)

    async def living_claims(self, token):
        """The claims of a good token; the SDK would let it live to the end of its last second."""
        c = await self.claims(token)
        if c.get("exp") is not None and c["exp"] <= time.time():
            raise ValueError("expired")
        return c

    async def verify_token(self, token):
        stats.tokens.add(token)
        try:
            c = await self.living_claims(token)
        except (jwt.PyJWTError, httpx2.HTTPError, ValueError, KeyError, RuntimeError) as error:
            stats.failed(error)
            return None
        stats.numbers["verify_ok"] += 1
        return AccessToken(
            token=token,
            client_id=c.get("client_id") or c.get("azp") or "?",
            scopes=(c.get("scope") or "").split(),
            expires_at=None
            if c.get("exp") is None
            else int(c["exp"]),  # some issuers introspect with a float
            resource=RESOURCE,
            subject=c.get("sub"),
            claims=c,
        )


mcp = MCPServer(
    "oauth-rig",
    token_verifier=Verifier(),
    auth=AuthSettings(
        issuer_url=options.issuer,
        resource_server_url=RESOURCE,
        validate_token_resource=False,  # Verifier does, exactly
        required_scopes=[options.scope] if options.scope else [],
    ),
)


@mcp.tool()
def whoami() -> dict:
    """Who the bearer token says is calling."""
    t = get_access_token()
    claims = t.claims or {}
    return {
        "sub": t.subject,
        "client_id": t.client_id,
        "scopes": sorted(t.scopes),
        "expires_at": t.expires_at,
        "aud": claims.get("aud"),
        "token_tail": t.token[-8:],
    }


@mcp.tool()
def echo(text: str) -> str:
    """Give the text back."""
    return text


@mcp.tool()
async def slow(ctx: Context, steps: int = 5, delay: float = 0.2) -> str:
    """Take `steps` * `delay` seconds, with a progress notification at each step."""
    for i in range(min(steps, 100)):
        await anyio.sleep(min(delay, 5))
        await ctx.report_progress(i + 1, steps, f"step {i + 1}")
    return f"done in {steps} steps"


@mcp.tool()
def secret_scope() -> str:
    """Needs the extra scope."""
    return f"the secret, for {get_access_token().subject}"


@mcp.resource("rig://caller")
def caller() -> str:
    """Who reads this."""
    return f"read by {get_access_token().subject}"


@mcp.prompt()
def greeting(name: str) -> str:
    """A prompt that names its caller."""
    return f"Greet {name} in the name of {get_access_token().subject}"


def called_tools(body):
    try:
        messages = json.loads(body)
    except ValueError:
        return []
    messages = messages if isinstance(messages, list) else [messages]
    calls = (m for m in messages if isinstance(m, dict) and m.get("method") == "tools/call")
    return [str((m.get("params") or {}).get("name")) for m in calls]


def replay(body, receive):
    """An ASGI `receive` which gives the body already read, once."""
    sent = False

    async def again():
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class ScopeGate:
    """403 insufficient_scope before the SDK sees a call of secret_scope. Behind authentication."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        user = scope.get("user")
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or not isinstance(user, AuthenticatedUser)
        ):
            return await self.app(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
        tools = called_tools(body)
        for tool in tools:
            stats.count("calls", tool)
        if "secret_scope" in tools and options.extra_scope not in user.scopes:
            return await self.refuse()(scope, receive, send)
        return await self.app(scope, replay(body, receive), send)

    def refuse(self):
        need = " ".join(filter(None, [options.scope, options.extra_scope]))
        at = urlsplit(RESOURCE)
        metadata = f"{at.scheme}://{at.netloc}/.well-known/oauth-protected-resource{at.path}"
        challenge = (
            f'Bearer error="insufficient_scope", scope="{need}", resource_metadata="{metadata}"'
        )
        return JSONResponse({"error": "insufficient_scope"}, 403, {"WWW-Authenticate": challenge})


class Count:
    """Counts requests and statuses; serves /debug/stats and /debug/reset without a token."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"] in ("/debug/stats", "/debug/reset"):
            if scope["path"] == "/debug/reset":
                stats.__init__()
            return await JSONResponse(stats.as_json())(scope, receive, send)
        stats.count("http", f"{scope['method']} {scope['path']}")

        async def counted(message):
            if message["type"] == "http.response.start":
                stats.count("status", str(message["status"]))
            await send(message)

        return await self.app(scope, receive, counted)


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets=sockets)
        if self.started:
            print(f"READY {RESOURCE}", flush=True)


def end_with_parent():
    while os.read(0, 4096):  # not sys.stdin: a thread inside its lock aborts the interpreter's end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main():
    if options.transport == "http":
        app = mcp.streamable_http_app(
            json_response=options.json_response, stateless_http=options.stateless, host=options.host
        )
    else:
        app = mcp.sse_app(host=options.host)
    app.user_middleware.append(Middleware(ScopeGate))  # innermost: after authentication
    app.user_middleware.insert(0, Middleware(Count))  # outermost
    if options.with_parent:
        threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn, done, raises the signal again
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    asyncio.run(Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
