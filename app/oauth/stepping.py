"""Which rights to ask for when a call lacks some, and when asking is vain (oauth.md section 9)."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ..access import Caller, Usable, UsableConfig
from ..db import db
from ..models import Connection, Flow
from ..specs import OAuthConfigSpec

TRIES, WITHIN_MS = 3, 3_600_000  # consents for one connection and target that did not help
TARGET_LIMIT = 500  # characters of Flow.target


def asked_by(spec: OAuthConfigSpec) -> list[str]:
    """The config's scopes, and what a refresh token costs."""
    renews = spec.stores and spec.token_management.auto_refresh
    offline = spec.offline.scopes if renews and spec.offline is not None else []
    return list(dict.fromkeys([*(spec.scopes or []), *offline]))


def union(
    caller: Caller,
    gateway: Usable,
    target: str | None,
    scopes: Sequence[str],
    *,
    already: Sequence[str] = (),
) -> list[str] | None:
    """All that a new consent has to ask for, in the order in which it was asked for before.

    None where that is vain: it adds nothing, or consents for this target did not help, until an
    admin changes the config. `already`: what a parked call has asked for. A short read.
    """
    config = gateway.config
    if config is None:
        return None
    before = [*asked_before(gateway), *already]
    wanted = list(dict.fromkeys([*before, *scopes]))
    adds = not set(scopes) <= set(before)
    return wanted if adds and not _is_vain(caller, config, target or "") else None


def asked_before(gateway: Usable) -> list[str]:
    """At the last consent, where its tokens are kept; else what any consent asks for."""
    c, config = Connection, gateway.config
    if config is None:
        return []
    query = sa.select(c.scopes_requested).where(
        c.oauth_config_id == config.id, c.owner_key == gateway.owner_key
    )
    with db.engine.connect() as link:
        return link.scalar(query) or asked_by(config.spec)


def _is_vain(caller: Caller, config: UsableConfig, target: str) -> bool:
    query = (
        sa.select(Flow.created_ms)
        .where(Flow.user_id == caller.user_id, Flow.oauth_config_id == config.id)
        .where(Flow.target == target[:TARGET_LIMIT], Flow.config_version == config.version)
        .where(Flow.status == "done")
        .order_by(Flow.created_ms.desc())
        .limit(TRIES)
    )
    with db.engine.connect() as link:
        tried = list(link.scalars(query))
    return len(tried) == TRIES and tried[0] - tried[-1] <= WITHIN_MS
