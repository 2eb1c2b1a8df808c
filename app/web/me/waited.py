"""What became of a call that waited for a sign-in, in words (ui.md 7e)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ... import access, strict_json
from ...access import Caller
from ...errors import AppError, texts
from ...mcp import relay
from ...mcp.relay import ToolResult
from ...oauth import parked
from ..where import here
from .standing import Shown


@dataclass(frozen=True, slots=True)
class Said:
    """A note, and the link that goes on from it."""

    kind: str
    title: str
    line: str
    href: str = ""
    button: str = ""


@dataclass(frozen=True, slots=True)
class Waited:
    """As far as it got: one of `result`, `error` and `said` at least."""

    tool: str = ""  # "" if it was no call of a tool
    sent: Mapping[str, Any] = field(default_factory=dict)
    result: ToolResult | None = None
    error: AppError | None = None
    said: Said | None = None


def parked_call(caller: Caller, one: Shown, call_id: str) -> Waited:
    """Raises NotFound, also for another person's call, and one to another gateway."""
    found = parked.outcome(caller, access.usable(caller, one.slug), call_id)
    call = strict_json.loads(found.request) if found.request else {}
    params = (call.get("params") if call.get("method") == "tools/call" else None) or {}
    name, sent = params.get("name"), params.get("arguments")
    tool, sent = name if isinstance(name, str) else "", sent if isinstance(sent, dict) else {}
    if found.result is None:
        return Waited(tool, sent, said=_still(found.state))
    result = relay.result_of(found.result)
    if found.state == "failed":
        return Waited(tool, sent, error=_failure(one, result))
    if one.keeps:
        said = Said("ok", "You are connected, and the call ran", "The next call runs at once.")
    else:
        after = f"{one.name} asks again for the next call."
        said = Said("ok", "You signed in, the call ran, and the token is gone", after)
    return Waited(tool, sent, result, said=said)


def _failure(one: Shown, result: ToolResult) -> AppError:
    """What was kept of an error, as an error again."""
    data = result.raw.get("data")
    facts = data if isinstance(data, dict) else {}
    code = facts.get("code") if facts.get("code") in texts() else "upstream_error"
    known = {name: facts[name] for name in ("gateway", "retry_after", "scope") if name in facts}
    return AppError(code, said=facts.get("said"), link=f"/connections/{one.slug}", **known)


def _still(state: str) -> Said:
    """Of a call that has no result."""
    if state == "waiting":
        line = "Nothing was sent. It waits up to 10 minutes."
        return Said("warn", "Your call waits for your sign-in", line)
    if state == "running":
        line = "Look again in a moment."
        return Said("info", "Your call is running", line, here(), "Look again")
    error = AppError("parked_unknown" if state == "unknown" else "parked_over")
    line = f"{error.cause} {error.action}"
    return Said("warn", error.message, line, _without_call(), "Fill it in again")


def _without_call() -> str:
    """This page, which may name its tool in the query."""
    path, _, query = here().partition("?")
    left = [part for part in query.split("&") if part and not part.startswith("call=")]
    return "?".join([path, *(["&".join(left)] if left else [])])
