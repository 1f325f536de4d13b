"""Whether traffic, model and verdicts are still what they were, and what to do where they are not."""

from tamis.ship.monitor.alarms import Alarm, words
from tamis.ship.monitor.gauges import gauges
from tamis.ship.monitor.measures import Measure, states
from tamis.ship.monitor.misses import Misses, Stratum, miss_rate
from tamis.ship.monitor.watch import Watched, Window, pin, watch

__all__ = [
    "Alarm",
    "Measure",
    "Misses",
    "Stratum",
    "Watched",
    "Window",
    "gauges",
    "miss_rate",
    "pin",
    "states",
    "watch",
    "words",
]
