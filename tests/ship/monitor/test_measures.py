"""Drift is raised where it is and not where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.ship.monitor.conftest import verdict

from tamis.feedback import Truths
from tamis.policy import Policy
from tamis.records import TeacherSignal
from tamis.ship.monitor.measures import Measure, calibration, judged_risks, measure, missed, over_time, states
from tamis.ship.monitor.traffic import Traffic

Make = Callable[..., Traffic]


def over(measures: list[Measure]) -> set[str]:
    return {one.name for one in measures if one.limit is not None and one.tested >= one.limit}


def test_calm_weeks_raise_nothing(make_traffic: Make, small_policy: Policy) -> None:
    reference = make_traffic(3000, 1)
    loud = [seed for seed in range(2, 62) if over(measure(reference, make_traffic(1500, seed), Truths(), small_policy))]
    # Six kinds of measures with a chance of 1 in 1000 each: .36 expected in 60 weeks.
    assert len(loud) <= 2


def test_a_new_kind_of_text_moves_the_scores_of_its_language(make_traffic: Make, small_policy: Policy) -> None:
    side = make_traffic(2000, 2)
    new = (side.language == "zh") & (np.arange(2000) % 4 == 0)
    told = {
        name: np.where(new, value, side.probabilities[name])
        for name, value in (("normal", 0.55), ("fraud", 0.4), ("gambling", 0.05))
    }
    changed = replace(side, probabilities=told, uncertainty=np.where(new, 0.99, side.uncertainty))
    found = measure(make_traffic(3000, 1), changed, Truths(), small_policy)
    drifted = {one.group["language"] for one in found if one.name == "score_drift" and one.tested >= (one.limit or 9)}
    assert drifted == {"zh"}
    assert over(found) == {"score_drift", "uncertainty_drift"}


def test_an_evasion_wave_is_named_by_its_mark(make_traffic: Make, small_policy: Policy) -> None:
    side = make_traffic(2000, 2)
    wave = side.evasion | {"invisible": side.evasion["invisible"] | (np.arange(2000) % 20 == 0)}
    found = measure(make_traffic(3000, 1), replace(side, evasion=wave), Truths(), small_policy)
    (alarm,) = [one for one in found if one.limit is not None and one.tested >= one.limit]
    assert (alarm.name, alarm.group) == ("evasion", {"mark": "invisible"})
    assert alarm.value == pytest.approx(wave["invisible"].mean())


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [("action", "review", "action_mix"), ("language", "en", "language_mix"), ("length", 900.0, "length_drift")],
)
def test_a_changed_column_is_named(
    make_traffic: Make, small_policy: Policy, column: str, value: object, name: str
) -> None:
    side = make_traffic(2000, 2)
    values = np.where(np.arange(2000) % 3 == 0, value, getattr(side, column))
    found = measure(make_traffic(3000, 1), replace(side, **{column: values}), Truths(), small_policy)
    assert name in over(found)


def test_few_rows_say_nothing(make_traffic: Make, small_policy: Policy) -> None:
    assert measure(make_traffic(3000, 1), make_traffic(60, 2), Truths(), small_policy) == []
    assert measure(make_traffic(0, 1), make_traffic(0, 2), Truths(), small_policy) == []


def signal(content: str, category: str) -> TeacherSignal:
    return TeacherSignal(content, "t", "s", "logprobs", "ok", {"normal": 0.1, category: 0.8})


def test_disagreement_with_the_teacher_counts_what_the_student_decided_alone(
    make_traffic: Make, small_policy: Policy
) -> None:
    reference, current = make_traffic(4000, 1), make_traffic(4000, 2)
    flip = {content: i % 3 == 0 for i, content in enumerate(current.content.tolist())}
    answers = {
        content: signal(content, "fraud" if flip.get(content) else "normal")
        for content in (*reference.content.tolist(), *current.content.tolist())
    }
    for side in (reference, current):
        side.category[:] = "normal"
    found = measure(reference, current, Truths({}, answers), small_policy)
    (one,) = [each for each in found if each.name == "teacher_disagreement"]
    assert one.rows == int(current.audited.sum())
    assert one.value == pytest.approx(np.mean([flip[c] for c in current.content[current.audited]]))
    assert "teacher_disagreement" in over(found)
    asked = replace(current, alone=np.zeros(4000, bool))
    assert "teacher_disagreement" not in {
        one.name for one in measure(reference, asked, Truths({}, answers), small_policy)
    }


def test_misses_that_grow_are_an_alarm(make_traffic: Make, small_policy: Policy) -> None:
    reference, current = make_traffic(20_000, 1), make_traffic(20_000, 2)
    people = {c: verdict(c, "normal") for c in reference.content[reference.audited]}
    people |= {
        c: verdict(c, "fraud" if i % 25 == 0 else "normal") for i, c in enumerate(current.content[current.audited])
    }
    found = measure(reference, current, Truths(people), small_policy)
    (one,) = [each for each in found if each.name == "miss_rate"]
    assert one.low is not None
    assert one.high is not None
    assert one.low < 0.04 < one.high
    assert "miss_rate" in over(found)
    assert missed(reference, Truths(people), small_policy).rate == 0


def test_a_text_of_which_only_an_appeal_is_known_is_not_in_the_audit(make_traffic: Make, small_policy: Policy) -> None:
    side = make_traffic(1000, 1)
    others = side.content[(side.action == "pass") & ~side.audited]
    assert missed(side, Truths({c: verdict(c, "fraud") for c in others}), small_policy).judged == 0


def truth_by_risk(side: Traffic, seed: int, shift: float = 0.0) -> Truths:
    generator = np.random.default_rng(seed)
    drawn = generator.random(len(side)) < np.clip(side.risk + shift, 0, 1)
    return Truths({c: verdict(c, "fraud" if bad else "normal") for c, bad in zip(side.content, drawn, strict=True)})


def test_calibration_is_an_alarm_where_risks_do_not_mean_what_they_say(
    make_traffic: Make, small_policy: Policy
) -> None:
    calm = 0
    for seed in range(20):
        side = make_traffic(3000, seed)
        calm += bool(over(list(calibration(side, side, truth_by_risk(side, seed), small_policy))))
    assert calm <= 1
    side = make_traffic(3000, 3)
    assert over(list(calibration(side, side, truth_by_risk(side, 3, 0.2), small_policy))) == {"calibration_error"}


def test_judged_texts_stand_for_all_of_their_action(make_traffic: Make, small_policy: Policy) -> None:
    side = make_traffic(3000, 1)
    risk, harmful, weights = judged_risks(side, truth_by_risk(side, 1), small_policy)
    assert weights.sum() == pytest.approx(int((side.action != "block").sum()))
    assert len(risk) == len(harmful) == int(side.audited.sum() + (side.action == "review").sum())


def test_calibration_of_each_week(make_traffic: Make, small_policy: Policy) -> None:
    side = make_traffic(6000, 1, 21)
    assert [one.group["week"] for one in over_time(side, truth_by_risk(side, 1), small_policy)] == [
        "2026-03-02",
        "2026-03-09",
        "2026-03-16",
    ]


def test_states_that_moved() -> None:
    generator = np.random.default_rng(0)
    base, moved = generator.normal(size=(80, 6)), generator.normal(0.8, size=(80, 6))
    assert over([states(base, moved)]) == {"state_drift"}
    assert over([states(base, generator.normal(size=(80, 6)))]) == set()
