from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from tamis.calibration import Floats
from tamis.config import ThresholdsConfig
from tamis.deciding import ANY, Thresholds, decide
from tamis.errors import TamisError
from tamis.judge.thresholds import (
    GRID,
    block_threshold,
    choose_thresholds,
    halves,
    labels_needed,
    require_labels,
    review_threshold,
)
from tamis.policy import Actions, Policy
from tamis.records import NO_ANSWER, CalibrationSplit, Example, Scores, TestSplit

LEVEL = 0.05


def drawn(
    policy: Policy, rows: int, seed: int = 0, languages: tuple[str, ...] = ("zh",)
) -> tuple[list[Scores], CalibrationSplit]:
    """Honest probabilities: each row's label is drawn from its own."""
    generator = np.random.default_rng(seed)
    honest = generator.dirichlet(np.full(len(policy.ids), 0.4), size=rows)
    labels = [policy.ids[generator.choice(len(policy.ids), p=row)] for row in honest]
    scores = [policy.scores(dict(zip(policy.ids, row.tolist(), strict=True))) for row in honest]
    return scores, CalibrationSplit(
        tuple(
            Example(f"{i:016x}", f"text {i}", languages[i % len(languages)], "made", label=label)
            for i, label in enumerate(labels)
        )
    )


def config(**settings: object) -> ThresholdsConfig:
    return ThresholdsConfig.model_validate(settings)


TARGET = {"method": "target", "target": {"recall": 0.9, "false_positive_rate": 0.05}}
COSTS = {"method": "costs"}
CAPACITY = {"method": "capacity", "capacity": 0.2}


def test_labels_needed_by_hand() -> None:
    # 0.95^58 = 0.0510 and 0.95^59 = 0.0485.
    assert labels_needed(0.05, 0.05) == 59
    assert labels_needed(0.05, 0.01) == 299
    assert labels_needed(0.05, 0.05, seen=0.02) > 59


def test_a_review_threshold_by_hand() -> None:
    """Of 93 rows one may be missed at a recall of 0.95 (p = 0.0498 for 93, 0.0518 for 92), and no second one."""
    own = np.array([0.2, 0.4, *[0.9] * 91])
    assert 0.2 < GRID[review_threshold(own, 0.05, LEVEL)] <= 0.4
    assert GRID[review_threshold(own[1:], 0.05, LEVEL)] <= 0.4
    assert review_threshold(np.full(58, 0.9), 0.05, LEVEL) == -1
    assert review_threshold(np.full(59, 0.9), 0.05, LEVEL) >= 0


def test_a_block_threshold_by_hand() -> None:
    harmless = np.array([0.8, 0.6, *[0.1] * 91])
    assert 0.6 < GRID[block_threshold(harmless, 0.05, LEVEL)] <= 0.8
    assert block_threshold(np.full(58, 0.1), 0.05, LEVEL) == -1


@pytest.mark.parametrize(("rows", "promised"), [(100, 0.9), (400, 0.9), (300, 0.95)])
def test_a_promised_recall_holds_on_fresh_data(rows: int, promised: float) -> None:
    generator = np.random.default_rng(rows)
    chosen = [GRID[review_threshold(own, 1 - promised, LEVEL)] for own in generator.beta(3, 1.5, size=(200, rows))]
    recall = 1 - beta.cdf(chosen, 3, 1.5)
    assert (recall >= promised).mean() >= 0.95
    # A promise kept by reviewing everything would be worth nothing.
    assert np.median(recall) < promised + 0.08


def test_a_promised_false_positive_rate_holds_on_fresh_data() -> None:
    generator = np.random.default_rng(0)
    chosen = [GRID[block_threshold(one, 0.05, LEVEL)] for one in generator.beta(1, 4, size=(200, 400))]
    rates = 1 - beta.cdf(chosen, 1, 4)
    assert (rates <= 0.05).mean() >= 0.95
    assert np.median(rates) > 0.01


def test_a_promised_capacity_holds_on_fresh_data(small_policy: Policy) -> None:
    fresh, _ = drawn(small_policy, 20_000, seed=1000)
    largest = np.array([max(p for n, p in s.probabilities.items() if n != small_policy.benign) for s in fresh])
    kept = 0
    for seed in range(40):
        scores, split = drawn(small_policy, 400, seed)
        found = choose_thresholds(scores, split, small_policy, config(**CAPACITY))
        actions = found.by_category["fraud"][ANY]
        assert actions.block == small_policy.actions.block
        kept += ((largest >= actions.review) & (largest < actions.block)).mean() <= 0.2
    assert kept >= 38


@given(
    probabilities=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    low=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    high=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_higher_thresholds_never_act_more(
    probabilities: list[float], low: tuple[float, float], high: tuple[float, float], small_policy: Policy
) -> None:
    scores = small_policy.scores(dict(zip(small_policy.ids, probabilities, strict=True)))
    reviews, blocks = sorted((min(low), min(high))), sorted((max(low), max(high)))
    strength = {"pass": 0, "review": 1, "block": 2}
    acts = []
    for review, block in zip(reviews, blocks, strict=True):
        cells = {name: {ANY: Actions(review=review, block=block)} for name in small_policy.ids[1:]}
        acts.append(decide(scores, "zh", Thresholds(method="costs", by_category=cells), small_policy)[0])
    assert strength[acts[1]] <= strength[acts[0]]


def by_hand_cost(own: Floats, harmless: Floats, review: float, block: float) -> float:
    read = ((own >= review) & (own < block)).sum() + ((harmless >= review) & (harmless < block)).sum()
    return float(20 * (own < review).sum() + 10 * (harmless >= block).sum() + 0.5 * read)


def test_no_pair_of_the_grid_costs_less(small_policy: Policy) -> None:
    scores, split = drawn(small_policy, 400)
    found = choose_thresholds(scores, split, small_policy, config(**COSTS)).by_category["fraud"][ANY]
    told = np.array([s.probabilities["fraud"] for s in scores])
    own = told[[e.label == "fraud" for e in split.examples]]
    harmless = told[[e.label == small_policy.benign for e in split.examples]]
    cost = by_hand_cost(own, harmless, found.review, found.block)
    for i in range(0, len(GRID), 6):
        for j in range(i, len(GRID), 6):
            assert cost <= by_hand_cost(own, harmless, GRID[i], GRID[j])


def test_dearer_misses_lower_the_review_threshold_and_rare_harm_raises_it(small_policy: Policy) -> None:
    scores, split = drawn(small_policy, 600)
    plain, dear, rare = (
        choose_thresholds(scores, split, small_policy, config(method="costs", **more)).by_category["fraud"][ANY]
        for more in ({"costs": {"miss": 2.0}}, {"costs": {"miss": 500.0}}, {"prevalence": 0.001})
    )
    assert dear.review < plain.review < rare.review


def test_a_language_with_rows_enough_has_its_own_and_an_unknown_one_the_cautious(small_policy: Policy) -> None:
    scores, split = drawn(small_policy, 1200, languages=("zh", "en"))
    dull = [
        small_policy.scores({n: 0.6 * p + 0.4 / 3 for n, p in s.probabilities.items()}) if i % 2 else s
        for i, s in enumerate(scores)
    ]
    found = choose_thresholds(dull, split, small_policy, config(**TARGET))
    cells = found.by_category["fraud"]
    assert set(cells) == {"zh", "en", ANY}
    assert cells["zh"].review < cells["en"].review
    assert cells[ANY].review == cells["zh"].review
    assert cells[ANY].block >= max(cells["zh"].block, cells["en"].block)
    assert {p.language for p in found.promises if p.category == "fraud"} == {"zh", "en"}
    assert all(p.seen >= p.value for p in found.promises if p.figure == "recall")
    few = choose_thresholds(dull[:250], CalibrationSplit(split.examples[:250]), small_policy, config(**TARGET))
    assert set(few.by_category["fraud"]) == {ANY}


def test_what_too_few_labels_do_not_allow_is_refused_with_their_number(small_policy: Policy) -> None:
    scores, split = drawn(small_policy, 60)
    wanted = config(method="target", target={"recall": 0.95})
    with pytest.raises(TamisError, match=r"gambling has \d+ and needs 59"):
        choose_thresholds(scores, split, small_policy, wanted)
    with pytest.raises(TamisError, match=r"gambling has \d+ and needs 59, fraud has \d+ and needs 59"):
        require_labels(split, small_policy, wanted)
    with pytest.raises(TamisError, match=r"normal has \d+ and needs 299"):
        require_labels(split, small_policy, config(method="target", target={"false_positive_rate": 0.01}))
    with pytest.raises(TamisError, match=r"harmful has \d+ and needs 50"):
        choose_thresholds(scores[:20], CalibrationSplit(split.examples[:20]), small_policy, config(**COSTS))
    with pytest.raises(TamisError, match=r"needs \d+"):
        choose_thresholds(scores, split, small_policy, config(method="capacity", capacity=0.01))
    require_labels(split, small_policy, config())


def test_what_no_number_of_labels_allows_is_said(small_policy: Policy) -> None:
    scores, split = drawn(small_policy, 600)
    blind = [small_policy.scores({"normal": 1.0, "gambling": 0.0, "fraud": 0.0}) for _ in scores]
    with pytest.raises(TamisError, match="asks of gambling, however many labels"):
        choose_thresholds(blind, split, small_policy, config(method="target", target={"recall": 0.9}))


@pytest.mark.parametrize("settings", [TARGET, COSTS, CAPACITY, {}])
def test_nothing_is_chosen_on_a_test_split(small_policy: Policy, settings: dict) -> None:
    scores, split = drawn(small_policy, 30)
    with pytest.raises(TamisError, match="CalibrationSplit, got a TestSplit"):
        choose_thresholds(scores, TestSplit(split.examples), small_policy, config(**settings))  # type: ignore[arg-type]


def test_halves_share_no_row_and_lose_none(small_policy: Policy) -> None:
    _, split = drawn(small_policy, 50)
    first, second = halves(split, config(**COSTS))
    assert {e.id for e in first.examples} | {e.id for e in second.examples} == {e.id for e in split.examples}
    assert len(first) == len(second) == 25
    assert halves(split, config())[0] == split


def test_no_answer_and_no_number_are_reviewed(small_policy: Policy) -> None:
    cells = {name: {ANY: Actions(review=0.5, block=0.9)} for name in small_policy.ids[1:]}
    chosen = Thresholds(method="costs", by_category=cells)
    for thresholds in (Thresholds(), chosen):
        assert decide(NO_ANSWER, "zh", thresholds, small_policy) == ("review", ("no answer",))
        strange = Scores({"normal": 0.9, "gambling": float("nan"), "fraud": 0.1}, float("nan"), 1.0)
        assert decide(strange, "zh", thresholds, small_policy)[0] == "review"
    sure = small_policy.scores({"normal": 0.01, "gambling": 0.95, "fraud": 0.04})
    assert decide(sure, "zh", chosen, small_policy) == ("block", ("gambling calls for block",))
    assert decide(sure, "zh", Thresholds(), small_policy) == ("block", ("risk calls for block",))


@pytest.mark.parametrize("settings", [{"method": "target"}, {"method": "capacity"}])
def test_a_method_without_its_numbers_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"promises nothing|needs `capacity`"):
        config(**settings)
