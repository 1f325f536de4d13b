"""A running service with a teacher behind it: what it answers reaches the monitor, the feedback and the counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from tests.ship.service.conftest import served
from tests.teach.conftest import FakeEndpoint
from tests.waiting import until

from tamis.feedback import gather, truths
from tamis.policy import Policy
from tamis.records import AUDIT, content_id
from tamis.ship.console.hours import counts, totals
from tamis.ship.monitor import measures
from tamis.ship.monitor.traffic import read_traffic
from tamis.store import Store

TEXTS = [f"又见赌博 {i}" for i in range(60)]


def test_what_the_teacher_says_of_audited_texts_reaches_monitor_and_feedback(
    bundles: Sequence[Path], endpoint: FakeEndpoint, small_policy: Policy, tmp_path: Path
) -> None:
    teacher = {"kind": "openai", "model": "fake", "base_url": endpoint.url, "prior_correction": False}
    cascade = {"audit": 1.0, "band": 0.0, "deadline": 20.0}
    settings: dict[str, object] = {"tiers": [{"teacher": teacher}], "cascade": cascade, "keep_days": 1}
    with served(bundles[0], tmp_path, settings=settings) as running, Store.open(running.store) as store:
        with running.client as client:
            decided = [
                one
                for start in (0, 30)
                for one in client.post("/v1/decisions", json={"texts": TEXTS[start : start + 30]}).json()["decisions"]
            ]
        alone = [one for one in decided if one["tiers"] == ["student"] and AUDIT in one["reasons"]]
        assert alone
        # Those the student was not sure of were asked about before they were answered.
        beyond = [one for one in decided if "teacher fake" in one["tiers"]]
        wanted = {one["content"] for one in (*alone, *beyond)}
        assert until(lambda: wanted <= set(store.answers(small_policy.label_space)))
        now = datetime.now(UTC) + timedelta(seconds=1)
        side = read_traffic(store, small_policy, now - timedelta(hours=1), now)
        (found,) = measures.disagreement(side, side, truths(store, small_policy), small_policy)
        other = sum(one["category"] != "gambling" for one in alone)
        assert (found.rows, found.value) == (len(alone), other / len(alone))
        said = {one.id: one.said for one in gather(store, small_policy).feedback}
        assert {said[name][0].verdict for name in wanted} == {"gambling"}
        assert totals(counts(store, "asked", now, now, "day")) == {"teacher fake": len(wanted)}
        assert totals(counts(store, "prompt", now, now, "day")) == {"teacher fake": 50 * len(wanted)}
        told = httpx.get(f"{running.url}/metrics").text
        assert f'tamis_teacher_answers_total{{how="asked",tier="teacher fake"}} {len(wanted)}.0' in told
        assert f'tamis_teacher_tokens_total{{kind="completion",tier="teacher fake"}} {len(wanted)}.0' in told
        with store.begin() as connection:
            bodies = connection.exec_driver_sql("SELECT body FROM signals").scalars().all()
        assert len(bodies) == len(wanted)
        assert not any("赌" in body or "\\u8d4c" in body for body in bodies)
    assert content_id(TEXTS[0]) in said
