"""Combinations of several teachers' answers: numbers by hand, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.teach.conftest import example

from tamis.config import TeachingConfig
from tamis.errors import DataError
from tamis.policy import Policy, load_policy
from tamis.records import TeacherSignal, TestSplit, ValidationSplit
from tamis.teach.dawid_skene import UNKNOWN, ErrorRates, fit_rates, posterior
from tamis.teach.ensemble import COMBINATIONS, Trust, combine, disagreement, reliability, trust_in

THREE = load_policy("default").only(["normal", "abuse", "fraud"])
MANY = THREE.model_copy(update={"kind": "multi_label"})
EVEN = Trust((1.0, 1.0, 1.0))
RATES = ErrorRates(
    np.array([0.5, 0.25, 0.25]),
    np.array(
        [
            [[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]],
            [[0.6, 0.2, 0.2], [0.3, 0.5, 0.2], [0.1, 0.1, 0.8]],
            [[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]],
        ]
    ),
)


def told(row: str, *shares: float, outcome: str = "ok", **changes: object) -> TeacherSignal:
    probabilities = dict(zip(THREE.ids, shares, strict=True)) if shares else {}
    settings = {"probabilities": probabilities, "known_mass": sum(shares), "prompt_tokens": 10, "cost": 0.5}
    settings |= {"method": "logprobs"} | changes
    return TeacherSignal(row, "t", "s", outcome=outcome, **settings)  # type: ignore[arg-type]


def one(method: str, *signals: TeacherSignal, trust: Trust = EVEN, policy: Policy = THREE) -> TeacherSignal:
    return combine([{signal.example_id: signal} for signal in signals], trust, method, policy, "e")[
        signals[0].example_id
    ]


def shares(method: str, *signals: TeacherSignal, trust: Trust = EVEN, policy: Policy = THREE) -> list[float]:
    return [one(method, *signals, trust=trust, policy=policy).probabilities[name] for name in policy.ids]


def test_every_combination_of_a_recipe_is_there() -> None:
    assert set(COMBINATIONS) == set(TeachingConfig.model_fields["combine"].annotation.__args__)  # type: ignore[union-attr]


def test_mean_by_hand() -> None:
    # The second answer is normalised first: (0.2, 0.2, 0) is (0.5, 0.5, 0).
    signals = told("a", 0.8, 0.1, 0.1), told("a", 0.2, 0.2, 0.0)
    assert shares("mean", *signals) == pytest.approx([0.65, 0.3, 0.05])
    assert shares("mean", *signals, trust=Trust((3.0, 1.0))) == pytest.approx([0.725, 0.2, 0.075])
    assert shares("mean", *signals, trust=Trust((0.0, 0.0))) == pytest.approx([0.65, 0.3, 0.05])


def test_confidence_by_hand() -> None:
    # Even odds over two of three: entropy ln 2 / ln 3, so confidence 1 - 0.63093; a sure answer has confidence 1.
    unsure = 1 - math.log(2) / math.log(3)
    signals = told("a", 1.0, 0.0, 0.0), told("a", 0.0, 0.5, 0.5)
    expected = [1 / (1 + unsure), *[0.5 * unsure / (1 + unsure)] * 2]
    assert shares("confidence", *signals) == pytest.approx(expected)
    halved = [0.5 / (0.5 + unsure), *[0.5 * unsure / (0.5 + unsure)] * 2]
    assert shares("confidence", *signals, trust=Trust((0.5, 1.0))) == pytest.approx(halved)


def test_majority_by_hand() -> None:
    votes = told("a", 0.5, 0.4, 0.1), told("a", 0.6, 0.3, 0.1), told("a", 0.0, 0.2, 0.8)
    assert shares("majority", *votes) == pytest.approx([2 / 3, 0, 1 / 3])


def test_a_tie_is_divided_as_the_mean_probability_is() -> None:
    # One vote each for normal and fraud, whose means are 0.3 and 0.5: all of the mass, in the ratio 3 to 5.
    assert shares("majority", told("a", 0.5, 0.3, 0.2), told("a", 0.1, 0.1, 0.8)) == pytest.approx([3 / 8, 0, 5 / 8])


def test_dawid_skene_by_hand() -> None:
    # Says normal and fraud: 0.5 x 0.8 x 0.2, 0.25 x 0.1 x 0.2, 0.25 x 0.2 x 0.8 = 0.08, 0.005, 0.04.
    answers = told("a", 0.9, 0.1, 0.0), told("a", 0.2, 0.2, 0.6), told("a", outcome="refused")
    assert shares("dawid_skene", *answers, trust=Trust((1, 1, 1), RATES)) == pytest.approx([0.64, 0.04, 0.32])


def test_fallback_takes_the_first_answer() -> None:
    answers = told("a", outcome="refused"), told("a", 0.1, 0.3, 0.1), told("a", 1.0, 0.0, 0.0)
    assert shares("fallback", *answers) == pytest.approx([0.2, 0.6, 0.2])


def test_error_rates_by_hand_where_all_truth_is_known() -> None:
    truth, said = np.array([0, 0, 0, 1]), np.array([[0], [0], [1], [1]])
    rates = fit_rates(said, np.full((4, 2), 0.5), truth, smoothing=1.0)
    assert rates.prior == pytest.approx([3.5 / 5, 1.5 / 5])
    assert rates.errors[0] == pytest.approx(np.array([[2.5 / 4, 1.5 / 4], [0.5 / 2, 1.5 / 2]]))


SAID = np.array(
    [[int(c) if c != "-" else UNKNOWN for c in row] for row in "000 001 011 111 112 122 222 220 2-2".split()]
)


@pytest.mark.parametrize(
    ("gold", "prior", "first", "last"),
    [
        (
            {},
            [0.224682, 0.330871, 0.444447],
            [[1, 0, 0], [0.328379, 0.671621, 0], [0, 0.250005, 0.749995]],
            [[0.494525, 0.505475, 0], [0, 0.664194, 0.335806], [0.249998, 0, 0.750002]],
        ),
        (
            {0: 0, 4: 2},
            [0.222217, 0.222228, 0.555556],
            [[1, 0, 0], [0.500013, 0.499987, 0], [0, 0.4, 0.6]],
            [[0.500013, 0.499987, 0], [0, 1, 0], [0.2, 0, 0.8]],
        ),
    ],
)
def test_error_rates_are_those_of_crowd_kit(gold: dict[int, int], prior: list, first: list, last: list) -> None:
    """Ten steps without smoothing, as crowd-kit 1.4.2 does them from the same majority, with and without gold."""
    votes = np.array([[(row == c).sum() / (row != UNKNOWN).sum() for c in range(3)] for row in SAID])
    truth = np.array([gold.get(i, UNKNOWN) for i in range(len(SAID))])
    rates = fit_rates(SAID, votes, truth, smoothing=0.0, iterations=10)
    assert rates.prior == pytest.approx(prior, abs=1e-5)
    assert rates.errors[0] == pytest.approx(np.array(first), abs=1e-5)
    assert rates.errors[2] == pytest.approx(np.array(last), abs=1e-5)


def test_error_rates_of_made_members_are_found_again() -> None:
    random = np.random.default_rng(0)
    truth = random.choice(3, 4000, p=RATES.prior)
    said = np.array([[random.choice(3, p=member[t]) for member in RATES.errors] for t in truth])
    gold = np.where(np.arange(4000) < 2000, truth, UNKNOWN)
    start = np.array([[(row == c).mean() for c in range(3)] for row in said])
    rates = fit_rates(said, start, gold)
    assert rates.errors == pytest.approx(RATES.errors, abs=0.06)
    right = (posterior(said, rates).argmax(axis=1) == truth).mean()
    assert right > max((said[:, m] == truth).mean() for m in range(3))


def test_gold_anchors_the_error_rates_and_never_its_own_answer() -> None:
    """Two members swap abuse and fraud; without gold nobody could tell, with it the posterior swaps them back."""
    swap = {"normal": (1.0, 0.0, 0.0), "abuse": (0.0, 0.0, 1.0), "fraud": (0.0, 1.0, 0.0)}
    gold = [example(f"{name}{i}", name) for i in range(10) for name in THREE.ids]
    new = example("新")
    member = {row.id: told(row.id, *swap[str(row.label)]) for row in gold} | {new.id: told(new.id, 0.0, 1.0, 0.0)}
    config = TeachingConfig(combine="dawid_skene")
    trust = trust_in([member, member], ValidationSplit(tuple(gold)), config, THREE)
    found = combine([member, member], trust, "dawid_skene", THREE, "e")
    assert found[new.id].probabilities["fraud"] > 0.9
    odd = gold[1]
    mistaken = member | {odd.id: told(odd.id, 1.0, 0.0, 0.0)}
    trust = trust_in([mistaken, mistaken], ValidationSplit(tuple(gold)), config, THREE)
    said = combine([mistaken, mistaken], trust, "dawid_skene", THREE, "e")[odd.id]
    assert said.probabilities["normal"] > 0.5, "the signal says what the answers say, not the label"


def test_reliability_by_hand() -> None:
    gold = [example(f"{name}{i}", name) for name in ("normal", "abuse") for i in range(4)]
    said = {row.id: told(row.id, 0.9, 0.1, 0.0) for row in gold}
    assert reliability(gold, said) == 0, "always normal is no better than chance"
    said |= {row.id: told(row.id, 0.1, 0.9, 0.0) for row in gold[4:7]}
    # Recall 1 and 3/4, mean 7/8, chance 1/2.
    assert reliability(gold, said) == pytest.approx(0.75)
    said[gold[7].id] = told(gold[7].id, outcome="refused")
    assert reliability(gold, said) == 1, "of the rows it answered"
    assert reliability(gold[:4], said) == 0, "one class says nothing"
    wrong = {row.id: told(row.id, *((0, 1, 0) if row.label == "normal" else (1, 0, 0))) for row in gold}
    assert reliability(gold, wrong) == 0, "never below"


def test_members_are_never_trusted_by_a_test_split() -> None:
    with pytest.raises(DataError, match="got TestSplit: never by a test"):
        trust_in([], TestSplit(()), TeachingConfig(), THREE)  # type: ignore[arg-type]


def test_disagreement_by_hand() -> None:
    sure, other = {"a": 1.0, "b": 0.0, "c": 0.0}, {"a": 0.0, "b": 1.0, "c": 0.0}
    assert disagreement([sure, other]) == pytest.approx(1)
    assert disagreement([sure, sure]) == disagreement([sure]) == 0
    # H(1/2, 1/2) = ln 2 and H(3/4, 1/4) = 0.5623: 1/2 and 1 meet in 3/4, so (0.5623 - ln 2 / 2) / ln 2.
    half = {"a": 0.5, "b": 0.5, "c": 0.0}
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert disagreement([sure, half]) == pytest.approx((entropy - math.log(2) / 2) / math.log(2))
    third = {"a": 0.0, "b": 0.0, "c": 1.0}
    assert disagreement([sure, other, third]) == pytest.approx(1)


def test_a_row_nobody_answered_stays_with_its_outcome() -> None:
    def outcome(*outcomes: str) -> TeacherSignal:
        return one("mean", *(told("a", outcome=name) for name in outcomes))

    assert outcome("failed", "unparsable", "refused").outcome == "refused"
    assert outcome("failed", "unparsable").outcome == "unparsable"
    lost = outcome("failed", "failed")
    assert (lost.outcome, dict(lost.probabilities), lost.risk) == ("failed", {}, None)


def test_tokens_and_cost_are_sums_and_the_name_is_the_ensembles() -> None:
    found = one(
        "mean", told("a", outcome="refused"), told("a", 0.5, 0.3, 0.1), told("a", 0.3, 0.4, 0.0, method="votes")
    )
    assert (found.teacher, found.method, found.outcome) == ("e", "mixed", "ok")
    assert (found.prompt_tokens, found.cost, found.known_mass) == (30, 1.5, pytest.approx(0.8))
    assert found.risk == pytest.approx(1 - found.probabilities["normal"])


def test_several_labels_a_text_are_combined_one_by_one() -> None:
    signals = told("a", 0.0, 0.9, 0.8), told("a", 0.0, 0.7, 0.2), told("a", 0.0, 0.2, 0.3)
    assert shares("mean", *signals, policy=MANY) == pytest.approx([0, 0.6, 1.3 / 3])
    assert shares("majority", *signals, policy=MANY) == pytest.approx([0, 2 / 3, 1 / 3])
    assert shares("fallback", *signals, policy=MANY) == pytest.approx([0, 0.9, 0.8])
    # Even odds on abuse count for nothing there, and the same answer counts fully on fraud.
    assert shares("confidence", told("a", 0, 0.5, 1), told("a", 0, 1, 1), policy=MANY) == pytest.approx([0, 1, 1])
    found = one("mean", told("a", 0, 1, 0.5), told("a", 0, 0, 0.5), policy=MANY)
    assert found.disagreement == pytest.approx(1), "the category most disputed"
    assert found.risk == pytest.approx(0.5)


ANSWER = st.one_of(
    st.sampled_from(["refused", "unparsable", "failed"]),
    st.tuples(*[st.floats(0.01, 1)] * 3).map(lambda row: tuple(p / sum(row) for p in row)),
)
ROWS = st.lists(ANSWER, min_size=3, max_size=3)


def signals(answers: list) -> list[TeacherSignal]:
    return [told("a", outcome=one) if isinstance(one, str) else told("a", *one) for one in answers]


@pytest.mark.parametrize("method", ["mean", "confidence", "majority", "dawid_skene"])
@given(answers=ROWS, order=st.permutations(range(3)))
def test_the_order_of_members_changes_nothing(method: str, answers: list, order: list[int]) -> None:
    made, weights = signals(answers), (0.9, 0.2, 0.5)
    moved = Trust(tuple(weights[i] for i in order), ErrorRates(RATES.prior, RATES.errors[order]))
    first = one(method, *made, trust=Trust(weights, RATES))
    second = one(method, *(made[i] for i in order), trust=moved)
    assert first.probabilities == pytest.approx(second.probabilities)
    assert first.disagreement == pytest.approx(second.disagreement)
    assert first.outcome == second.outcome


@pytest.mark.parametrize("method", sorted(COMBINATIONS))
@given(answers=ROWS)
def test_probabilities_sum_to_one_and_a_member_that_refuses_changes_none(method: str, answers: list) -> None:
    trust = Trust((0.9, 0.2, 0.5), RATES)
    found = one(method, *signals(answers), trust=trust)
    if found.outcome == "ok":
        assert sum(found.probabilities.values()) == pytest.approx(1)
        assert 0 <= (found.disagreement or 0) <= 1
    mute = ErrorRates(RATES.prior, np.concatenate([RATES.errors, np.full((1, 3, 3), 1 / 3)]))
    again = one(method, *signals([*answers, "refused"]), trust=Trust((*trust.weights, 0.7), mute))
    assert again.probabilities == found.probabilities
    assert again.disagreement == found.disagreement


def test_a_member_that_refuses_everything_changes_no_error_rate() -> None:
    gold = [example(f"{name}{i}", name) for i in range(6) for name in THREE.ids]
    good = {row.id: told(row.id, *(float(name == row.label) for name in THREE.ids)) for row in gold}
    poor = good | {row.id: told(row.id, 1.0, 0.0, 0.0) for row in gold[::2]}
    mute = {row.id: told(row.id, outcome="refused") for row in gold}
    config, split = TeachingConfig(combine="dawid_skene"), ValidationSplit(tuple(gold[:9]))
    with_it = combine([good, poor, mute], trust_in([good, poor, mute], split, config, THREE), "dawid_skene", THREE, "e")
    without = combine([good, poor], trust_in([good, poor], split, config, THREE), "dawid_skene", THREE, "e")
    assert {row: s.probabilities for row, s in with_it.items()} == {row: s.probabilities for row, s in without.items()}
