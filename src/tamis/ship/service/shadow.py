"""How the bundle in shadow judges what the live one judged: counts by both actions, and where they differ.

Every worker adds what it compared to the store, so that a page shows all of them, and still does after a restart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Column, Float, Index, Integer, String, Table, delete, insert, select

from tamis.decisions import stamp
from tamis.records import Action, Decision
from tamis.store import Store, metadata

LOCK = 7_461_517
KEPT = 1000
"""Differences that are kept of two bundles; older ones go."""

counts_table = Table(
    "shadow_counts",
    metadata,
    Column("live", String(64), primary_key=True),
    Column("shadow", String(64), primary_key=True),
    Column("live_action", String(16), primary_key=True),
    Column("shadow_action", String(16), primary_key=True),
    Column("rows", Integer, nullable=False),
)
differences_table = Table(
    "shadow_differences",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("live", String(64), nullable=False),
    Column("shadow", String(64), nullable=False),
    Column("content", String(64), nullable=False),
    Column("time", String(32), nullable=False),
    Column("live_action", String(16), nullable=False),
    Column("shadow_action", String(16), nullable=False),
    Column("live_category", String(64), nullable=False),
    Column("shadow_category", String(64), nullable=False),
    Column("live_risk", Float),
    Column("shadow_risk", Float),
    Index("ix_shadow_differences_pair", "live", "shadow", "number"),
)
COUNTS, DIFFERENCES = counts_table.c, differences_table.c


@dataclass(frozen=True)
class Difference:
    """A text that two bundles judge differently, by its content hash; a risk is None where there was no answer."""

    content: str
    time: str
    live_action: Action
    shadow_action: Action
    live_category: str
    shadow_category: str
    live_risk: float | None
    shadow_risk: float | None


def keep(store: Store, compared: Sequence[tuple[Decision, Decision]], now: datetime | None = None) -> None:
    """Add what was compared: decisions of the live bundle, and of the one in shadow about the same texts.

    Raises:
        ConfigError: the database cannot be used.
    """
    if not compared:
        return
    counted = Counter((*_names(live, other), live.action, other.action) for live, other in compared)
    columns = ("live", "shadow", "live_action", "shadow_action")
    rows = [dict(zip(columns, key, strict=True)) | {"rows": n} for key, n in counted.items()]
    apart = [_row(live, other, stamp(now or datetime.now(UTC))) for live, other in compared if _differ(live, other)]
    with store.exclusive(LOCK) as connection:
        store.upsert(connection, counts_table, rows, lambda old, new: {"rows": old.rows + new.rows})
        if apart:
            connection.execute(insert(differences_table), apart[-KEPT:])
        for live, other in {key[:2] for key in counted}:
            pair = (DIFFERENCES.live == live, DIFFERENCES.shadow == other)
            oldest = select(DIFFERENCES.number).where(*pair).order_by(DIFFERENCES.number.desc()).offset(KEPT).limit(1)
            connection.execute(delete(differences_table).where(*pair, DIFFERENCES.number <= oldest.scalar_subquery()))


def agreement(store: Store, live: str, shadow: str) -> dict[tuple[Action, Action], int]:
    """Texts both bundles judged, by the live action and the other one's."""
    query = select(COUNTS.live_action, COUNTS.shadow_action, COUNTS.rows)
    with store.begin() as connection:
        rows = connection.execute(query.where(COUNTS.live == live, COUNTS.shadow == shadow)).all()
    return {(row[0], row[1]): row[2] for row in rows}


def differences(
    store: Store, live: str, shadow: str, actions: tuple[str, str] | None = None, limit: int = 20
) -> list[Difference]:
    """What two bundles judge differently, the latest first.

    Args:
        store: the database.
        live: name of the live bundle.
        shadow: of the other one.
        actions: only those with this live action and this other one.
        limit: at most so many.
    """
    wanted = [DIFFERENCES.live == live, DIFFERENCES.shadow == shadow]
    if actions:
        wanted += [DIFFERENCES.live_action == actions[0], DIFFERENCES.shadow_action == actions[1]]
    columns = [DIFFERENCES[name] for name in Difference.__dataclass_fields__]
    query = select(*columns).where(*wanted).order_by(DIFFERENCES.number.desc()).limit(limit)
    with store.begin() as connection:
        return [Difference(**row) for row in connection.execute(query).mappings()]


def _differ(live: Decision, other: Decision) -> bool:
    return (live.action, live.category) != (other.action, other.category)


def _names(live: Decision, other: Decision) -> tuple[str, str]:
    return live.versions["model"], other.versions["model"]


def _row(live: Decision, other: Decision, time: str) -> dict[str, object]:
    names = dict(zip(("live", "shadow"), _names(live, other), strict=True))
    sides = {"live": live, "shadow": other}
    said = {f"{side}_{what}": getattr(one, what) for side, one in sides.items() for what in ("action", "category")}
    risks = {f"{side}_risk": one.scores.risk if math.isfinite(one.scores.risk) else None for side, one in sides.items()}
    return names | {"content": live.id, "time": time} | said | risks
