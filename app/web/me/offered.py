"""A tool as a person sees it. All its words are another server's: text, cut, and never markup."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ...mcp.catalog import Tool

TITLE_LIMIT, ABOUT_LIMIT, LINE_LIMIT = 120, 2000, 200
_CONTROLS = re.compile(  # also those that turn the direction of text
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


@dataclass(frozen=True, slots=True)
class Effect:
    """What calling it may do, as its server says; `can_delete` asks for a tick."""

    kind: str
    word: str
    more: str
    can_delete: bool = False

    @property
    def is_told(self) -> bool:
        return self.kind != "draft"


_READS = Effect("ok", "Reads only", "The server says that it changes nothing.")
_CHANGES = Effect("off", "Changes data", "The server says that it changes data.")
_DELETES = Effect("warn", "Can delete", "The server says that it can delete data.", can_delete=True)
_UNTOLD = Effect("draft", "Effect not told", "The server does not say what it changes.")


@dataclass(frozen=True, slots=True)
class Offered:
    name: str
    title: str
    about: str
    effect: Effect
    schema: Mapping[str, Any]

    @property
    def line(self) -> str:
        """The first sentence."""
        first = re.split(r"(?<=[.!?])\s|\n", self.about, maxsplit=1)[0]
        return first if len(first) <= LINE_LIMIT else first[: LINE_LIMIT - 1] + "…"

    def matches(self, words: str) -> bool:
        text = f"{self.name} {self.title} {self.about}".lower()
        return all(word in text for word in words.lower().split())


def offered(tool: Tool) -> Offered:
    title = plain(tool.title or tool.name, TITLE_LIMIT) or "(no name)"
    about = plain(tool.description, ABOUT_LIMIT)
    return Offered(tool.name, title, about, _effect(tool.annotations), tool.input_schema)


def plain(text: str, limit: int) -> str:
    """Without control characters, and no longer than `limit`."""
    return _CONTROLS.sub("", text)[:limit].strip()


def _effect(said: Mapping[str, Any]) -> Effect:
    if said.get("readOnlyHint") is True:
        return _READS
    if said.get("destructiveHint") is True:
        return _DELETES
    told = {"readOnlyHint", "destructiveHint"} & said.keys()
    return _CHANGES if told else _UNTOLD


def address(slug: str, name: str) -> str:
    """Of a tool's page. Browsers and proxies rewrite paths, so an odd name goes into the query."""
    if re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        return f"/tools/{slug}/{name}"
    return f"/tools/{slug}/?{urlencode({'name': name})}"


def as_curl(url: str, name: str, arguments: Mapping[str, Any]) -> str:
    """The same call from a terminal. The token is for the person to fill in."""
    params = {"name": name, "arguments": arguments}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    lines = [
        f"curl {shlex.quote(url)}",
        "-H 'Authorization: Bearer YOUR_TOKEN'",
        "-H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream'",
        f"-d {shlex.quote(json.dumps(call, ensure_ascii=False))}",
    ]
    return " \\\n  ".join(lines)
