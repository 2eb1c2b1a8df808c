#!/usr/bin/env python3
"""One tool call (or a look at all there is) through the real MCP client of the `mcp` SDK.

The client speaks both protocol eras: mode "auto" tries the current one first, "legacy" opens with
initialize, a date pins a revision.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.oauth2 import AuthorizationCodeResult
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata
from mcp.shared.exceptions import MCPError

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # run as a script, from anywhere
from demo.visitor import Visitor  # noqa: E402


def bearer(token):
    return {"Authorization": f"Bearer {token}"} if token else {}


async def with_client(work, url, token=None, *, mode="auto", sse=False, auth=None, timeout=30):
    """Connect, `await work(client)`, disconnect."""
    if sse:
        transport = sse_client(url, headers=bearer(token) or None, auth=auth)
        async with Client(transport, mode="legacy") as client:
            return await work(client)
    async with httpx2.AsyncClient(headers=bearer(token), timeout=timeout, auth=auth) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            return await work(client)


async def call(url, token, tool, args=None, *, progress=None, **how):
    """Call one tool: (protocol version, text of the result, is_error)."""

    async def on_progress(done, total, message):
        if progress is not None:
            progress.append((done, total, message))

    async def work(client):
        r = await client.call_tool(tool, args or {}, progress_callback=on_progress)
        text = "\n".join(c.text for c in r.content if c.type == "text")
        return client.session.protocol_version, text, r.is_error

    return await with_client(work, url, token, **how)


async def look(url, token, **how):
    """All the server offers; each resource read, each prompt asked for."""

    async def work(client):
        resources = (await client.list_resources()).resources
        prompts = (await client.list_prompts()).prompts
        reads = {str(r.uri): await client.read_resource(r.uri) for r in resources}
        asked = {p.name: {a.name: p.name for a in p.arguments or []} for p in prompts}
        gets = {name: await client.get_prompt(name, args) for name, args in asked.items()}
        return {
            "version": client.session.protocol_version,
            "tools": [tool.name for tool in (await client.list_tools()).tools],
            "resources": {uri: read.contents[0].text for uri, read in reads.items()},
            "prompts": {name: got.messages[0].content.text for name, got in gets.items()},
        }

    return await with_client(work, url, token, **how)


class Memory:
    """Where the SDK's OAuth client keeps what it got: nowhere."""

    tokens = info = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.info

    async def set_client_info(self, info):
        self.info = info


def oauth_provider(url, user, password, until="http://127.0.0.1:9999/callback", scope=None):
    """The SDK's own OAuth client (metadata, registration, PKCE), with a Visitor as its browser."""
    got = {}

    async def redirect(start):
        got.clear()
        got.update(await asyncio.to_thread(consent, start, until, user, password))

    async def callback():
        if "code" not in got:
            raise PermissionError(f"the authorization server said {got}")
        return AuthorizationCodeResult(code=got["code"], state=got.get("state"), iss=got.get("iss"))

    metadata = OAuthClientMetadata(
        client_name="probe",
        redirect_uris=[until],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        scope=scope,
    )
    return OAuthClientProvider(url, metadata, Memory(), redirect, callback)


def consent(start, until, user, password):
    """The parameters that come back to `until` after this person said yes."""
    visitor = Visitor()
    page = visitor.get(start, follow=False)
    back = visitor.consent(page, until, user=user, password=password)
    return dict(parse_qsl(urlsplit(back).query))


def unwrap(error):
    """The MCPError inside the exception groups of the client's task groups, if there is one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def args_of_command():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("url")
    p.add_argument("tool", nargs="?", help="without one: look at all there is")
    p.add_argument("args", nargs="?", default="{}", help="JSON")
    p.add_argument("--token", help="bearer token")
    p.add_argument("--oauth", metavar="USER:PASSWORD", help="use the SDK's own OAuth client")
    p.add_argument("--mode", default="auto", help="auto | legacy | 2026-07-28")
    p.add_argument("--sse", action="store_true", help="the old HTTP+SSE transport")
    return p.parse_args()


def run(a):
    """What the server said to this command, as JSON."""
    auth = oauth_provider(a.url, *a.oauth.split(":", 1)) if a.oauth else None
    how = {"mode": a.mode, "sse": a.sse, "auth": auth}
    if not a.tool:
        return asyncio.run(look(a.url, a.token, **how))
    progress = []
    how["progress"] = progress
    version, text, is_error = asyncio.run(call(a.url, a.token, a.tool, json.loads(a.args), **how))
    return {"version": version, "text": text, "is_error": is_error, "progress": progress}


def main():
    try:
        out = run(args_of_command())
    except (MCPError, BaseExceptionGroup) as error:
        found = unwrap(error)
        if not isinstance(found, MCPError):
            raise
        out = {"error": found.error.model_dump(include={"code", "message", "data"})}
    json.dump(out, sys.stdout, indent=1)
    print()
    return 1 if "error" in out else 0


if __name__ == "__main__":
    sys.exit(main())
