"""What to paste into which AI client, for the gateways of one API token (ui.md 7g).

Checked against the clients' own documentation in November 2026. VS Code asks for the token and
Cursor takes it from the environment, so those two files can be committed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PLACEHOLDER = "YOUR_TOKEN"


@dataclass(frozen=True, slots=True)
class Part:
    say: str
    text: str


@dataclass(frozen=True, slots=True)
class Client:
    name: str
    parts: tuple[Part, ...]


def clients(urls: Mapping[str, str], token: str = PLACEHOLDER) -> list[Client]:
    """For each client, every gateway in one go: its slug and its address. At least one."""
    return [
        Client("Claude Code", (_claude_code(urls, token),)),
        Client("VS Code", _vs_code(urls, token)),
        Client("Cursor", _cursor(urls, token)),
        Client("Claude Desktop", (_claude_desktop(urls, token),)),
        Client("curl", (_curl(urls, token),)),
    ]


def _claude_code(urls: Mapping[str, str], token: str) -> Part:
    lines = [
        f'claude mcp add --transport http {slug} {url} --header "Authorization: Bearer {token}"'
        for slug, url in urls.items()
    ]
    say = "Run in a terminal. With --scope user before the name it is there in every project."
    return Part(say, "\n".join(lines))


def _vs_code(urls: Mapping[str, str], token: str) -> tuple[Part, ...]:
    asked = "mcp-gateway-token"
    prompt = {"type": "promptString", "id": asked, "password": True}
    header = {"Authorization": f"Bearer ${{input:{asked}}}"}
    servers = {slug: {"type": "http", "url": url, "headers": header} for slug, url in urls.items()}
    file = {"inputs": [prompt | {"description": "API token of MCP Gateway"}], "servers": servers}
    return (
        Part("Put this into .vscode/mcp.json, or into the mcp.json of your profile.", _json(file)),
        Part("VS Code asks for the token once and keeps it. Paste this:", token),
    )


def _cursor(urls: Mapping[str, str], token: str) -> tuple[Part, ...]:
    header = {"Authorization": "Bearer ${env:MCP_GATEWAY_TOKEN}"}
    servers = {slug: {"url": url, "headers": header} for slug, url in urls.items()}
    where = "Put this into ~/.cursor/mcp.json, or into .cursor/mcp.json of a project."
    return (
        Part(where, _json({"mcpServers": servers})),
        Part("Cursor reads the token from its environment:", f"export MCP_GATEWAY_TOKEN={token}"),
    )


def _claude_desktop(urls: Mapping[str, str], token: str) -> Part:
    """Without a space in the argument: on Windows it would be taken apart there."""
    servers = {
        slug: {
            "command": "npx",
            "args": ["-y", "mcp-remote", url, "--header", "Authorization:${AUTH_HEADER}"],
            "env": {"AUTH_HEADER": f"Bearer {token}"},
        }
        for slug, url in urls.items()
    }
    say = (
        "Put this into claude_desktop_config.json: Settings, Developer, Edit Config. Needs Node.js."
    )
    return Part(say, _json({"mcpServers": servers}))


def _curl(urls: Mapping[str, str], token: str) -> Part:
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "curl", "version": "1"},
    }
    call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    lines = (
        f"curl {next(iter(urls.values()))}",
        f'-H "Authorization: Bearer {token}"',
        '-H "Content-Type: application/json" -H "Accept: application/json, text/event-stream"',
        f"-d '{json.dumps(call)}'",
    )
    return Part("Says hello. The answer names the MCP server.", " \\\n  ".join(lines))


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2)
