"""Decisions counted by the hour, so that a page about a month reads some hundred rows and not the whole log.

Each decision is counted once, in several ways (see `KINDS`). Whoever counts first notes how far; another worker that
has read the same rows finds the note changed and begins again.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Column, Connection, Integer, RowMapping, Select, String, Table, func, select

from tamis.decisions import decisions_table, stamp
from tamis.store import Store, metadata, notes_table

Unit = Literal["hour", "day"]
Counted = Counter[tuple[str, str, str]]
"""Numbers by kind, hour and name."""

LOCK = 7_461_516
BATCH = 5000
STEP = 1.25
"""Latencies are counted in milliseconds rounded up to a power of this, so a quantile is right to a quarter."""

_COUNTED = "decisions counted"

hours_table = Table(
    "hours",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("hour", String(13), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("rows", Integer, nullable=False),
)
HOURS = hours_table.c


def fold(store: Store) -> int:
    """Count what was decided since the last time; returns how many decisions that were.

    Raises:
        ConfigError: the database cannot be used.
    """
    done = 0
    while True:
        with store.begin() as connection:
            last = _last(connection)
            rows = connection.execute(_after(last)).mappings().all()
        if not rows:
            return done
        counted: Counted = Counter(key for row in rows for key in keys(row))
        # Counting takes a while, and what is decided meanwhile must not wait for it: only the writing locks.
        with store.exclusive(LOCK) as connection:
            if _last(connection) == last:
                _add(store, connection, counted, rows[-1]["number"])
                done += len(rows)


def keys(row: RowMapping) -> list[tuple[str, str, str]]:
    """Kind, hour and name under which a decision is counted."""
    return [(kind, row["time"][:13], name_of(row)[:200]) for kind, name_of in KINDS.items()]


def add(store: Store, connection: Connection, counted: Counted) -> None:
    """Add numbers to those of their kind, hour and name."""
    rows = [{"kind": kind, "hour": hour, "name": name, "rows": n} for (kind, hour, name), n in sorted(counted.items())]
    store.upsert(connection, hours_table, rows, lambda old, new: {"rows": old.rows + new.rows})


def counts(store: Store, kind: str, since: datetime, until: datetime, unit: Unit) -> dict[str, dict[str, int]]:
    """Decisions of each name in each hour or day (UTC) of a stretch, by name and then by the start of the unit.

    Args:
        store: the database.
        kind: one of `KINDS`, or of what the service counts of its teachers.
        since: the hour it is in is the first that counts.
        until: the hour it is in is the last.
        unit: what one number is of.
    """
    slot = func.substr(HOURS.hour, 1, LENGTHS[unit])
    query = (
        select(HOURS.name, slot.label("slot"), func.sum(HOURS.rows).label("rows"))
        .where(HOURS.kind == kind, HOURS.hour >= stamp(since)[:13], HOURS.hour <= stamp(until)[:13])
        .group_by(HOURS.name, slot)
        .order_by(HOURS.name, slot)
    )
    found: dict[str, dict[str, int]] = defaultdict(dict)
    with store.begin() as connection:
        for row in connection.execute(query):
            found[row.name][row.slot] = int(row.rows)
    return dict(found)


def totals(counted: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Decisions of each name over all of a stretch, the most frequent first."""
    found = {name: sum(slots.values()) for name, slots in counted.items()}
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def quantile(latencies: Mapping[str, int], share: float) -> float:
    """Milliseconds under which a share of decisions was answered, rounded up to the ends of buckets; NaN of none."""
    left = share * sum(latencies.values())
    for bound, rows in sorted((float(name), rows) for name, rows in latencies.items()):
        left -= rows
        if left <= 0:
            return bound
    return math.nan


def _latency(row: RowMapping) -> str:
    steps = math.ceil(math.log(max(row["latency_ms"], 0.1), STEP) - 1e-9)
    return f"{STEP**steps:.4g}"


def _version(name: str) -> Callable[[RowMapping], str]:
    return lambda row: str(json.loads(row["versions"]).get(name, ""))


def _tiers(row: RowMapping) -> str:
    return " > ".join(json.loads(row["tiers"]))


def _after(last: int) -> Select[Any]:
    columns = decisions_table.c
    wanted = (columns.number, columns.time, columns.action, columns.category, columns.tiers, columns.versions)
    query = select(*wanted, columns.latency_ms).where(columns.number > last)
    return query.order_by(columns.number).limit(BATCH)


def _last(connection: Connection) -> int:
    return int(connection.execute(select(notes_table.c.value).where(notes_table.c.key == _COUNTED)).scalar() or 0)


def _add(store: Store, connection: Connection, counted: Counted, last: int) -> None:
    add(store, connection, counted)
    store.upsert(connection, notes_table, [{"key": _COUNTED, "value": last}], lambda _, new: {"value": new.value})


LENGTHS: Mapping[Unit, int] = {"hour": 13, "day": 10}
"""Characters of a time that name its unit."""

KINDS: Mapping[str, Callable[[RowMapping], str]] = {
    "action": lambda row: row["action"],
    "category": lambda row: f"{row['action']} {row['category']}",
    "tiers": _tiers,
    "latency": _latency,
    "model": _version("model"),
    "policy": _version("policy"),
}
"""What a decision is counted as."""
