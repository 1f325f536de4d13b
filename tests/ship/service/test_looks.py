"""A service that looks at its own traffic: gauges of all workers alike, and decisions whatever becomes of a look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.ship.monitor.test_watch import decide
from tests.ship.service.conftest import Running, served
from tests.waiting import until

from tamis.policy import Policy
from tamis.ship.monitor import pin
from tamis.ship.monitor.gauges import GAUGES
from tamis.ship.monitor.watch import REFERENCE
from tamis.store import Store

WEEK = timedelta(days=7)
TIME = "tamis_monitor_timestamp_seconds"


def scraped(running: Running) -> dict[str, list[Any]]:
    """Samples by the name of their family, each family told once."""
    found = list(text_string_to_metric_families(httpx.get(f"{running.url}/metrics", timeout=30).text))
    assert len({one.name for one in found}) == len(found)
    return {one.name: one.samples for one in found}


def looked_at(running: Running) -> set[float]:
    """What several scrapes, of whichever worker, say of the time of the last look; 0 is none."""
    times = (scraped(running).get(TIME) for _ in range(8))
    return {samples[0].value if samples else 0.0 for samples in times}


def judged(running: Running) -> bool:
    with running.client as client:
        return client.post("/v1/decisions", json={"texts": ["a fine day"]}).status_code == 200


def test_all_workers_show_the_last_look_and_go_on_when_one_fails(
    bundles: Any, small_policy: Policy, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    with Store.open(tmp_path / "s.db") as store:
        decide(store, now - 2 * WEEK, 300, 1)
        decide(store, now - WEEK, 300, 2)
        settings: dict[str, object] = {"monitor": {"every": 1.0, "days": 7}}
        with served(bundles[0], tmp_path, "--workers", "2", settings=settings) as running:
            # Nothing is pinned, so nothing is looked at.
            assert looked_at(running) == {0.0}
            pin(store, small_policy, now - WEEK, 7)
            assert until(lambda: min(looked_at(running)) >= now.timestamp())
            first = max(looked_at(running))
            assert until(lambda: min(looked_at(running)) > first)
            found = scraped(running)
            assert 200 <= found["tamis_monitor_decisions"][0].value <= 300
            assert {one.labels["measure"] for one in found["tamis_alarm"]} == set(GAUGES)
            drift = [one.labels for one in found["tamis_score_psi"]]
            assert {one["category"] for one in drift} == set(small_policy.ids)
            assert {one["language"] for one in drift} == {"zh", "en"}
            # A look that cannot be: it is said, the last one stays with its time, and texts are judged.
            store.set_note(REFERENCE, {"since": "never", "until": "never"})
            assert until(lambda: "a look at the traffic ended with 1" in running.errors.read_text())
            assert until(lambda: len(looked_at(running)) == 1)
            assert judged(running)
            assert min(looked_at(running)) > first


def test_where_no_look_is_made_that_of_another_is_shown(bundles: Any, small_policy: Policy, tmp_path: Path) -> None:
    from tamis.ship.monitor import look

    now = datetime.now(UTC)
    with Store.open(tmp_path / "s.db") as store:
        decide(store, now - WEEK, 200, 1)
        pin(store, small_policy, now, 7)
        made = look(store, small_policy, 7, now)
    with served(bundles[0], tmp_path, settings={"monitor": {"every": None}}) as running:
        assert until(lambda: looked_at(running) == {datetime.fromisoformat(made.time).timestamp()})
