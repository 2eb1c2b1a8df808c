"""The tools a gateway was last seen to offer, per person: what its server says, untrusted text."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ..db import db
from ..models import CatalogEntry

MOST = 5_000  # tools of one gateway
_NAME_MOST = 500  # characters
e = CatalogEntry


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    annotations: dict[str, Any]
    definition: dict[str, Any]  # as it was listed


def known(gateway_id: str, owner_key: str) -> list[Tool]:
    """As listed last, in the server's order. A short read of its own."""
    query = (
        sa.select(e.definition)
        .where(e.gateway_id == gateway_id, e.owner_key == owner_key, e.kind == "tool")
        .order_by(e.position)
    )
    with db.engine.connect() as link:
        return tools(link.scalars(query))


def keep(gateway_id: str, owner_key: str, listed: Sequence[Tool]) -> None:
    """Replace what was known; an equal list changes nothing. Commits, by itself."""
    definitions = [tool.definition for tool in listed]
    if [tool.definition for tool in known(gateway_id, owner_key)] == definitions:
        return
    here = {"gateway_id": gateway_id, "owner_key": owner_key, "kind": "tool"}
    rows = [
        {**here, "id": uuid.uuid4().hex, "name": tool.name, "position": at}
        | {"definition": tool.definition}
        for at, tool in enumerate(listed)
    ]
    old = [getattr(e, name) == value for name, value in here.items()]
    with suppress(IntegrityError), db.engine.begin() as link:  # somebody keeps the same list now
        link.execute(sa.delete(e).where(*old))
        if rows:
            link.execute(sa.insert(e), rows)


def tools(listed: Any) -> list[Tool]:
    """Those of a `tools` list that can be used; a name that comes again is left out."""
    found: dict[str, Tool] = {}
    for said in listed:
        tool = _tool(said)
        if tool is not None and len(found) < MOST:
            found.setdefault(tool.name, tool)
    return list(found.values())


def _tool(said: Any) -> Tool | None:
    name = said.get("name") if isinstance(said, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= _NAME_MOST or not name.isprintable():
        return None
    said = _without_nul(said)
    annotations = _object(said.get("annotations"))
    title = said.get("title") or annotations.get("title")
    return Tool(
        name=name,
        title=title if isinstance(title, str) else "",
        description=said["description"] if isinstance(said.get("description"), str) else "",
        input_schema=_object(said.get("inputSchema")),
        annotations=annotations,
        definition=dict(said),
    )


def _without_nul(said: Any) -> Any:
    """PostgreSQL keeps no such character, and nobody reads one."""
    if isinstance(said, str):
        return said.replace("\0", "")
    if isinstance(said, dict):
        return {_without_nul(name): _without_nul(value) for name, value in said.items()}
    return [_without_nul(one) for one in said] if isinstance(said, list) else said


def _object(said: Any) -> dict[str, Any]:
    return dict(said) if isinstance(said, Mapping) else {}
