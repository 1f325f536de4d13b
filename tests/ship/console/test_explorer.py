"""Other thresholds over judged texts: by hand, and against what decides in earnest."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.deciding import ANY, Thresholds, decide
from tamis.decisions import canonical
from tamis.policy import Actions, Policy
from tamis.records import Scores
from tamis.reviews import Verdict
from tamis.ship.console.bulk import Filter
from tamis.ship.console.dashboard import Slots, stretches
from tamis.ship.console.explorer import ACTIONS, actions_of, cells, curve, figures, rows_of, sample_of, with_cells
from tamis.ship.console.thresholds import next_version
from tamis.ship.monitor import last_look, look
from tamis.store import Store

HARMFUL = "fraud"


def row(content: str, risk: float, action: str, language: str = "zh", **told: float) -> Any:
    probabilities = told or {"normal": 1 - risk, HARMFUL: risk}
    scores = {"probabilities": probabilities, "risk": risk, "uncertainty": 0.1}
    return {
        "content": content,
        "action": action,
        "scores": canonical(scores),
        "signals": canonical({"language": language}),
        "reasons": "[]",
    }


def vars_of(scores: Scores) -> dict[str, Any]:
    return {"probabilities": scores.probabilities, "risk": scores.risk, "uncertainty": scores.uncertainty}


def said(content: str, verdict: str) -> Verdict:
    return Verdict(1, content, content, content, "review", None, None, "ann", "", verdict, None, "", None)


def test_figures_by_hand(small_policy: Policy) -> None:
    # 80 passed of which 2 were audited: each stands for 40. 20 reviewed of which 4 were read: each for 5.
    traffic = [row(f"p{i}", 0.1, "pass") for i in range(80)] + [row(f"r{i}", 0.6, "review") for i in range(20)]
    judged = [row("a", 0.3, "pass"), row("b", 0.1, "pass")]
    judged += [row("c", 0.55, "review"), row("d", 0.6, "review"), row("e", 0.7, "review"), row("f", 0.8, "review")]
    harmful = {"a": HARMFUL, "b": "normal", "c": "normal", "d": HARMFUL, "e": HARMFUL, "f": HARMFUL}
    settled = {content: said(content, verdict) for content, verdict in harmful.items()}
    sample = sample_of(traffic, judged, settled, small_policy, Thresholds())
    assert sample.weights.tolist() == [40, 40, 5, 5, 5, 5]
    now = figures(sample, Thresholds(), small_policy.model_copy(update={"actions": Actions(review=0.5, block=0.9)}))
    # Harmful weight is 40 + 15, of which the 40 are passed; harmless 40 + 5, of which the 5 are stopped.
    assert now.recall.value == pytest.approx(15 / 55)
    assert now.recall.low < now.recall.value < now.recall.high
    assert now.stopped == pytest.approx(5 / 45)
    assert (now.blocked_harmless, now.load, now.blocked) == (0, 0.2, 0)
    lower = figures(sample, Thresholds(), small_policy.model_copy(update={"actions": Actions(review=0.05, block=0.55)}))
    assert (lower.recall.value, lower.stopped) == (1, 1)
    assert lower.blocked_harmless == pytest.approx(5 / 45)
    assert (lower.load, lower.blocked) == (0.8, 0.2)
    points = curve(sample, Thresholds(), small_policy, ("review", "risk", ANY), (0.2, 0.5, 0.95))
    # 0.95 is above the block threshold, which no review threshold can be.
    assert [value for value, _ in points] == [0.2, 0.5]
    assert points[0][1].recall.value == 1


def test_nothing_judged_is_no_number(small_policy: Policy) -> None:
    found = figures(sample_of([], [], {}, small_policy, Thresholds()), Thresholds(), small_policy)
    assert all(map(math.isnan, (found.recall.value, found.stopped, found.load)))


unit = st.one_of(st.floats(0, 1), st.sampled_from([0.2, 0.5, 0.8]))


@given(st.data())
def test_many_at_once_are_decided_as_one_by_one(small_policy: Policy, data: st.DataObject) -> None:
    def actions() -> Actions:
        low, high = sorted((data.draw(unit), data.draw(unit)))
        return Actions(review=low, block=high)

    harmful = [name for name in small_policy.ids if name != small_policy.benign]
    table = {name: {ANY: actions(), "zh": actions()} for name in harmful} if data.draw(st.booleans()) else {}
    policy = small_policy.model_copy(update={"actions": actions()})
    thresholds = Thresholds(method="costs" if table else "policy", by_category=table)
    texts = []
    for _ in range(data.draw(st.integers(1, 6))):
        told = {name: data.draw(unit) for name in policy.ids} if data.draw(st.booleans()) else {}
        risk = data.draw(unit) if told else math.nan
        texts.append((Scores(told, risk, 0.1), data.draw(st.sampled_from(["zh", "en"]))))
    rows = [
        row("x", s.risk, "pass", lang)
        | {"scores": canonical({"probabilities": s.probabilities, "risk": s.risk, "uncertainty": 0.1})}
        for s, lang in texts
    ]
    found = actions_of(rows_of(rows, policy, thresholds), thresholds, policy)
    assert [ACTIONS[i] for i in found] == [decide(s, lang, thresholds, policy)[0] for s, lang in texts]


def test_cells_and_what_becomes_of_them(small_policy: Policy) -> None:
    own = cells(Thresholds(), small_policy)
    assert own == {
        ("review", "risk", ANY): small_policy.actions.review,
        ("block", "risk", ANY): small_policy.actions.block,
    }
    made = with_cells(Thresholds(), small_policy, {("review", "risk", ANY): 0.25})
    assert made
    assert made[1].actions == Actions(review=0.25, block=small_policy.actions.block)
    assert made[0] == Thresholds()
    assert with_cells(Thresholds(), small_policy, {("review", "risk", ANY): 0.999}) is None
    table = Thresholds(method="target", by_category={HARMFUL: {ANY: Actions(review=0.3, block=0.9)}})
    changed = with_cells(table, small_policy, {("block", HARMFUL, ANY): 0.8})
    assert changed
    assert changed[0].method == "hand"
    assert changed[0].by_category[HARMFUL][ANY] == Actions(review=0.3, block=0.8)
    assert changed[1] == small_policy


@pytest.mark.parametrize(("version", "after"), [("1.0", "1.1"), ("2", "3"), ("1.9", "1.10"), ("may", "may.1")])
def test_the_version_after(version: str, after: str) -> None:
    assert next_version(version) == after


def test_weights_do_not_divide_by_nothing(small_policy: Policy) -> None:
    judged = [row("a", 0.6, "review")]
    sample = sample_of([], judged, {"a": said("a", HARMFUL)}, small_policy, Thresholds())
    assert np.isfinite(sample.weights).all()


def test_a_filter_in_bulk_takes_only_what_it_can_read() -> None:
    assert Filter.of({"low": "20", "high": "170"}) == Filter("", "", 20, 100)
    assert Filter.of({"low": "-3", "high": "x", "category": "fraud"}) == Filter("fraud", "", 0, 100)
    assert Filter.of({}) == Filter()


def test_runs_of_a_version_by_hand() -> None:
    until = datetime(2026, 3, 4, 15, tzinfo=UTC)
    slots = Slots.of(4, until)
    assert slots.names == ("2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04")
    assert slots.ticks == ("03-01", "03-02", "03-03", "03-04")
    assert slots.since == datetime(2026, 3, 1, tzinfo=UTC)
    found = {"2026-03-01": 5, "2026-03-03": 1, "2026-03-04": 2}
    assert list(stretches(found, slots)) == [(0, 0.25), (0.5, 1)]
    assert list(stretches({}, slots)) == []
    hours = Slots.of(1, until)
    assert (len(hours.names), hours.names[-1], hours.ticks[-1]) == (24, "2026-03-04T15", "15:00")


def test_a_look_is_kept_with_what_is_no_number(url: str, small_policy: Policy) -> None:
    with Store.open(url) as store:
        assert last_look(store) is None
        made = look(store, small_policy, 7, datetime(2026, 3, 4, tzinfo=UTC))
        kept = last_look(store)
    assert kept
    assert "no traffic is pinned" in kept.error
    assert math.isnan(kept.misses.rate)
    assert math.isnan(made.misses.rate)
    assert (kept.misses.low, kept.misses.high, kept.rows, kept.bins) == (0, 1, 0, ())
    assert kept.is_old
