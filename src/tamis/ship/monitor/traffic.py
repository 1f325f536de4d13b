"""A stretch of the decision log in columns."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from tamis.calibration import Bools, Floats
from tamis.decisions import canonical, decisions_table, stamp
from tamis.policy import Policy
from tamis.records import AUDIT
from tamis.signals import EVASIONS
from tamis.store import Store

AUDITED = canonical(AUDIT)
ALONE = (canonical([]), canonical(["student"]))
"""The log's own way of writing is compared, as reading JSON takes most of the time of a look."""

WORDS = ("content", "time", "action", "category", "language")
NUMBERS = ("risk", "uncertainty", "length")
FLAGS = ("audited", "alone")


@dataclass(frozen=True)
class Traffic:
    """Decisions between two times, one entry a decision in every column.

    `probabilities` are by category; a risk, an uncertainty or a probability that is missing is NaN. `length` is NaN and
    `evasion` False where nothing was counted of the text. `alone` says whether the student decided by itself.
    """

    since: datetime
    until: datetime
    content: NDArray[np.str_]
    time: NDArray[np.str_]
    action: NDArray[np.str_]
    category: NDArray[np.str_]
    language: NDArray[np.str_]
    risk: Floats
    uncertainty: Floats
    probabilities: Mapping[str, Floats]
    length: Floats
    evasion: Mapping[str, Bools]
    audited: Bools
    alone: Bools

    def __len__(self) -> int:
        return len(self.content)

    def first(self, where: Bools) -> NDArray[np.int64]:
        """Places of the first decision about each distinct text among those of `where`."""
        places = np.flatnonzero(where)
        return places[np.sort(np.unique(self.content[places], return_index=True)[1])]

    def only(self, where: Bools | NDArray[np.int64]) -> Traffic:
        """Some of the decisions, by a mask or by their places."""
        columns = {name: getattr(self, name)[where] for name in (*WORDS, *NUMBERS, *FLAGS)}
        probabilities = {name: values[where] for name, values in self.probabilities.items()}
        return replace(
            self, probabilities=probabilities, evasion={n: v[where] for n, v in self.evasion.items()}, **columns
        )

    def weeks(self) -> Iterator[Traffic]:
        """Stretches of seven days; the last one may be shorter."""
        start = self.since
        while start < self.until:
            end = min(start + timedelta(days=7), self.until)
            inside = (self.time >= stamp(start)) & (self.time < stamp(end))
            yield replace(self.only(inside), since=start, until=end)
            start = end


def read_traffic(store: Store, policy: Policy, since: datetime, until: datetime) -> Traffic:
    """Decisions from `since` on and before `until`.

    Raises:
        ConfigError: the database cannot be read.
    """
    columns = decisions_table.c
    wanted = (columns.content, columns.time, columns.action, columns.category, columns.scores, columns.tiers)
    query = (
        select(*wanted, columns.reasons, columns.signals)
        .where(columns.time >= stamp(since), columns.time < stamp(until))
        .order_by(columns.number)
        .execution_options(yield_per=5000)
    )
    with store.begin() as connection, closing(connection.execute(query)) as found:
        rows = [_plain(row) for row in found]
    return _columns(rows, policy, since, until)


def _plain(row: Any) -> dict[str, Any]:
    scores, counted = json.loads(row.scores), json.loads(row.signals or "{}")
    return {
        "content": row.content,
        "time": row.time,
        "action": row.action,
        "category": row.category,
        "language": counted.get("language", ""),
        "risk": _number(scores["risk"]),
        "uncertainty": _number(scores["uncertainty"]),
        "probabilities": scores["probabilities"],
        "length": counted.get("length", math.nan),
        "evasion": {name for name in EVASIONS if counted.get(name)},
        "audited": AUDITED in row.reasons,
        "alone": row.tiers in ALONE,
    }


def _columns(rows: Sequence[Mapping[str, Any]], policy: Policy, since: datetime, until: datetime) -> Traffic:
    kinds = dict.fromkeys(WORDS, np.str_) | dict.fromkeys(NUMBERS, np.float64) | dict.fromkeys(FLAGS, np.bool_)
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows], kind) for name, kind in kinds.items()}
    told = {name: np.array([_number(row["probabilities"].get(name)) for row in rows], float) for name in policy.ids}
    evasion = {name: np.array([name in row["evasion"] for row in rows], bool) for name in EVASIONS}
    return Traffic(since, until, probabilities=told, evasion=evasion, **columns)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
