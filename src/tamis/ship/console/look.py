"""The last look of the monitor, kept in the store: it reads weeks of traffic, which no page can wait for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from tamis.calibration import reliability
from tamis.decisions import stamp
from tamis.errors import TamisError
from tamis.feedback import truths
from tamis.policy import Policy
from tamis.ship.monitor import Alarm, Measure, Misses, watch
from tamis.ship.monitor.measures import judged_risks, missed
from tamis.ship.monitor.traffic import read_traffic
from tamis.store import Store

log = logging.getLogger(__name__)
DAYS = 7
BINS = 10
OLD = timedelta(hours=1)
"""After this a page asks for another look."""

NOTE = "console look"
PINNED = "monitor reference"


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


def look(store: Store, policy: Policy, now: datetime | None = None) -> Look:
    """Look at the last days, and keep what was found.

    Raises:
        ConfigError: the database cannot be used.
    """
    until = now or datetime.now(UTC)
    error, found = "", None
    try:
        found = watch(store, policy, until, DAYS)
    except TamisError as reason:
        error = str(reason)
    side, said = read_traffic(store, policy, until - timedelta(days=DAYS), until), truths(store, policy)
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


class Looking:
    """Looks in the background, one at a time in this process."""

    def __init__(self) -> None:
        self._at_work = threading.Lock()

    @property
    def at_work(self) -> bool:
        """Whether a look is under way."""
        return self._at_work.locked()

    def begin(self, store: Store, policy: Policy) -> None:
        """Begin a look, unless one is under way."""
        if self._at_work.acquire(blocking=False):
            threading.Thread(target=self._look, args=(store, policy), name="look", daemon=True).start()

    def _look(self, store: Store, policy: Policy) -> None:
        try:
            look(store, policy)
        except TamisError as error:
            log.warning("%s", error)
        finally:
            self._at_work.release()


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
