"""Providers as data: one YAML file each in providers/, checked when the gateway starts.

Its values are copied into a config, which then belongs to the admin (oauth.md section 10). No code
asks which provider it is: what is odd about one stands in its file, with the reason beside it.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import Invalid, NotFound
from ..models import OAuthConfig
from .template_file import NAMES, filled, read

PROVIDERS = Path(__file__).with_name("providers")
_CODE = "authorization_code"
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Var:
    """What an admin has to say of their own tenant. The whole value fits `pattern`."""

    label: str
    example: str
    pattern: str = ".+"


@dataclass(frozen=True, slots=True)
class Revoke:
    ends_all: bool = False  # one token ended there ends all that the person granted us
    page: str | None = None  # where people remove the app themselves


@dataclass(frozen=True, slots=True)
class Life:
    """Seconds; None: unknown."""

    access: int | None = None
    idle: int | None = None  # unused for so long, a refresh token ends
    rotates: bool | None = None  # each refresh gives a new refresh token
    grace: int | None = None  # for so long the old one is still taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    id: str
    name: str
    version: int
    checked: datetime.date | None = None  # compared with the provider's own pages
    docs: str | None = None
    hosts: tuple[str, ...] = ()  # of MCP servers, * for any part
    mcp_url: str | None = None
    register: tuple[str, ...] = ()  # cimd, dcr, manual, in order of hope
    redirect: str = "shared"  # own: a callback path of the gateway's own (oauth.md 3.3)
    grants: tuple[str, ...] = (_CODE,)
    vars: Mapping[str, Var] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    api: Mapping[str, Any] | None = None  # for a server of one's own that calls their API
    errors: Mapping[str, str] = field(default_factory=dict)  # their word -> our code
    revoke: Revoke = Revoke()
    life: Life = Life()
    why: Mapping[str, str] = field(default_factory=dict)  # field -> reason
    check: tuple[str, ...] = ()  # not compared yet
    steps: tuple[str, ...] = ()

    @property
    def registers(self) -> bool:
        """Whether it is hoped to need no client made by hand."""
        return self.register[0] != "manual"

    def settings(self, *, api: bool = False) -> dict[str, Any]:
        """Fields of a config (oauth.md 1.1), placeholders as they stand."""
        chosen = dict(self.api if api and self.api is not None else self.config)
        if self.errors:
            chosen["reply"] = dict(chosen.get("reply", {})) | {"errors": dict(self.errors)}
        if self.revoke.ends_all:
            chosen["revocation_ends_all"] = True
        return chosen

    def asks(self, *, api: bool = False) -> dict[str, Var]:
        """The variables that this set-up needs."""
        used = set(_placeholders([self.mcp_url, self.settings(api=api)]))
        return {name: var for name, var in self.vars.items() if name in used}


@dataclass(frozen=True, slots=True)
class Change:
    """A field that a newer version of a template says otherwise. None: not set."""

    field: str
    now: Any
    then: Any
    why: str


@functools.cache
def every() -> Mapping[str, Template]:
    """All of them by id, in the order of their names. Raises BadTemplate: file, line and key."""
    found = [_template(read(path)) for path in sorted(PROVIDERS.glob("*.yaml"))]
    return {one.id: one for one in sorted(found, key=lambda one: one.name.lower())}


def find(template_id: str) -> Template:
    """Raises NotFound."""
    if template_id not in every():
        raise NotFound
    return every()[template_id]


def for_host(host: str) -> Template | None:
    """The template that an address at this host suggests; the most exact pattern wins."""
    fits = [
        (len(pattern), one)
        for one in every().values()
        for pattern in one.hosts
        if fnmatchcase(host.lower(), pattern)
    ]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None


def leave_page(host: str) -> str | None:
    """Where people remove our app themselves, if the provider at this host has such a page."""
    for one in every().values() if host else ():
        kinds = (one.config, one.api or {})
        at = {urlsplit(str(kind.get("authorization_url", ""))).netloc for kind in kinds}
        if one.revoke.page and (host in at or any(fnmatchcase(host, name) for name in one.hosts)):
            return one.revoke.page
    return None


def fill(
    template_id: str,
    given: Mapping[str, str],
    *,
    api: bool = False,
    grant: str | None = None,
) -> dict[str, Any]:
    """A patch of a gateway's record. `grant`: one of the template's; None: its first.

    Without `client_id`, `redirect_uri` and `name`, and with a `url` only where the provider runs
    the MCP server. Raises NotFound, and Invalid with paths such as "vars.tenant" or "grant".
    """
    template = find(template_id)
    asked = template.asks(api=api)
    values = {name: text.strip() for name, text in given.items()}
    wrong = {f"vars.{name}": "There is no such value." for name in values if name not in asked}
    for name, var in asked.items():
        if not re.fullmatch(var.pattern, values.get(name, "")):
            wrong[f"vars.{name}"] = f"Enter the {var.label}, such as {var.example}."
    if grant not in (None, *template.grants):
        wrong["grant"] = f"This must be one of: {', '.join(template.grants)}."
    if wrong:
        raise Invalid(wrong)
    chosen: dict[str, Any] = {
        "grant_type": grant or template.grants[0],
        **filled(template.settings(api=api), values),
        "template": template.id,
        "template_version": template.version,
    }
    patch: dict[str, Any] = {"auth_type": "oauth", "oauth_config": chosen}
    if template.mcp_url is not None and not api:
        patch["url"] = filled(template.mcp_url, values)
    return patch


def problem(template_id: str | None) -> str | None:
    """What stands against naming it in a record."""
    if template_id is None or template_id in every():
        return None
    return "There is no such template. See the list at /help/providers."


def of(config: OAuthConfig | None) -> Template | None:
    """What this config was copied from. None: nothing, or what is no longer there."""
    return every().get(config.template or "") if config is not None else None


def differs(config: OAuthConfig | None) -> tuple[Change, ...]:
    """What the newer version of its template says otherwise than the config; () if none is newer.

    The variables are read off the config. A field whose placeholder cannot be is left alone.
    """
    template = of(config)
    if template is None or config is None or (config.template_version or 0) >= template.version:
        return ()
    return tuple(_changes(template, config.settings))


def _changes(template: Template, settings: Mapping[str, Any]) -> Iterator[Change]:
    kinds = [template.settings(api=api) for api in (False, True)]
    chosen = max(kinds, key=lambda one: _likeness(one, settings))
    values = recovered(chosen, settings)
    for name, then in chosen.items():
        if set(_placeholders(then)) & {*template.vars} <= {*values}:
            new = filled(then, values)
            if not _says(settings.get(name), new):
                yield Change(name, settings.get(name), new, template.why.get(name, ""))


def newer(config: OAuthConfig) -> dict[str, Any]:
    """The patch that brings a config to the newest version of its template; {}: it is there."""
    template = of(config)
    if template is None or (config.template_version or 0) >= template.version:
        return {}
    changed = {one.field: one.then for one in differs(config)}
    return {"oauth_config": changed | {"template_version": template.version}}


def recovered(chosen: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """The values that were filled in, as far as they can be read off again, and agree."""
    seen: dict[str, set[str]] = {}
    for name, pattern in chosen.items():
        here = settings.get(name)
        pairs = [(pattern, here)]
        if isinstance(pattern, list) and isinstance(here, list):
            pairs = list(zip(pattern, here, strict=False))
        for one, text in pairs:
            if isinstance(one, str) and isinstance(text, str):
                found = re.fullmatch(_regex(one), text)
                for var, value in found.groupdict().items() if found else ():
                    seen.setdefault(var, set()).add(value)
    return {var: values.pop() for var, values in seen.items() if len(values) == 1}


def _regex(pattern: str) -> str:
    """Each placeholder a group; the same one a second time, the same text."""
    seen: set[str] = set()
    parts = NAMES.split(pattern)
    for place in range(1, len(parts), 2):
        name = parts[place]
        parts[place] = f"(?P={name})" if name in seen else f"(?P<{name}>.+)"
        seen.add(name)
    parts[::2] = map(re.escape, parts[::2])
    return "".join(parts)


def _placeholders(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from NAMES.findall(value)
    for one in value.values() if isinstance(value, Mapping) else ():
        yield from _placeholders(one)
    for one in value if isinstance(value, list) else ():
        yield from _placeholders(one)


def _likeness(chosen: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """How much of the addresses agree: that tells the vendor's server from one of our own."""
    return sum(
        isinstance(here := settings.get(name), str) and bool(re.fullmatch(_regex(there), here))
        for name, there in chosen.items()
        if name.endswith("_url") and isinstance(there, str)
    )


def _says(here: Any, then: Any) -> bool:
    """Whether a setting says that already; of an object, the members that are named."""
    if isinstance(here, Mapping) and isinstance(then, Mapping):
        return all(_says(here.get(name, _ABSENT), one) for name, one in then.items())
    return bool(here == then)


# -- from files ----------------------------------------------------------------------------------


def _template(row: Mapping[str, Any]) -> Template:
    lists = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
    named = {
        "vars": {name: Var(**var) for name, var in row.get("vars", {}).items()},
        "revoke": Revoke(**row.get("revoke", {})),
        "life": Life(**row.get("life", {})),
    }
    return Template(**{**row, **lists, **named})
