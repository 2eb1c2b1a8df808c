"""The page for machines that watch: what is counted, and what stands in the database now.

In the text format of Prometheus, version 0.0.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import sqlalchemy as sa

from . import schedule
from .db import AWAY, db
from .metrics import METRICS, SECONDS, Key, meter
from .models import Connection, Gateway, OAuthConfig, Revocation

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def page(version: str) -> str:
    """All metrics of this node. While the database is away: without what only it knows."""
    samples = meter().all()
    samples["mcp_gateway_info", version] = 1
    try:
        samples = _named(samples)
        samples.update(_connections())
        samples.update(_health())
        samples.update(_revocations())
        samples.update(_chores())
        samples["database_up",] = 1
    except AWAY:
        samples["database_up",] = 0
    return "".join(f"{line}\n" for line in _lines(samples))


def _named(samples: Counter[Key]) -> Counter[Key]:
    """Slugs for the ids of OAuth configs. What was deleted is not watched any more."""
    query = sa.select(OAuthConfig.id, Gateway.slug).join(Gateway)
    with db.engine.connect() as link:
        slugs = {row.id: row.slug for row in link.execute(query)}
    named: Counter[Key] = Counter()
    for (name, *labels), value in samples.items():
        if name.startswith(("oauth_token_", "oauth_provider_")):
            if labels[0] not in slugs:
                continue
            labels[0] = slugs[labels[0]]
        named[(name, *labels)] += value
    return named


def _connections() -> Counter[Key]:
    query = (
        sa.select(Gateway.slug, Connection.state, sa.func.count().label("count"))
        .join(Gateway, Gateway.id == Connection.gateway_id)
        .group_by(Gateway.slug, Connection.state)
    )
    with db.engine.connect() as link:
        rows = link.execute(query).all()
    return Counter({("oauth_connections", row.slug, row.state): row[2] for row in rows})


def _health() -> Counter[Key]:
    query = sa.select(Gateway.slug, Gateway.health)
    query = query.where(Gateway.is_enabled, Gateway.health.is_not(None))
    with db.engine.connect() as link:
        rows = link.execute(query).all()
    return Counter({("mcp_gateway_health", row.slug, row.health): 1 for row in rows})


def _revocations() -> Counter[Key]:
    query = sa.select(Revocation.state, sa.func.count()).group_by(Revocation.state)
    with db.engine.connect() as link:
        rows = link.execute(query).all()
    return Counter({("oauth_revocations", row.state): row[1] for row in rows})


def _chores() -> Counter[Key]:
    found: Counter[Key] = Counter()
    for one in schedule.standings():
        if one.ran_ms is not None:
            found["housekeeping_ran_timestamp_seconds", one.name] = one.ran_ms // 1000
            found["housekeeping_failed", one.name] = int(one.failed)
    return found


def _lines(samples: Counter[Key]) -> Iterator[str]:
    for name, metric in METRICS.items():
        rows = {key[1:]: value for key, value in samples.items() if key[0] == name}
        if not rows and metric.labels:
            continue
        yield f"# HELP {name} {metric.about}"
        yield f"# TYPE {name} {metric.kind}"
        if metric.kind == "histogram":
            yield from _histogram(name, metric.labels[0], rows)
        else:
            for labels, value in sorted(rows.items()) or [((), 0)]:
                yield f"{name}{_labelled(metric.labels, labels)} {_number(value)}"


def _histogram(name: str, label: str, rows: Mapping[Key, float]) -> Iterator[str]:
    """Buckets are counted apart, and told added up."""
    for whose in sorted({labels[0] for labels in rows}):
        count = 0.0
        for end in (*(f"{end:g}" for end in SECONDS), "+Inf"):
            count += rows.get((whose, end), 0)
            yield f"{name}_bucket{_labelled((label, 'le'), (whose, end))} {_number(count)}"
        yield f"{name}_sum{_labelled((label,), (whose,))} {_number(rows.get((whose, 'sum'), 0))}"
        yield f"{name}_count{_labelled((label,), (whose,))} {_number(count)}"


def _labelled(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Values are slugs and codes; a chore's or a version's name needs no more either."""
    pairs = (f'{name}="{_plain(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{','.join(pairs)}}}" if names else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _plain(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
