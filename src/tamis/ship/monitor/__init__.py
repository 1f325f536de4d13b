"""Whether traffic, model and verdicts are still what they were, and what to do where they are not."""

from tamis.ship.monitor.alarms import Alarm, words
from tamis.ship.monitor.gauges import gauges
from tamis.ship.monitor.look import Look, last_look, look
from tamis.ship.monitor.looking import Looking
from tamis.ship.monitor.measures import LEAST, Measure, states
from tamis.ship.monitor.misses import Misses, Stratum, miss_rate
from tamis.ship.monitor.watch import Watched, Window, pin, pinned, watch

__all__ = [
    "LEAST",
    "Alarm",
    "Look",
    "Looking",
    "Measure",
    "Misses",
    "Stratum",
    "Watched",
    "Window",
    "gauges",
    "last_look",
    "look",
    "miss_rate",
    "pin",
    "pinned",
    "states",
    "watch",
    "words",
]
