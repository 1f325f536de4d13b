"""Traffic made of a seed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tamis.decisions import stamp
from tamis.reviews import Verdict
from tamis.ship.monitor.traffic import Traffic
from tamis.signals import EVASIONS

START = datetime(2026, 3, 2, tzinfo=UTC)


def verdict(content: str, category: str, cause: str = "audit") -> Verdict:
    return Verdict(1, "i", None, content, cause, None, None, "ann", stamp(START), category, None, "", None)


@pytest.fixture
def make_traffic() -> Callable[..., Traffic]:
    """Decisions of a calm week; `changes` are whole columns."""

    def make(rows: int = 2000, seed: int = 0, days: int = 7, **changes: object) -> Traffic:
        generator = np.random.default_rng(seed)
        risk = generator.beta(0.3, 3, rows)
        action = np.where(risk > 0.9, "block", np.where(risk > 0.5, "review", "pass"))
        share = generator.random(rows)
        told = {"normal": 1 - risk, "fraud": risk * share, "gambling": risk * (1 - share)}
        names = np.array(list(told))
        seconds = np.sort(generator.integers(0, days * 86_400, rows))
        columns = {
            "content": np.array([f"{seed}-{i}" for i in range(rows)], np.str_),
            "time": np.array([stamp(START + timedelta(seconds=int(one))) for one in seconds], np.str_),
            "action": action,
            "category": names[np.stack(list(told.values())).argmax(0)],
            "language": np.where(generator.random(rows) < 0.7, "zh", "en"),
            "risk": risk,
            "uncertainty": 1 - np.abs(2 * risk - 1),
            "probabilities": told,
            "length": np.ceil(generator.lognormal(3, 1, rows)),
            "evasion": {mark: generator.random(rows) < 0.02 for mark in EVASIONS},
            "audited": (action == "pass") & (generator.random(rows) < 0.1),
            "alone": np.ones(rows, bool),
        }
        return Traffic(START, START + timedelta(days=days), **columns | changes)

    return make
