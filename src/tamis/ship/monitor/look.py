"""The last look at the traffic, kept in the store: it reads weeks of it, which no page and no metric can wait for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import select

from tamis.calibration import reliability
from tamis.decisions import stamp
from tamis.errors import DataError
from tamis.feedback import truths
from tamis.policy import Policy
from tamis.ship.monitor.alarms import Alarm
from tamis.ship.monitor.measures import Measure, judged_risks, missed
from tamis.ship.monitor.misses import Misses
from tamis.ship.monitor.traffic import read_traffic
from tamis.ship.monitor.watch import REFERENCE, compare
from tamis.store import Store, notes_table

BINS = 10
LOCK = 7_461_518
OLD = timedelta(hours=1)
"""After this a page asks for another look."""

NOTE = "monitor look"
TURN = "monitor turn"


@dataclass(frozen=True)
class Look:
    """What a look at the last days found.

    `error` says why drift could not be measured. `bins` are the mean risk, the harmful share and the rows of each part
    of the judged texts; `misses` the estimate from the audit.
    """

    time: str
    since: str
    rows: int
    error: str
    measures: tuple[Measure, ...]
    alarms: tuple[Alarm, ...]
    weeks: tuple[Measure, ...]
    bins: tuple[tuple[float, float, int], ...]
    misses: Misses

    @property
    def is_old(self) -> bool:
        """Whether another one is due."""
        return datetime.now(UTC) - datetime.fromisoformat(self.time) > OLD


def look(store: Store, policy: Policy, days: int, now: datetime | None = None) -> Look:
    """Look at the last days, and keep what was found.

    Raises:
        ConfigError: the database cannot be used.
    """
    until = now or datetime.now(UTC)
    side, said = read_traffic(store, policy, until - timedelta(days=days), until), truths(store, policy)
    error, found = "", None
    try:
        found = compare(store, policy, side, said)
    except DataError as reason:
        error = str(reason)
    risk, harmful, _ = judged_risks(side, said, policy)
    made = Look(
        stamp(until),
        stamp(side.since),
        len(side),
        error,
        found.measures if found else (),
        found.alarms if found else (),
        found.weeks if found else (),
        tuple(reliability(np.clip(risk, 0, 1), harmful, BINS)) if len(risk) else (),
        missed(side, said, policy),
    )
    store.set_note(NOTE, _plain(asdict(made)))
    return made


def last_look(store: Store) -> Look | None:
    """What the last look found; None before the first."""
    kept = store.note(NOTE)
    if kept is None:
        return None
    lists = {name: tuple(Measure(**_numbers(one)) for one in kept[name]) for name in ("measures", "weeks")}
    others = {"alarms": tuple(Alarm(**one) for one in kept["alarms"]), "bins": tuple(map(tuple, kept["bins"]))}
    return Look(**kept | lists | others | {"misses": Misses(**_numbers(kept["misses"]))})


def take_turn(store: Store, every: float, now: datetime | None = None) -> bool:
    """Whether a look is due, and the caller is the one to do it; of all processes of a store one is told so.

    Args:
        store: without a pinned reference nothing is due.
        every: seconds after the last turn.
        now: the time.

    Raises:
        ConfigError: the database cannot be used.
    """
    time = now or datetime.now(UTC)
    if store.note(REFERENCE) is None or not _due(store.note(TURN), every, time):
        return False
    with store.exclusive(LOCK) as connection:
        # Another process may have been faster.
        last = connection.execute(select(notes_table.c.value).where(notes_table.c.key == TURN)).scalar()
        if not _due(last, every, time):
            return False
        row = {"key": TURN, "value": stamp(time)}
        store.upsert(connection, notes_table, [row], lambda _, new: {"value": new.value})
    return True


def _due(last: str | None, every: float, now: datetime) -> bool:
    return last is None or (now - datetime.fromisoformat(last)).total_seconds() >= every


def _plain(value: Any) -> Any:
    """`value` with null for what is no number, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _numbers(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What `_plain` made of a record, with NaN again where a figure must be a number."""
    return {
        name: float("nan") if value is None and name in ("value", "rate") else value for name, value in kept.items()
    }
