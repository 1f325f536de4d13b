"""What the service tells Prometheus, in base units and with labels of few values; no text and no key is among them.

With several workers each writes files of a folder (`PROMETHEUS_MULTIPROC_DIR`, set before they start), and the one that
is asked adds them all up. What the last look at the traffic found is in the store, and every worker shows the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tamis.ship.monitor import Look, gauges

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

REQUESTS = Counter("tamis_requests", "Requests by route and status.", ["route", "status"])
REQUEST_SECONDS = Histogram(
    "tamis_request_seconds", "From the head of a request to its answer.", ["route"], buckets=SECONDS
)
DECISIONS = Counter("tamis_decisions", "Texts judged, by action and category.", ["action", "category"])
TENANTS = Counter("tamis_tenant_decisions", "Texts judged for a tenant, by action.", ["tenant", "action"])
BUNDLE_TEXTS = Counter("tamis_bundle_texts", "Texts judged, by the bundle that judged them.", ["bundle"])
TIERS = Counter("tamis_tiers", "Texts a tier was asked about; `person` has them to read.", ["tier"])
ANSWERS = Counter("tamis_teacher_answers", "Answers of a teacher, `asked` or `kept` from before.", ["tier", "how"])
TOKENS = Counter("tamis_teacher_tokens", "Tokens of questions to a teacher and of its answers.", ["tier", "kind"])
LOG_SECONDS = Histogram("tamis_log_seconds", "From a decision to its commit.", buckets=SECONDS)
REPEATS = Counter("tamis_repeats", "Texts whose idempotency key had an answer already.")
QUEUE = Gauge("tamis_queue_tokens", "Tokens that wait to be computed.", multiprocess_mode="livesum")
SPEED = Gauge("tamis_tokens_per_second", "Tokens computed a second, of late.", multiprocess_mode="livesum")
READY = Gauge("tamis_ready_workers", "Workers that take requests.", multiprocess_mode="livesum")
BUNDLES = Gauge(
    "tamis_bundle_workers",
    "Workers that hold a bundle, by its place.",
    ["bundle", "place"],
    multiprocess_mode="livesum",
)
SHADOW = Gauge(
    "tamis_shadow_texts",
    "Texts the bundle in shadow judged too, by both actions.",
    ["live", "shadow"],
    multiprocess_mode="livesum",
)


class _Looked(Collector):
    """The gauges of a look."""

    def __init__(self, look: Look) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        return gauges(self._look)


def exposition(look: Look | None = None) -> bytes:
    """All metrics of all workers, and of a look at their traffic, in Prometheus' text format."""
    registry = REGISTRY
    if FOLDER in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry) + (generate_latest(_Looked(look)) if look else b"")


def forget_the_dead() -> None:
    """Leave out of gauges the workers that were killed; a worker calls it when it starts in their place."""
    for file in Path(os.environ[FOLDER]).glob("gauge_live*.db") if FOLDER in os.environ else ():
        process = int(file.stem.rpartition("_")[2])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(process)
