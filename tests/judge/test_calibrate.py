from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from tamis.calibration import Bools, Calibration, Floats, led, log_odds, scale, sigmoid
from tamis.errors import TamisError
from tamis.judge.calibrate import FITS, ROWS, best_temperature, choose_method, fit_calibration
from tamis.policy import Policy
from tamis.records import NO_ANSWER, CalibrationSplit, Example, Scores, TestSplit


def drawn(policy: Policy, temperature: float, rows: int = 4000) -> tuple[list[Scores], CalibrationSplit]:
    """Labels drawn from p, scores of p sharpened so that `temperature` undoes it."""
    generator = np.random.default_rng(0)
    honest = generator.dirichlet(np.full(len(policy.ids), 0.8), size=rows)
    labels = [policy.ids[generator.choice(len(policy.ids), p=row)] for row in honest]
    told = scale(honest, 1 / temperature, multi_label=False)
    scores = [policy.scores(dict(zip(policy.ids, row.tolist(), strict=True))) for row in told]
    examples = tuple(Example(str(i), f"text {i}", "en", "made", label=label) for i, label in enumerate(labels))
    return scores, CalibrationSplit(examples)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_recovers_a_known_temperature(small_policy: Policy, temperature: float) -> None:
    scores, split = drawn(small_policy, temperature)
    fitted = fit_calibration(scores, split, small_policy)
    assert fitted.method == "temperature"
    assert fitted.temperature == pytest.approx(temperature, rel=0.06)


def test_recovers_a_known_temperature_of_several_labels() -> None:
    generator = np.random.default_rng(1)
    honest = generator.uniform(0.02, 0.98, size=(3000, 3))
    truth = generator.random(honest.shape) < honest
    told = scale(honest, 1 / 2.0, multi_label=True)
    assert best_temperature(told, truth, multi_label=True) == pytest.approx(2.0, rel=0.06)


def test_scale_by_hand() -> None:
    # Square roots of .64 and .36 are .8 and .6.
    assert scale(np.array([0.64, 0.36]), 2.0, multi_label=False) == pytest.approx([0.8 / 1.4, 0.6 / 1.4])
    # Odds of 9 become 3 at T = 2.
    assert scale(np.array([0.9]), 2.0, multi_label=True) == pytest.approx([0.75])


def test_certain_answers_stay_finite() -> None:
    assert np.isfinite(scale(np.array([0.0, 1.0]), 0.1, multi_label=False)).all()
    assert np.isfinite(scale(np.array([0.0, 1.0]), 0.1, multi_label=True)).all()


def test_refuses_a_test_split(small_policy: Policy, examples: tuple[Example, ...]) -> None:
    with pytest.raises(TamisError, match="CalibrationSplit, got a TestSplit"):
        fit_calibration([NO_ANSWER] * len(examples), TestSplit(examples), small_policy)  # type: ignore[arg-type]


def test_refuses_another_number_of_scores(small_policy: Policy, examples: tuple[Example, ...]) -> None:
    with pytest.raises(TamisError, match="score for each of its"):
        fit_calibration([], CalibrationSplit(examples), small_policy)


def test_few_rows_leave_1_with_a_note(small_policy: Policy, caplog: pytest.LogCaptureFixture) -> None:
    scores, split = drawn(small_policy, 3.0, rows=19)
    assert fit_calibration(scores, split, small_policy) == Calibration()
    assert "19 calibration rows" in caplog.text


def test_rows_without_an_answer_are_left_out(small_policy: Policy) -> None:
    scores, split = drawn(small_policy, 2.0)
    longer = CalibrationSplit((*split.examples, *split.examples[:500]))
    fitted = fit_calibration([*scores, *[NO_ANSWER] * 500], longer, small_policy)
    assert fitted.temperature == pytest.approx(2.0, rel=0.06)


def test_applying_keeps_answers_and_silence(small_policy: Policy) -> None:
    score = small_policy.scores({"normal": 0.64, "gambling": 0.36}, ("bonus",))
    softer, silent = Calibration(temperature=2.0).apply([score, NO_ANSWER], small_policy)
    assert softer.probabilities == pytest.approx({"normal": 0.8 / 1.4, "gambling": 0.6 / 1.4})
    assert softer.risk == pytest.approx(0.6 / 1.4)
    assert softer.evidence == ("bonus",)
    assert silent is NO_ANSWER


def test_a_temperature_is_fitted_on_known_categories_alone(small_policy: Policy) -> None:
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    generator = np.random.default_rng(0)
    honest = generator.uniform(0.05, 0.95, size=(4000, 1))
    holds = generator.random((4000, 1)) < honest
    told = scale(honest, 1 / 2.0, multi_label=True)
    scores = [policy.scores({"normal": 0.5, "gambling": float(p), "fraud": 0.999}) for p in told[:, 0]]
    rows = [
        Example(str(i), str(i), "en", "made", labels=("gambling",) if one else (), unknown=("normal", "fraud"))
        for i, one in enumerate(holds[:, 0])
    ]
    assert fit_calibration(scores, CalibrationSplit(tuple(rows)), policy).temperature == pytest.approx(2.0, rel=0.06)


def bent(rows: int, shape: str) -> tuple[Floats, Bools]:
    """Two categories; what is told is a line in log-odds (Platt's case), or stairs, away from the truth."""
    generator = np.random.default_rng(3)
    told = generator.uniform(0.02, 0.98, size=rows)
    meant = sigmoid(0.8 * log_odds(told) + 1.5) if shape == "line" else np.where(told < 0.6, 0.1, 0.55)
    truth = generator.random(rows) < meant
    return np.stack([1 - told, told], 1), np.stack([~truth, truth], 1)


@pytest.mark.parametrize(
    ("rows", "shape", "method"),
    [(50, "line", "temperature"), (600, "line", "platt"), (600, "stairs", "platt"), (3000, "stairs", "isotonic")],
)
def test_the_method_follows_rows_and_shape(rows: int, shape: str, method: str) -> None:
    told, truth = bent(rows, shape)
    rarest = truth.sum(0).min()
    assert [name for name, needed in ROWS.items() if rarest >= needed][-1] == method
    assert choose_method(told, truth, ("a", "b"), multi_label=True) == method


@pytest.mark.parametrize("shape", ["line", "stairs"])
def test_a_bent_category_is_straightened(small_policy: Policy, shape: str) -> None:
    policy = small_policy.only(["normal", "fraud"])
    told, truth = bent(4000, shape)
    examples = tuple(Example(str(i), "", "zh", "made", label=policy.ids[int(yes)]) for i, yes in enumerate(truth[:, 1]))
    scores = [policy.scores({"normal": float(a), "fraud": float(b)}) for a, b in told]
    fitted = fit_calibration(scores, CalibrationSplit(examples), policy)
    assert fitted.method == {"line": "platt", "stairs": "isotonic"}[shape]
    meant = np.array([score.probabilities["fraud"] for score in fitted.apply(scores, policy)])
    for low, high in ((0, 0.3), (0.3, 0.6), (0.6, 1)):
        part = (told[:, 1] >= low) & (told[:, 1] < high)
        assert meant[part].mean() == pytest.approx(truth[part, 1].mean(), abs=0.05)
    assert Calibration.from_json(json.loads(json.dumps(asdict(fitted)))) == fitted


def test_smoothed_answers_are_taken_apart_without_changing_one(small_policy: Policy) -> None:
    generator = np.random.default_rng(5)
    sure = generator.random(600) < 0.7
    top = np.where(sure, generator.uniform(0.93, 0.95, 600), generator.uniform(0.55, 0.93, 600))
    second = (1 - top) * 0.8
    right = generator.random(600) < np.where(sure, 0.99, 0.6)
    told = np.stack([top, second, 1 - top - second], 1)
    truth = np.eye(3, dtype=bool)[np.where(right, 0, 1)]
    assert choose_method(told, truth, small_policy.ids, multi_label=False) == "confidence"
    meant = FITS["confidence"](told, truth, small_policy.ids, False).meant(told, small_policy.ids, multi_label=False)
    np.testing.assert_allclose(meant.sum(1), 1)
    np.testing.assert_array_equal(meant.argmax(1), told.argmax(1))
    assert meant[sure, 0].mean() == pytest.approx(0.99, abs=0.02)
    assert meant[~sure, 0].mean() == pytest.approx(0.6, abs=0.05)
    by_temperature = FITS["temperature"](told, truth, small_policy.ids, False)
    assert by_temperature.meant(told, small_policy.ids, multi_label=False)[~sure, 0].mean() > 0.7


def test_the_leader_by_hand() -> None:
    told = np.array([[0.5, 0.3, 0.2], [0.8, 0.1, 0.1], [0.0, 0.0, 1.0]])
    halved = led(
        told, ((log_odds(np.array(0.5)), log_odds(np.array(0.8))), (log_odds(np.array(0.4)), log_odds(np.array(0.9))))
    )
    np.testing.assert_allclose(halved[0], [0.4, 0.36, 0.24])
    np.testing.assert_allclose(halved[1], [0.9, 0.05, 0.05])
    np.testing.assert_allclose(halved[2], [0.05, 0.05, 0.9])


def test_a_leader_never_loses_its_lead() -> None:
    meant = led(np.array([[0.5, 0.4, 0.1]]), ((-1.0, 1.0), (-3.0, -3.0)))
    assert meant.argmax() == 0
    np.testing.assert_allclose(meant, [[0.8 / 1.8, 0.8 / 1.8, 0.2 / 1.8]], rtol=1e-9)


def test_a_line_by_hand() -> None:
    # Log-odds of 0.5 are 0; the line gives 1 there, and sigmoid(1) is 0.7311.
    curve = ((-30.0, 30.0), (-29.0, 31.0))
    found = Calibration("platt", curves={"a": curve}).meant(np.array([[0.5], [0.0], [1.0]]), ["a"], multi_label=True)
    assert found[0, 0] == pytest.approx(0.7310586)
    assert np.isfinite(found).all()
