"""How fast a scorer is on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from tamis.errors import DataError
from tamis.judge.result import Speed
from tamis.records import Scorer

WARM_UP = 3
SECONDS = 10.0


def measure_speed(scorer: Scorer, texts: Sequence[str], rows: int, batch: int = 32) -> Speed:
    """Time a scorer one text at a time, then in batches; it is warmed up first.

    Args:
        scorer: what is timed.
        texts: cycled through when there are fewer than needed.
        rows: texts timed one at a time.
        batch: texts a call for the throughput, which is measured over all texts or 10 seconds, the shorter.

    Raises:
        DataError: there is no text.
    """
    if not texts:
        raise DataError("speed is measured on texts, got none: evaluate a split that has rows")
    for i in range(WARM_UP):
        scorer([texts[i % len(texts)]])
    with _peak_memory() as peak:
        single = [_seconds(scorer, [texts[i % len(texts)]]) for i in range(rows)]
        rate = _throughput(scorer, texts, batch)
    p50, p95, p99 = np.percentile(single, [50, 95, 99]) * 1000
    return Speed(rows, float(p50), float(p95), float(p99), rate, batch, max(peak))


def _seconds(scorer: Scorer, texts: Sequence[str]) -> float:
    started = time.perf_counter()
    scorer(texts)
    return time.perf_counter() - started


def _throughput(scorer: Scorer, texts: Sequence[str], batch: int) -> float:
    scorer(texts[:batch])
    done, spent = 0, 0.0
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        spent += _seconds(scorer, part)
        done += len(part)
        if spent > SECONDS:
            break
    return done / max(spent, 1e-9)


@contextmanager
def _peak_memory(every: float = 0.02) -> Iterator[list[float]]:
    """Resident memory of this process in MB, sampled by a thread; the caller takes the largest."""
    import psutil

    process, ended = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss / 2**20]

    def watch() -> None:
        while not ended.wait(every):
            seen.append(process.memory_info().rss / 2**20)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        seen.append(process.memory_info().rss / 2**20)
