"""What we answer in a server's place: while nobody is connected, or it is down (N14, L1).

What is declared here works on real calls, as far as it was ever seen (capabilities: section 10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..access import Usable
from . import jsonrpc, wire
from .memory import memory

CONNECT = "gateway_connect"  # the tool that leads to a sign-in
JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
_NOT_DECLARED = ("logging", "tasks", "extensions", "experimental")


def identity(gateway: Usable) -> dict[str, str]:
    return {"name": gateway.slug, "title": gateway.name, "version": wire.OURS["version"]}


def capabilities(gateway: Usable) -> dict[str, Any]:
    """The last known ones, without what we cannot stand for; tools always, as one is ours."""
    known = memory().server(gateway)
    found = {
        name: {k: v for k, v in said.items() if k not in ("listChanged", "subscribe")}
        for name, said in (known.capabilities if known else {}).items()
        if name not in _NOT_DECLARED and isinstance(said, dict)
    }
    return found | {"tools": {"listChanged": True}}


def instructions(gateway: Usable, *, is_connected: bool) -> dict[str, str]:
    if is_connected:
        return {}
    return {"instructions": f"{gateway.name} needs a sign-in. Call the tool {CONNECT} for it."}


def reply(
    call: wire.Call, gateway: Usable, value: Mapping[str, Any], code: str = "own"
) -> wire.Reply:
    """A result we made, with what its era wants on it (N12, N13)."""
    if call.is_modern:
        meta = {f"{wire.META}serverInfo": identity(gateway)}
        value = {"resultType": "complete", **value, "_meta": {**value.get("_meta", {}), **meta}}
    return wire.Reply(200, dict(JSON), [jsonrpc.result(call.id, value)], code)


def discover(call: wire.Call, gateway: Usable, *, is_connected: bool) -> wire.Reply:
    """N14."""
    value = {
        "supportedVersions": [wire.MODERN],
        "capabilities": capabilities(gateway),
        **{"ttlMs": 0, "cacheScope": "private"},
        **instructions(gateway, is_connected=is_connected),
    }
    return reply(call, gateway, value)


def initialize(call: wire.Call, gateway: Usable, *, is_connected: bool) -> tuple[wire.Reply, str]:
    """L1, and the version we agreed to."""
    asked = call.params.get("protocolVersion")
    version = asked if asked in wire.LEGACY else wire.NEWEST_LEGACY
    value = {
        "protocolVersion": version,
        "capabilities": capabilities(gateway),
        "serverInfo": identity(gateway),
        **instructions(gateway, is_connected=is_connected),
    }
    return reply(call, gateway, value), version


def older(call: wire.Call) -> wire.Reply:
    """To server/discover, for a server of before: its client then opens with initialize (V3)."""
    sentence = f"{wire.MODERN} is not spoken here. Open with initialize."
    body = jsonrpc.error(call.id, jsonrpc.INVALID_REQUEST, sentence)
    return wire.Reply(400, dict(JSON), [body], "older_protocol")


def listed(call: wire.Call, gateway: Usable, entries: Sequence[Mapping[str, Any]]) -> wire.Reply:
    """One page of a list that is ours, for this person only."""
    value: dict[str, Any] = {wire.LISTS[call.method or ""]: list(entries)}
    if call.is_modern:
        value |= {"ttlMs": 0, "cacheScope": "private"}
    return reply(call, gateway, value)


def connect_tool(gateway: Usable) -> dict[str, Any]:
    return {
        "name": CONNECT,
        "title": f"Connect {gateway.name}",
        "description": f"{gateway.name} needs your sign-in before its tools can be used. Call this "
        "tool, open the link, then list the tools again.",
        "inputSchema": {"type": "object", "additionalProperties": False},
    }
