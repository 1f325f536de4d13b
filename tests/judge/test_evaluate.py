from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tamis.config import EvaluateConfig
from tamis.errors import DataError
from tamis.judge.evaluate import evaluate
from tamis.judge.result import Evaluation
from tamis.judge.speed import measure_speed
from tamis.policy import Policy, load_policy
from tamis.records import NO_ANSWER, Example, Scorer, Scores, TestSplit

QUICK = EvaluateConfig(bootstrap=100, latency_rows=3)


def constant(policy: Policy, **probabilities: float) -> Scorer:
    return lambda texts: [policy.scores(probabilities)] * len(texts)


def silent(texts: Sequence[str]) -> list[Scores]:
    return [NO_ANSWER] * len(texts)


def test_figures_lie_inside_their_intervals(evaluation: Evaluation) -> None:
    checked = 0
    for model in evaluation.models.values():
        for name in ("accuracy", "macro_f1", "micro_f1", "macro_auroc", "risk_auroc", "answered"):
            one = model.metrics[name]
            assert one.low <= one.value <= one.high
            checked += 1
    assert checked == 24


def test_mistakes_and_accuracy_agree(evaluation: Evaluation) -> None:
    for model in evaluation.models.values():
        assert model.metrics["accuracy"].value == pytest.approx(1 - len(model.mistakes) / evaluation.rows)
        sure = [one.confidence for one in model.mistakes if one.said]
        assert sure == sorted(sure, reverse=True)


def test_confusion_counts_every_row(evaluation: Evaluation) -> None:
    for model in evaluation.models.values():
        assert model.confusion
        assert [sum(row) for row in model.confusion] == list(evaluation.support.values())


def test_silence_is_wrong_everywhere(examples: tuple[Example, ...], small_policy: Policy) -> None:
    found = evaluate({"student": silent}, TestSplit(examples), small_policy, QUICK).models["student"]
    for name in ("accuracy", "macro_f1", "worst_recall", "answered", "risk_auroc", "macro_auroc"):
        assert found.metrics[name].value == 0
    assert found.metrics["recall_at_fpr_0.05"].value == 0
    assert math.isnan(found.metrics["ece"].value)
    assert len(found.mistakes) == len(examples)


def test_the_student_is_compared_with_each_other_model(evaluation: Evaluation) -> None:
    assert set(evaluation.comparisons) == {"teacher", "svm", "keyword"}
    figure = {name: model.metrics["macro_f1"].value for name, model in evaluation.models.items()}
    for name, one in evaluation.comparisons.items():
        assert one.difference.value == pytest.approx(figure["student"] - figure[name])
        assert one.retention.value == pytest.approx(figure["student"] / figure[name])
        assert one.p_holm >= one.p
    assert not evaluation.comparisons["keyword"].is_noise


def test_a_model_against_itself_is_no_difference(
    scorers: dict[str, Scorer], examples: tuple[Example, ...], small_policy: Policy
) -> None:
    both = {"student": scorers["svm"], "svm": scorers["svm"]}
    one = evaluate(both, TestSplit(examples), small_policy, QUICK).comparisons["svm"]
    assert (one.difference.low, one.difference.value, one.difference.high) == (0, 0, 0)
    assert (one.retention.low, one.retention.high, one.p) == (1, 1, 1)
    assert one.is_noise


def test_only_gold_rows_count(scorers: dict[str, Scorer], examples: tuple[Example, ...], small_policy: Policy) -> None:
    more = TestSplit((*examples, Example("x", "nobody judged this", "en", "made")))
    first = evaluate(scorers, TestSplit(examples), small_policy, QUICK)
    assert evaluate(scorers, more, small_policy, QUICK).to_json() == first.to_json()


def test_no_gold_is_refused(small_policy: Policy) -> None:
    split = TestSplit((Example("x", "nobody judged this", "en", "made"),))
    with pytest.raises(DataError, match="no row a person has judged"):
        evaluate({"student": silent}, split, small_policy, QUICK)


def test_a_scorer_that_drops_rows_is_refused(examples: tuple[Example, ...], small_policy: Policy) -> None:
    with pytest.raises(DataError, match="student gave 1 scores for"):
        evaluate({"student": lambda _: [NO_ANSWER]}, TestSplit(examples), small_policy, QUICK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"label": "violence"}, "labelled 'violence'"), ({"label": None, "labels": ("fraud", "gambling")}, "2 labels")],
)
def test_a_verdict_outside_the_policy_is_refused(
    changes: dict[str, object], message: str, examples: tuple[Example, ...], small_policy: Policy
) -> None:
    rows = (replace(examples[0], **changes), *examples[1:])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        evaluate({"student": silent}, TestSplit(rows), small_policy, QUICK)


def test_absent_classes_warn_nobody(examples: tuple[Example, ...], small_policy: Policy) -> None:
    only = TestSplit(tuple(example for example in examples if example.label == "fraud"))
    scorer = constant(small_policy, normal=0.1, gambling=0.2, fraud=0.7)
    found = evaluate({"student": scorer}, only, small_policy, QUICK)
    assert found.models["student"].metrics["macro_f1"].value == 1
    assert math.isnan(found.models["student"].metrics["risk_auroc"].value)
    assert found.models["student"].roc == ()
    assert Evaluation.from_json(found.to_json()).to_json() == found.to_json()


def test_several_labels_at_one_half(small_policy: Policy) -> None:
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    rows = TestSplit(
        (
            Example("1", "one", "en", "made", labels=("gambling", "fraud")),
            Example("2", "two", "en", "made", labels=()),
            Example("3", "three", "en", "made", labels=("fraud",)),
        )
    )
    scorer = constant(policy, normal=0.1, gambling=0.5, fraud=0.49)
    found = evaluate({"student": scorer}, rows, policy, QUICK)
    model = found.models["student"]
    assert model.metrics["accuracy"].value == 0
    assert model.per_class["gambling"]["recall"].value == 1
    assert model.per_class["gambling"]["precision"].value == pytest.approx(1 / 3)
    assert model.per_class["fraud"]["recall"].value == 0
    assert model.confusion is None
    assert found.support == {"normal": 1, "gambling": 1, "fraud": 2}
    assert {mistake.id: mistake.truth for mistake in model.mistakes}["2"] == ("normal",)


def test_risk_scores(small_policy: Policy) -> None:
    rows = TestSplit(tuple(Example(str(i), str(i), "en", "made", score=i / 10) for i in range(11)))

    def close(texts: Sequence[str]) -> list[Scores]:
        return [Scores({}, float(text) / 10 * 0.9, 0.0) for text in texts]

    found = evaluate({"student": close, "svm": silent}, rows, small_policy, QUICK)
    student = found.models["student"].metrics
    assert found.metric == "spearman"
    assert student["spearman"].value == pytest.approx(1)
    assert student["mae"].value == pytest.approx(0.05)
    assert student["answered"].value == 1
    assert found.models["svm"].metrics["answered"].value == 0
    assert found.models["svm"].metrics["mae"].value == pytest.approx(sum(max(i, 10 - i) for i in range(11)) / 110)
    assert found.comparisons["svm"].difference.value > 1
    assert math.isnan(found.comparisons["svm"].p)


def test_json_and_back(evaluation: Evaluation) -> None:
    fuller = evaluation.with_facts("student", parameters=494_000_000, license="Apache-2.0")
    tree = json.loads(json.dumps(fuller.to_json(), allow_nan=False))
    again = Evaluation.from_json(tree)
    assert again.models["student"].facts == {"parameters": 494_000_000, "license": "Apache-2.0"}
    assert again.to_json() == fuller.to_json()
    assert evaluation.models["student"].facts == {}


def test_json_holds_no_text(evaluation: Evaluation, examples: tuple[Example, ...]) -> None:
    written = json.dumps(evaluation.to_json(), ensure_ascii=False)
    assert len(examples) > 100
    assert not any(example.text in written for example in examples)


def test_the_same_seed_gives_the_same_figures(
    scorers: dict[str, Scorer], examples: tuple[Example, ...], small_policy: Policy
) -> None:
    runs = [evaluate(scorers, TestSplit(examples), small_policy, QUICK, seed=5) for _ in range(2)]
    assert runs[0].to_json() == runs[1].to_json()


def test_speed_is_timed_when_asked_for(evaluation: Evaluation) -> None:
    speed = evaluation.models["student"].speed
    assert speed
    assert speed.rows == 3
    assert evaluation.models["svm"].speed is None


def test_speed_is_measured_one_at_a_time_and_in_batches() -> None:
    sizes: list[int] = []

    def scorer(texts: Sequence[str]) -> list[Scores]:
        sizes.append(len(texts))
        return [NO_ANSWER] * len(texts)

    speed = measure_speed(scorer, ["a", "b", "c", "d", "e"], rows=7, batch=2)
    assert sizes == [1] * (3 + 7) + [2] + [2, 2, 1]
    assert 0 < speed.p50_ms <= speed.p95_ms <= speed.p99_ms
    assert speed.texts_per_second > 0
    assert speed.peak_mb > 1


def test_speed_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="got none"):
        measure_speed(silent, [], rows=1)


def test_what_nobody_has_judged_counts_neither_way(small_policy: Policy) -> None:
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    rows = (
        Example("1", "one", "en", "made", labels=("gambling",), unknown=("fraud",)),
        Example("2", "two", "en", "made", labels=("normal",)),
        Example("3", "three", "en", "made", labels=(), unknown=("normal", "gambling")),
    )
    told = {
        "one": {"normal": 0.1, "gambling": 0.8, "fraud": 0.9},
        "two": {"normal": 0.2, "gambling": 0.6, "fraud": 0.1},
        "three": {"normal": 0.3, "gambling": 0.7, "fraud": 0.2},
    }
    scorer: Scorer = lambda texts: [policy.scores(told[text]) for text in texts]  # noqa: E731
    found = evaluate({"student": scorer, "teacher": silent}, TestSplit(rows), policy, QUICK)
    model = found.models["student"]
    # gambling: right in 1, wrong in 2, unknown in 3; fraud: rightly absent in 2 and 3, unknown in 1.
    assert model.per_class["gambling"]["precision"].value == 0.5
    assert model.per_class["gambling"]["recall"].value == 1
    assert model.per_class["gambling"]["auroc"].value == 1
    assert found.support == {"normal": 1, "gambling": 1, "fraud": 0}
    assert model.metrics["macro_f1"].value == pytest.approx((2 / 3 + 0) / 2)
    assert model.metrics["accuracy"].value == pytest.approx(2 / 3)
    # Of the risk only 1 (harmful, 0.9) and 2 (harmless, 0.6) are known.
    assert model.metrics["risk_auroc"].value == 1
    # Six known claims, each in a bin of its own but for 0.1, twice rightly absent, and 0.2, twice.
    gaps = [2 * 0.1, 1 - 0.8, 2 * abs(0.2 * 2 - 1) / 2, 0.6]
    assert model.metrics["ece"].value == pytest.approx(sum(gaps) / 6)
    assert {mistake.id for mistake in model.mistakes} == {"2"}
    assert found.models["teacher"].metrics["accuracy"].value == 0


def test_levels_are_ranked_as_scores_are() -> None:
    policy = load_policy("severity")
    rows = tuple(Example(name, name, "en", "made", label=name) for name in policy.ids)
    more = (*rows, Example("s", "scored", "en", "made", score=0.5))
    told = {"none": "none", "mild": "serious", "serious": "mild", "extreme": "extreme", "scored": "mild"}
    scorer: Scorer = lambda texts: [policy.scores({told[text]: 1.0}) for text in texts]  # noqa: E731
    found = evaluate({"student": scorer}, TestSplit(rows), policy, QUICK).models["student"].metrics
    # One swap of neighbours: five pairs in order and one not; squared rank differences of 2 over 4 rows.
    assert found["kendall"].value == pytest.approx(4 / 6)
    assert found["spearman"].value == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert found["mae"].value == pytest.approx(2 / 3 / 4)
    assert found["accuracy"].value == 0.5
    both = evaluate({"student": scorer}, TestSplit(more), policy, QUICK).models["student"].metrics
    assert both["mae"].value == pytest.approx((2 / 3 + 0.5 - 1 / 3) / 5)
    assert both["accuracy"].value == 0.5
