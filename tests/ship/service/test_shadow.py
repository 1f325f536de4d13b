"""What two bundles judge differently, in the store for all workers."""

from __future__ import annotations

import math

import pytest

from tamis.records import Action, Decision, Scores, content_id
from tamis.ship.service.shadow import KEPT, agreement, differences, keep
from tamis.store import Store


def decision(text: str, model: str, action: Action, category: str = "fraud", risk: float = 0.6) -> Decision:
    scores = Scores({category: risk}, risk, 0.5)
    return Decision(content_id(text), action, category, scores, {"model": model, "policy": "p", "tamis": "0"})


def pair(text: str, live: Action, other: Action, **more: object) -> tuple[Decision, Decision]:
    return decision(text, "old", live), decision(text, "new", other, **more)  # type: ignore[arg-type]


def test_workers_add_up_and_differences_come_with_both_answers(url: str) -> None:
    with Store.open(url) as store:
        keep(store, [])
        keep(store, [pair("a", "pass", "pass"), pair("b", "pass", "block", risk=math.nan)])
        keep(store, [pair("c", "pass", "pass"), pair("d", "block", "block", category="spam")])
        assert agreement(store, "old", "new") == {
            ("pass", "pass"): 2,
            ("pass", "block"): 1,
            ("block", "block"): 1,
        }
        assert agreement(store, "new", "old") == {}
        # The same action for another category is a difference too.
        assert [one.content for one in differences(store, "old", "new")] == [content_id("d"), content_id("b")]
        (found,) = differences(store, "old", "new", ("pass", "block"))
        assert (found.live_action, found.shadow_action, found.shadow_risk) == ("pass", "block", None)
        assert found.live_risk == pytest.approx(0.6)


def test_only_the_latest_differences_are_kept(url: str) -> None:
    with Store.open(url) as store:
        keep(store, [pair("first", "pass", "block")])
        keep(store, [pair(str(i), "pass", "block") for i in range(KEPT)])
        found = differences(store, "old", "new", limit=2 * KEPT)
        assert len(found) == KEPT
        assert found[0].content == content_id(str(KEPT - 1))
        assert content_id("first") not in {one.content for one in found}
        assert agreement(store, "old", "new") == {("pass", "block"): KEPT + 1}
