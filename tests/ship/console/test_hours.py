"""Decisions counted by the hour: SQLite always, PostgreSQL where TAMIS_TEST_POSTGRES names one."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tamis.decisions import DecisionLog
from tamis.records import Action, Decision, Scores, content_id
from tamis.ship.console.hours import STEP, counts, fold, quantile, totals
from tamis.store import Store

START = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def log(store: Store, rows: list[tuple[Action, str, float]], at: datetime = START, model: str = "m1") -> None:
    scores = Scores({"normal": 0.4, "fraud": 0.6}, 0.6, 0.5)
    versions = {"policy": "p 1.0", "model": model, "tamis": "0"}
    with DecisionLog(store, now=lambda: at) as opened:
        waiting = [
            opened.add(
                Decision(content_id(str(i)), action, category, scores, versions, ("student",), (), latency),
                "x",
                f"{at}{i}",
            )
            for i, (action, category, latency) in enumerate(rows)
        ]
        for one in waiting:
            one.result(30)


def test_decisions_are_counted_once_by_hour_and_name(url: str) -> None:
    with Store.open(url) as store:
        log(store, [("pass", "normal", 1.0), ("block", "fraud", 5.0), ("block", "fraud", 5.0)])
        assert fold(store) == 3
        assert fold(store) == 0
        log(store, [("block", "fraud", 5.0)], START + timedelta(hours=1), model="m2")
        assert fold(store) == 1
        day = START, START + timedelta(hours=20)
        assert counts(store, "action", *day, "hour") == {
            "block": {"2026-03-01T12": 2, "2026-03-01T13": 1},
            "pass": {"2026-03-01T12": 1},
        }
        assert counts(store, "category", *day, "day") == {
            "block fraud": {"2026-03-01": 3},
            "pass normal": {"2026-03-01": 1},
        }
        assert totals(counts(store, "model", *day, "day")) == {"m1": 3, "m2": 1}
        assert totals(counts(store, "policy", *day, "day")) == {"p 1.0": 4}
        assert totals(counts(store, "tiers", *day, "day")) == {"student": 4}
        assert totals(counts(store, "action", START + timedelta(hours=1), day[1], "day")) == {"block": 1}


def test_workers_that_count_at_once_count_each_decision_once(url: str) -> None:
    with Store.open(url) as store:
        log(store, [("pass", "normal", 1.0)] * 200)
        with ThreadPoolExecutor(4) as pool:
            done = [one.result(60) for one in [pool.submit(fold, store) for _ in range(4)]]
        assert sum(done) == 200
        assert totals(counts(store, "action", START, START, "hour")) == {"pass": 200}


def test_quantiles_of_latency_by_hand() -> None:
    assert quantile({"1": 50, "2": 45, "8": 5}, 0.5) == 1
    assert quantile({"1": 50, "2": 45, "8": 5}, 0.51) == 2
    assert quantile({"10": 5, "2": 95}, 0.95) == 2
    assert quantile({"10": 5, "2": 95}, 0.96) == 10
    assert math.isnan(quantile({}, 0.5))


@given(st.lists(st.floats(0.2, 5000), min_size=1, max_size=60))
def test_a_quantile_of_latency_is_right_to_a_step(latencies: list[float]) -> None:
    from tamis.ship.console.hours import KINDS

    counted: dict[str, int] = {}
    for one in latencies:
        name = KINDS["latency"]({"latency_ms": one})  # type: ignore[arg-type]
        counted[name] = counted.get(name, 0) + 1
    exact = sorted(latencies)[math.ceil(len(latencies) / 2) - 1]
    assert exact * (1 - 1e-3) <= quantile(counted, 0.5) <= exact * STEP * (1 + 1e-3)
