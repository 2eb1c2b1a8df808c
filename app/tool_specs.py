"""What an admin says of an OAuth config that serves some tools of a gateway (oauth.md 1.1)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .specs import CLEAN, OAuthConfigSpec, Spec


class Pattern(Spec):
    kind: Literal["tool", "resource", "prompt"] = "tool"
    match: Annotated[str, Field(min_length=1, max_length=500), CLEAN]  # * ? [...]


class ToolConfigSpec(OAuthConfigSpec):
    """`client_id` null: the gateway's own client, and so its provider."""

    name: Annotated[str, Field(min_length=1, max_length=100), CLEAN]
    tool_patterns: Annotated[list[Pattern], Field(min_length=1, max_length=50)]

    def settings(self) -> dict[str, Any]:
        whole = super().settings()
        return {name: whole[name] for name in whole if name not in ("name", "tool_patterns")}
