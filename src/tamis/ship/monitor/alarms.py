"""Which measures are alarms, with hysteresis, and what to do about each in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from tamis.policy import Language
from tamis.ship.monitor.measures import Measure

CALM = 0.8
"""An alarm ends when what is tested falls below this share of its limit, so that it does not come and go."""


@dataclass(frozen=True)
class Alarm:
    """A measure that stands out, and since when."""

    key: str
    name: str
    since: str


def raised(before: Iterable[Alarm], measures: Iterable[Measure], now: str) -> tuple[Alarm, ...]:
    """The alarms that stand after a look.

    One begins at the limit and ends below `CALM` of it. One whose measure could not be taken this time stands: no news
    is not good news.

    Args:
        before: the alarms that stood.
        measures: what was measured.
        now: the time that a new alarm begins.
    """
    stood = {alarm.key: alarm for alarm in before}
    taken = {one.key: one for one in measures if one.limit is not None}
    kept = {key: alarm for key, alarm in stood.items() if key not in taken}
    for key, one in taken.items():
        limit = one.limit or 0.0
        if one.tested >= (CALM * limit if key in stood else limit):
            kept[key] = stood.get(key, Alarm(key, one.name, now))
    return tuple(kept[key] for key in sorted(kept))


def words(language: Language) -> Mapping[str, Any]:
    """What measures are called (`names`), what to do about an alarm (`steps`), and headings (`table`)."""
    tree = yaml.safe_load((resources.files("tamis.ship.monitor") / "texts.yaml").read_text(encoding="utf-8"))
    return tree[language]
