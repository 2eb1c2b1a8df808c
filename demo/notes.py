"""What the demo's MCP server offers: a pad of notes for each person, in memory."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

from .grants import Access

Reply = dict[str, Any]
PAD = "notes://mine"


class Unknown(LookupError):
    """There is no such tool, resource or prompt."""


class Notes:
    def __init__(self) -> None:
        self._pads: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=100))

    def tools(self) -> list[Reply]:
        return [
            _tool("whoami", "Who you are to this server, and what you may do here."),
            _tool("echo", "Give a text back.", text="The text"),
            _tool("add_note", "Put a note on your pad.", changes=True, text="The note"),
            _tool("list_notes", "Read your pad."),
        ]

    def call(self, caller: Access, name: object, arguments: Reply) -> Reply:
        """Raises Unknown. What is wrong with the arguments is told in the result, for the model."""
        match name:
            case "whoami":
                scopes = ", ".join(caller.scopes)
                return _said(f"You are {caller.name} ({caller.subject}). You may: {scopes}.")
            case "list_notes":
                return _needs(caller, "notes:read") or _said(self._pad(caller))
            case "echo" | "add_note":
                text = arguments.get("text")
                if not isinstance(text, str) or not 0 < len(text) <= 1000:
                    return _said("Give a `text` of 1 to 1,000 characters.", failed=True)
                return _said(text) if name == "echo" else self._add(caller, text)
        raise Unknown(f"There is no tool {name!r}.")

    def _add(self, caller: Access, text: str) -> Reply:
        if refusal := _needs(caller, "notes:write"):
            return refusal
        self._pads[caller.subject].append(text)
        return _said(f"Noted. {caller.name} has {len(self._pads[caller.subject])} now.")

    def _pad(self, caller: Access) -> str:
        notes = self._pads[caller.subject]
        return "\n".join(f"- {note}" for note in notes) or f"{caller.name} has no notes yet."

    def resources(self) -> list[Reply]:
        about = "Your pad of notes, one a line."
        return [{"uri": PAD, "name": "my-notes", "description": about, "mimeType": "text/plain"}]

    def read(self, caller: Access, uri: object) -> Reply:
        if uri != PAD:
            raise Unknown(f"There is no resource {uri!r}.")
        return {"contents": [{"uri": PAD, "mimeType": "text/plain", "text": self._pad(caller)}]}

    def prompts(self) -> list[Reply]:
        tone = {"name": "tone", "description": "for example: cheerful", "required": False}
        about = "Sum up your notes."
        return [{"name": "sum-up", "description": about, "arguments": [tone]}]

    def prompt(self, caller: Access, name: object, arguments: Reply) -> Reply:
        if name != "sum-up":
            raise Unknown(f"There is no prompt {name!r}.")
        tone = arguments.get("tone") or "plain"
        text = f"Sum up the notes of {caller.name} in a {tone} tone:\n{self._pad(caller)}"
        return {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}


def _tool(name: str, about: str, *, changes: bool = False, **arguments: str) -> Reply:
    fields = {name: {"type": "string", "description": text} for name, text in arguments.items()}
    schema = {"type": "object", "properties": fields, "required": list(fields)}
    hints = {"readOnlyHint": not changes, "openWorldHint": False}
    return {"name": name, "description": about, "inputSchema": schema, "annotations": hints}


def _said(text: str, *, failed: bool = False) -> Reply:
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def _needs(caller: Access, scope: str) -> Reply | None:
    return None if scope in caller.scopes else _said(f"You need {scope} for this.", failed=True)
