from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import astuple, replace

import numpy as np
import pytest

from tamis.config import EvaluateConfig
from tamis.errors import DataError
from tamis.judge.contest.measure import Candidate, contest, knee, over_runs
from tamis.judge.contest.result import Confused, Contest, Disagreement, Standing, confusion_changes
from tamis.policy import Policy
from tamis.records import NO_ANSWER, Example, Scores, TestSplit

QUICK = EvaluateConfig(bootstrap=100)


def answers(policy: Policy, *said: str) -> list[Scores]:
    """One sure answer a category; an empty name is no answer."""
    return [policy.scores({n: 0.8 if n == one else 0.1 for n in policy.ids}) if one else NO_ANSWER for one in said]


def rows(*labels: str) -> TestSplit:
    return TestSplit(tuple(Example(str(i), f"text {i}", "en", "made", label=one) for i, one in enumerate(labels)))


def test_a_figure_is_the_mean_over_seeds_with_their_spread(small_policy: Policy) -> None:
    runs = {
        3: answers(small_policy, "normal", "fraud", "fraud", "normal"),
        7: answers(small_policy, "normal", "fraud", "normal", "normal"),
    }
    split = rows("normal", "normal", "fraud", "fraud")
    one = contest([Candidate("A-lora", "A", runs)], split, small_policy, QUICK).standings["A-lora"]
    assert one.metrics["accuracy"].value == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert one.spread["accuracy"] == pytest.approx(0.25 / math.sqrt(2))
    assert one.per_class["fraud"]["recall"].value == pytest.approx((1 / 2 + 0) / 2)
    assert one.seeds == (3, 7)


def test_runs_are_drawn_with_replacement() -> None:
    times = 4000
    runs = {0: {"f": np.zeros(1 + times)}, 1: {"f": np.ones(1 + times)}}
    samples = over_runs(runs, times, seed=0)["f"]
    assert samples[0] == 0.5
    shares = [float((samples[1:] == value).mean()) for value in (0, 0.5, 1)]
    assert shares == pytest.approx([1 / 4, 1 / 2, 1 / 4], abs=0.03)
    assert samples[1:].var() == pytest.approx(1 / 8, abs=0.01)


def test_one_run_varies_by_its_rows_alone() -> None:
    samples = np.array([0.5, 0.4, 0.6])
    assert over_runs({0: {"f": samples}}, 2, seed=0)["f"].tolist() == samples.tolist()


def test_a_curve_that_never_rises_surely_has_its_knee_at_the_start() -> None:
    flat = {"2": np.array([0.5, 0.4, 0.6]), "4": np.array([0.51, 0.6, 0.4])}
    ranks = knee(flat)
    assert ranks
    assert (ranks.peak, ranks.knee) == ("4", "2")


def test_the_knee_is_the_first_within_noise_of_the_best() -> None:
    noise = np.concatenate([[0.0], np.linspace(-0.05, 0.05, 99)])
    curve = {"2": 0.5 + 0 * noise, "4": 0.78 + noise, "8": 0.80 + 0 * noise, "16": 0.79 + 0 * noise}
    ranks = knee(curve)
    assert ranks
    assert (ranks.names, ranks.peak, ranks.knee) == (("2", "4", "8", "16"), "8", "4")
    assert knee({"2": noise}) is None


def test_ranks_come_from_the_facts_and_hold_the_common_rival(found: Contest) -> None:
    assert found.ranks
    assert found.ranks.names == ("rank-2", "rank-8", "A-lora")
    assert found.ranks.knee == "rank-8"


def test_confusions_added_and_removed() -> None:
    before = Standing("A", (0,), confusion=((5, 3, 0), (2, 6, 1)))
    after = Standing("D", (0, 1), confusion=((14, 1, 1), (4, 14, 0)))
    found = confusion_changes(before, after, ("a", "b"))
    assert found == [Confused("a", "b", 3, 0.5), Confused("b", "", 1, 0), Confused("a", "", 0, 0.5)]
    assert [one.change for one in found] == [-2.5, -1, 0.5]


def test_who_is_wrong_where(small_policy: Policy) -> None:
    split = rows("normal", "fraud", "fraud", "gambling")
    student = {
        0: answers(small_policy, "normal", "normal", "fraud", ""),
        1: answers(small_policy, "normal", "fraud", "fraud", "fraud"),
    }
    teacher = {0: answers(small_policy, "normal", "fraud", "", "normal")}
    both = [Candidate("D5", "D", student), Candidate("teacher", "teacher", teacher)]
    found = contest(both, split, small_policy, QUICK, against="D5", best="D5")
    assert found.disagreements == (
        Disagreement("1", "student", ("fraud",), ("normal", "fraud"), ("fraud",)),
        Disagreement("2", "teacher", ("fraud",), ("fraud",), ()),
        Disagreement("3", "both", ("gambling",), ("fraud",), ("normal",)),
    )


def test_identical_candidates_do_not_differ(
    candidates: list[Candidate], examples: tuple[Example, ...], small_policy: Policy
) -> None:
    both = [candidates[0], replace(candidates[0], name="twin"), replace(candidates[0], name="third")]
    found = contest(both, TestSplit(examples), small_policy, QUICK)
    assert len(found.changes) == 2
    for one in found.changes:
        assert (one.difference.low, one.difference.value, one.difference.high) == (0, 0, 0)
        assert (one.p, one.p_holm, one.p_bootstrap, one.p_bootstrap_holm) == (1, 1, 1, 1)
        assert not one.is_sure
    assert found.omnibus
    assert (found.omnibus.statistic, found.omnibus.freedom, found.omnibus.p) == (0, 2, 1)


def test_the_order_of_candidates_changes_no_figure(
    found: Contest, candidates: list[Candidate], examples: tuple[Example, ...], small_policy: Policy
) -> None:
    turned = contest(candidates[::-1], TestSplit(examples), small_policy, QUICK, best="D5")
    assert list(turned.standings) == list(found.standings)[::-1]
    assert {name: repr(one) for name, one in turned.standings.items()} == {
        name: repr(one) for name, one in found.standings.items()
    }
    assert sorted(map(repr, turned.changes)) == sorted(map(repr, found.changes))
    assert turned.omnibus
    assert found.omnibus
    assert astuple(turned.omnibus) == pytest.approx(astuple(found.omnibus))
    assert (turned.ranks, turned.disagreements) == (found.ranks, found.disagreements)


def test_changes_are_those_of_the_questions_asked(found: Contest) -> None:
    against = {(name, "A-lora") for name in found.ran if name != "A-lora"}
    best = {("D5", "teacher"), ("D5", "svm"), ("D5", "svm_teacher")}
    knowledge = {("D2", "D1"), ("D5", "D1")}
    assert {(one.first, one.second) for one in found.changes} == against | best | knowledge
    assert {(one.first, one.second) for one in found.knowledge} == knowledge
    for one in found.changes:
        assert one.difference.value == pytest.approx(found.value(one.first).value - found.value(one.second).value)
        assert one.p_holm >= one.p
        assert one.p_bootstrap_holm >= one.p_bootstrap


def test_a_clear_difference_is_sure_however_many_are_compared(found: Contest) -> None:
    change = found.change("D5", "svm")
    assert change
    assert change.is_sure
    assert change.p_bootstrap == pytest.approx(2 / (found.bootstrap * len(found.changes) + 1))


def test_a_failed_candidate_stays_and_is_compared_with_nobody(found: Contest) -> None:
    failed = found.standings["C"]
    assert failed.failed == {0: "no hidden states"}
    assert failed.metrics == {}
    assert "C" not in found.ran
    assert not any("C" in (one.first, one.second) for one in found.changes)
    assert found.standings["D2"].seeds == (0, 2)


def test_a_failed_rival_leaves_no_changes_against_it(
    candidates: list[Candidate], examples: tuple[Example, ...], small_policy: Policy
) -> None:
    found = contest(candidates, TestSplit(examples), small_policy, QUICK, against="C")
    assert {one.second for one in found.changes} == {"D1"}


def test_json_and_back(found: Contest, examples: tuple[Example, ...]) -> None:
    written = json.dumps(found.to_json(), allow_nan=False, ensure_ascii=False)
    again = Contest.from_json(json.loads(written))
    assert again.to_json() == found.to_json()
    assert again.change("D5", "D1") == found.change("D5", "D1")
    assert not any(example.text in written for example in examples)


Edit = Callable[[list[Candidate]], list[Candidate]]


@pytest.mark.parametrize(
    ("edit", "settings", "message"),
    [
        (lambda many: [*many, many[0]], {}, "two candidates are called A-lora"),
        (lambda many: many, {"against": "B"}, "`against` is B, wanted one of A-lora, .*, C: name a candidate"),
        (lambda many: many, {"best": "C"}, "`best` is C, wanted one of A-lora, .*, svm_teacher: name a candidate"),
        (lambda many: [replace(many[0], runs={4: [NO_ANSWER]})], {}, "A-lora, seed 4, has 1 scores for 144 texts"),
    ],
)
def test_bad_input_is_refused(
    edit: Edit,
    settings: dict[str, str],
    message: str,
    candidates: list[Candidate],
    examples: tuple[Example, ...],
    small_policy: Policy,
) -> None:
    with pytest.raises(DataError, match=message):
        contest(edit(candidates), TestSplit(examples), small_policy, QUICK, **settings)


def test_rows_without_categories_are_refused(candidates: list[Candidate], small_policy: Policy) -> None:
    split = TestSplit((Example("x", "a text", "en", "made", score=0.5),))
    with pytest.raises(DataError, match="1 of 1 gold rows have a risk score"):
        contest(candidates, split, small_policy, QUICK)
    with pytest.raises(DataError, match="no row a person has judged"):
        contest(candidates, TestSplit((Example("x", "a text", "en", "made"),)), small_policy, QUICK)


def test_several_labels_have_no_confusion(small_policy: Policy) -> None:
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    split = TestSplit((Example("1", "one", "en", "made", labels=("gambling", "fraud")),))
    runs = {0: [policy.scores({"normal": 0.1, "gambling": 0.9, "fraud": 0.2})]}
    found = contest([Candidate("A-lora", "A", runs)], split, policy, QUICK)
    assert found.standings["A-lora"].confusion is None
    assert found.omnibus is None
