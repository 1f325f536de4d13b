from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from tamis.judge import metrics
from tamis.judge.metrics import counts, ones, ranking

NAMES = ["a", "b", "c"]
TRUTH = ["a", "a", "a", "b", "b", "c"]
SAID = ["a", "a", "b", "b", "", "a"]


def flags(labels: list[str]) -> np.ndarray:
    return np.array([[name == label for name in NAMES] for label in labels])


@pytest.fixture
def counted() -> metrics.Counts:
    return counts(flags(TRUTH), flags(SAID), ones(6))


def test_accuracy_counts_a_missing_answer_as_wrong() -> None:
    assert metrics.accuracy(flags(TRUTH), flags(SAID), ones(6)) == pytest.approx([3 / 6])


def test_precision_recall_and_f1_by_class(counted: metrics.Counts) -> None:
    assert counted.precision[0] == pytest.approx([2 / 3, 1 / 2, 0])
    assert counted.recall[0] == pytest.approx([2 / 3, 1 / 2, 0])
    assert counted.f1[0] == pytest.approx([2 / 3, 1 / 2, 0])


def test_macro_is_the_mean_over_classes(counted: metrics.Counts) -> None:
    assert counted.macro(counted.f1) == pytest.approx([(2 / 3 + 1 / 2) / 3])
    assert counted.worst(counted.recall) == pytest.approx([0])


def test_macro_leaves_out_classes_without_a_row() -> None:
    found = counts(flags(["a", "b"]), flags(["a", "c"]), ones(2))
    assert found.macro(found.f1) == pytest.approx([(1 + 0) / 2])


def test_micro_pools_the_counts(counted: metrics.Counts) -> None:
    assert counted.pooled.precision[0] == pytest.approx([3 / 5])
    assert counted.pooled.recall[0] == pytest.approx([3 / 6])
    assert counted.pooled.f1[0] == pytest.approx([6 / 11])


def test_several_labels() -> None:
    truth = np.array([[True, True], [False, True]])
    said = np.array([[True, False], [False, True]])
    found = counts(truth, said, ones(2))
    assert metrics.accuracy(truth, said, ones(2)) == pytest.approx([0.5])
    assert found.f1[0] == pytest.approx([1, 2 / 3])
    assert found.pooled.recall[0] == pytest.approx([2 / 3])


def test_confusion_has_a_column_for_no_answer() -> None:
    assert metrics.confusion(TRUTH, SAID, NAMES) == [[2, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]]


def test_auroc_by_hand_with_a_tie() -> None:
    # Pairs of positive and negative: .9 beats both, .5 ties one and beats the other: (2 + 1.5) / 4.
    found = ranking(np.array([True, True, False, False]), np.array([0.9, 0.5, 0.5, 0.1]), ones(4))
    assert found.auroc == pytest.approx([3.5 / 4])


def test_average_precision_by_hand_with_a_tie() -> None:
    # Recall 1/2 at precision 1, then the tie brings recall 1 at precision 2/3.
    found = ranking(np.array([True, True, False, False]), np.array([0.9, 0.5, 0.5, 0.1]), ones(4))
    assert found.average_precision == pytest.approx([0.5 * 1 + 0.5 * 2 / 3])


def test_areas_without_both_classes_are_not_a_number() -> None:
    found = ranking(np.array([False, False]), np.array([0.2, 0.3]), ones(2))
    assert np.isnan(found.auroc).all()
    assert np.isnan(found.average_precision).all()
    assert np.isnan(found.recall_at(0.1)).all()


def test_recall_at_a_false_positive_rate_does_not_split_ties() -> None:
    # 10 negatives. One stands with two positives at .8: taking any of them costs 10 %.
    truth = np.array([True] * 4 + [False] * 10)
    score = np.array([0.9, 0.8, 0.8, 0.3, 0.8, *([0.1] * 9)])
    found = ranking(truth, score, ones(14))
    assert found.recall_at(0.05) == pytest.approx([1 / 4])
    assert found.recall_at(0.0999) == pytest.approx([1 / 4])
    assert found.recall_at(0.1) == pytest.approx([1.0])


def test_recall_is_0_when_every_threshold_exceeds_the_rate() -> None:
    found = ranking(np.array([False, True]), np.array([0.9, 0.9]), ones(2))
    assert found.recall_at(0.01) == pytest.approx([0.0])


@pytest.mark.parametrize("rate", metrics.FALSE_POSITIVE_RATES)
def test_a_rate_that_is_reached_exactly_is_allowed(rate: float) -> None:
    negatives = 3000
    hits = round(rate * negatives)
    score = np.concatenate([np.full(hits, 0.9), np.full(negatives - hits, 0.1), [0.8]])
    truth = np.array([False] * negatives + [True])
    assert ranking(truth, score, ones(negatives + 1)).recall_at(rate) == pytest.approx([1.0])


def test_false_positives_at_a_recall() -> None:
    truth = np.array([True, False, True, False, False])
    found = ranking(truth, np.array([0.9, 0.8, 0.7, 0.2, 0.1]), ones(5))
    assert found.false_positives_at(0.5) == pytest.approx([0.0])
    assert found.false_positives_at(0.95) == pytest.approx([1 / 3])


def test_a_missing_risk_hurts_on_both_sides() -> None:
    given = metrics.pessimistic(np.array([True, False, True]), np.array([np.nan, np.nan, 0.4]))
    assert given.tolist() == [-np.inf, np.inf, 0.4]
    assert ranking(np.array([True, False, True]), given, ones(3)).auroc == pytest.approx([0.0])


def test_risk_scores_by_hand() -> None:
    found = metrics.agreement_with_scores(np.array([0.0, 0.5, 1.0]), np.array([0.1, 0.9, 0.6]))
    assert found["spearman"] == pytest.approx(0.5)
    assert found["kendall"] == pytest.approx(1 / 3)
    assert found["mae"] == pytest.approx((0.1 + 0.4 + 0.4) / 3)


def test_a_constant_score_agrees_with_nothing() -> None:
    found = metrics.agreement_with_scores(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    assert math.isnan(found["spearman"])
    assert found["mae"] == pytest.approx(0.5)


def test_mcnemar_by_hand() -> None:
    first, second = np.array([True] * 5 + [False]), np.array([False] * 5 + [True])
    # 5 against 1: 2 * (C(6,0) + C(6,1)) / 2^6.
    assert metrics.mcnemar(first, second) == pytest.approx(14 / 64)
    assert metrics.mcnemar(first, first) == 1.0


def test_holm_by_hand() -> None:
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_resamples_are_paired_seeded_and_whole() -> None:
    first = np.concatenate(list(metrics.resamples(50, 20, seed=3)))
    again = np.concatenate(list(metrics.resamples(50, 20, seed=3)))
    assert first.shape == (20, 50)
    assert (first == again).all()
    assert (first.sum(1) == 50).all()


def test_resamples_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BLOCK", 100)
    assert [len(block) for block in metrics.resamples(30, 8)] == [3, 3, 2]


def test_interval_holds_95_percent() -> None:
    assert metrics.interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert all(map(math.isnan, metrics.interval(np.array([np.nan]))))


def test_each_resample_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    truth, said = generator.integers(3, size=80), generator.integers(3, size=80)
    score = generator.integers(10, size=80) / 10
    seen = 0
    for weights in metrics.resamples(80, 25, seed=1):
        hot = counts(np.eye(3, dtype=bool)[truth], np.eye(3, dtype=bool)[said], weights)
        ranked = ranking(truth == 1, score, weights)
        for i, row in enumerate(weights):
            places = np.repeat(np.arange(80), row.astype(int))
            t, s = truth[places], said[places]
            assert hot.macro(hot.f1)[i] == pytest.approx(sk.f1_score(t, s, average="macro"))
            assert hot.macro(hot.precision)[i] == pytest.approx(sk.precision_score(t, s, average="macro"))
            assert hot.pooled.f1[i, 0] == pytest.approx(sk.f1_score(t, s, average="micro"))
            assert ranked.auroc[i] == pytest.approx(sk.roc_auc_score(t == 1, score[places]))
            assert ranked.average_precision[i] == pytest.approx(sk.average_precision_score(t == 1, score[places]))
            seen += 1
    assert seen == 25


def test_bootstrap_p_counts_the_rarer_side() -> None:
    assert metrics.two_sided_p(np.array([1.0] * 8 + [-1.0, 0.0])) == pytest.approx(2 * (1 + 2) / 11)
    assert metrics.two_sided_p(np.full(99, 0.3)) == pytest.approx(2 / 100)
    assert metrics.two_sided_p(np.zeros(99)) == 1
    assert math.isnan(metrics.two_sided_p(np.full(9, np.nan)))


def test_clustered_mcnemar_by_hand() -> None:
    single = metrics.clustered_mcnemar(np.array([1.0, 1, 1, 0, 1]), np.array([0.0, 0, 0, 1, 1]))
    assert single == pytest.approx(math.erfc(math.sqrt((3 - 1) ** 2 / 4 / 2)))
    shares = metrics.clustered_mcnemar(np.array([1, 1, 0, 1, 0.5]), np.array([0.0, 0, 1, 0, 0]))
    assert shares == pytest.approx(math.erfc(math.sqrt(2.5**2 / 4.25 / 2)))
    assert metrics.clustered_mcnemar(np.array([0.5, 1.0]), np.array([0.5, 1.0])) == 1


def test_runs_that_repeat_each_other_are_no_further_rows() -> None:
    first, second = np.array([1.0, 1, 1, 0, 1]), np.array([0.0, 0, 1, 1, 0])
    repeated = [np.mean([one, one, one], axis=0) for one in (first, second)]
    assert metrics.clustered_mcnemar(*repeated) == pytest.approx(metrics.clustered_mcnemar(first, second))


def test_cochran_by_hand() -> None:
    right = np.array([[1.0, 1, 0], [1, 0, 0], [1, 1, 1], [1, 0, 0]])
    statistic, freedom, p = metrics.cochran(right)
    assert statistic == pytest.approx(2 * (3 * (16 + 4 + 1) - 7**2) / (3 * 7 - 15))
    assert (freedom, p) == (2, pytest.approx(math.exp(-statistic / 2)))
    assert metrics.cochran(np.array([[0.5, 0], [1, 0.5]]))[0] == pytest.approx(0.5 / 0.25)


def test_cochran_of_two_models_is_mcnemar() -> None:
    first, second = np.array([1.0, 1, 1, 0, 1, 0]), np.array([0.0, 0, 1, 1, 0, 0])
    assert metrics.cochran(np.stack([first, second], 1))[2] == pytest.approx(metrics.clustered_mcnemar(first, second))


def test_equal_shares_are_no_difference() -> None:
    assert metrics.cochran(np.full((628, 3), 1 / 3))[:2] == (0.0, 2)
