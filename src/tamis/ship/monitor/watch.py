"""A look at the traffic of now against a pinned reference; which alarms stand is remembered in the store."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from tamis.decisions import stamp
from tamis.errors import DataError
from tamis.feedback import Truths, truths
from tamis.policy import Policy
from tamis.ship.monitor.alarms import Alarm, raised
from tamis.ship.monitor.measures import LEAST, Measure, measure, over_time
from tamis.ship.monitor.traffic import Traffic, read_traffic
from tamis.store import Store

REFERENCE = "monitor reference"
ALARMS = "monitor alarms"


@dataclass(frozen=True)
class Window:
    """A stretch of time and how many decisions were in it."""

    since: datetime
    until: datetime
    rows: int


@dataclass(frozen=True)
class Watched:
    """What a look found: measures, the alarms that stand, and the calibration of each week."""

    reference: Window
    current: Window
    measures: tuple[Measure, ...]
    alarms: tuple[Alarm, ...]
    weeks: tuple[Measure, ...] = ()


def pin(store: Store, policy: Policy, until: datetime, days: int) -> Window:
    """Make a stretch of traffic what later ones are held against, and end all alarms.

    Raises:
        DataError: there are too few decisions in it.
    """
    side = read_traffic(store, policy, until - timedelta(days=days), until)
    if len(side) < LEAST:
        raise DataError(
            f"a reference needs {LEAST} decisions, the {days} days before {stamp(until)[:16]} have {len(side)}:"
            " name more --days or another --until"
        )
    store.set_note(REFERENCE, {"since": stamp(side.since), "until": stamp(side.until)})
    store.set_note(ALARMS, [])
    return _window(side)


def watch(store: Store, policy: Policy, until: datetime, days: int) -> Watched:
    """Measure the days before a time against the reference, and bring the alarms up to date.

    Args:
        store: with the decision log and the reviews.
        policy: whose categories were decided about.
        until: the end of the traffic that is looked at.
        days: its length.

    Raises:
        DataError: no reference is pinned.
        ConfigError: the database cannot be used.
    """
    current = read_traffic(store, policy, until - timedelta(days=days), until)
    return compare(store, policy, current, truths(store, policy))


def compare(store: Store, policy: Policy, current: Traffic, said: Truths) -> Watched:
    """What `watch` does with traffic and verdicts that were read already.

    Raises:
        DataError: no reference is pinned.
        ConfigError: the database cannot be used.
    """
    reference = read_traffic(store, policy, *pinned(store))
    measures = tuple(measure(reference, current, said, policy))
    before = [Alarm(**alarm) for alarm in store.note(ALARMS) or ()]
    alarms = raised(before, measures, stamp(current.until))
    store.set_note(ALARMS, [asdict(alarm) for alarm in alarms])
    return Watched(_window(reference), _window(current), measures, alarms, tuple(over_time(current, said, policy)))


def pinned(store: Store) -> tuple[datetime, datetime]:
    """Beginning and end of the reference.

    Raises:
        DataError: no reference is pinned.
    """
    noted = store.note(REFERENCE)
    if noted is None:
        raise DataError("no traffic is pinned to compare with: run `tamis monitor --pin` at the end of a normal week")
    return datetime.fromisoformat(noted["since"]), datetime.fromisoformat(noted["until"])


def _window(side: Traffic) -> Window:
    return Window(side.since, side.until, len(side))
