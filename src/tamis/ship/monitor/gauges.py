"""The last look as Prometheus gauges; labels are categories, languages and marks, so their number is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from tamis.errors import need
from tamis.ship.monitor.look import Look
from tamis.ship.monitor.measures import Measure

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily


def gauges(look: Look) -> Iterator[GaugeMetricFamily]:
    """Gauges for a collector's `collect`; shares are ratios from 0 to 1, the time is in seconds since 1970.

    Of a look that could not compare there are none.

    Raises:
        MissingExtraError: prometheus_client is not installed.
    """
    core = need("prometheus_client.core", "serve")
    if look.error:
        return
    for name, (metric, about, labels) in GAUGES.items():
        family = core.GaugeMetricFamily(metric, about, labels=labels)
        for one in look.measures:
            if one.name == name:
                family.add_metric([one.group.get(label, "") for label in labels], one.value)
        yield family
    bounds = core.GaugeMetricFamily(
        "tamis_miss_ratio_bound", "Ends of the 95 % interval of tamis_miss_ratio.", labels=["end"]
    )
    for end, value in _bounds(look):
        bounds.add_metric([end], value)
    yield bounds
    alarm = core.GaugeMetricFamily("tamis_alarm", "1 where any group of a measure is an alarm.", labels=["measure"])
    standing = {one.name for one in look.alarms}
    for name in GAUGES:
        alarm.add_metric([name], float(name in standing))
    yield alarm
    about = "Time of the last look that succeeded."
    time = datetime.fromisoformat(look.time).timestamp()
    yield core.GaugeMetricFamily("tamis_monitor_timestamp_seconds", about, value=time)
    yield core.GaugeMetricFamily("tamis_monitor_decisions", "Decisions looked at.", value=look.rows)


def _bounds(look: Look) -> Iterator[tuple[str, float]]:
    rates: list[Measure] = [one for one in look.measures if one.name == "miss_rate"]
    for one in rates:
        yield from ((end, value) for end, value in (("low", one.low), ("high", one.high)) if value is not None)


GAUGES: dict[str, tuple[str, str, list[str]]] = {
    "score_drift": ("tamis_score_psi", "PSI of a category's probability.", ["category", "language"]),
    "uncertainty_drift": ("tamis_uncertainty_psi", "PSI of the uncertainty.", ["language"]),
    "action_mix": ("tamis_action_mix_v", "Cramér's V of the actions.", ["language"]),
    "language_mix": ("tamis_language_mix_v", "Cramér's V of the languages.", []),
    "length_drift": ("tamis_length_psi", "PSI of the lengths.", ["language"]),
    "evasion": ("tamis_evasion_ratio", "Share of texts with a mark of evasion.", ["mark"]),
    "teacher_disagreement": ("tamis_teacher_disagreement_ratio", "Audited texts the teacher judges differently.", []),
    "miss_rate": ("tamis_miss_ratio", "Estimated share of passed texts that break the policy.", []),
    "calibration_error": ("tamis_calibration_error_ratio", "ECE of the risk on judged texts.", []),
    "state_drift": ("tamis_state_auc", "How well hidden states tell now from before, 0.5 if not at all.", []),
}
"""Metric, help and labels of each measure."""
