"""What people did in the console beside judging texts, so that a chart can show when and a colleague can see who."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Column, Integer, String, Table, Text, insert, select

from tamis.decisions import stamp
from tamis.store import Store, metadata

What = Literal["load", "shadow", "canary", "promote", "rollback", "unload", "thresholds", "bulk", "bulk_undo", "pin"]

acts_table = Table(
    "acts",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("time", String(32), nullable=False),
    Column("user", String(64), nullable=False),
    Column("what", String(16), nullable=False),
    Column("about", Text, nullable=False),
)
ACTS = acts_table.c


@dataclass(frozen=True)
class Act:
    """One thing somebody did; `about` goes by what it was."""

    time: str
    user: str
    what: What
    about: Mapping[str, Any]


def write_act(store: Store, user: str, what: What, **about: Any) -> None:
    """Note what somebody did."""
    row = {"time": stamp(datetime.now(UTC)), "user": user, "what": what, "about": json.dumps(about)}
    with store.begin() as connection:
        connection.execute(insert(acts_table), [row])


def acts(store: Store, *what: What, limit: int = 20) -> list[Act]:
    """What was done, the latest first; of some kinds alone where they are named."""
    query = select(ACTS.time, ACTS.user, ACTS.what, ACTS.about).order_by(ACTS.number.desc()).limit(limit)
    query = query.where(ACTS.what.in_(what)) if what else query
    with store.begin() as connection:
        return [Act(row.time, row.user, row.what, json.loads(row.about)) for row in connection.execute(query)]
