"""Temperature: one number that makes a model's probabilities mean what they say, without changing any answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.policy import Policy
from tamis.records import CalibrationSplit, Scores

log = logging.getLogger(__name__)

FEWEST = 20
RANGE = (0.1, 10.0)
TINY = 1e-12


def fit_temperature(scores: Sequence[Scores], split: CalibrationSplit, policy: Policy) -> float:
    """Temperature T that minimises the negative log-likelihood of the human verdicts under p^(1/T), renormalised.

    For probabilities of a softmax this is the temperature scaling of Guo et al. (2017); multi-label policies scale
    each category's log-odds.

    Args:
        scores: of every example of `split`, in its order.
        split: whose gold judges; rows without an answer are left out.
        policy: the categories.

    Returns:
        T in [0.1, 10]; 1 when fewer than 20 rows can tell.

    Raises:
        DataError: a split of another type, or another number of scores than rows.
    """
    if not isinstance(split, CalibrationSplit):
        raise DataError(f"a temperature is fitted on a CalibrationSplit, got a {type(split).__name__}: pass that split")
    if len(scores) != len(split):
        raise DataError(f"calibration needs a score for each of its {len(split)} rows, got {len(scores)}")
    verdicts = [policy.verdicts(example) for example in split.examples]
    rows = [(s, judged) for s, judged in zip(scores, verdicts, strict=True) if s.probabilities and judged]
    if len(rows) < FEWEST:
        log.warning("temperature stays 1: %d calibration rows have a label, %d are needed", len(rows), FEWEST)
        return 1.0
    probability = np.array([[s.probabilities.get(name, 0.0) for name in policy.ids] for s, _ in rows])
    truth = np.array([[judged.get(name, False) for name in policy.ids] for _, judged in rows])
    if policy.kind != "multi_label":
        return best_temperature(probability, truth, multi_label=False)
    known = np.array([[name in judged for name in policy.ids] for _, judged in rows])
    return best_temperature(probability[known], truth[known], multi_label=True)


def best_temperature(probability: NDArray[np.float64], truth: NDArray[np.bool_], *, multi_label: bool) -> float:
    """The T in [0.1, 10] of the least negative log-likelihood; both arrays are (rows, categories), or (claims,)."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        scaled = scale(probability, float(np.exp(log_temperature)), multi_label=multi_label)
        likelihood = np.where(truth, scaled, 1 - scaled) if multi_label else scaled[truth]
        return float(-np.log(np.clip(likelihood, TINY, 1)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def scale(probability: NDArray[np.float64], temperature: float, *, multi_label: bool) -> NDArray[np.float64]:
    """p^(1/T) renormalised over the last axis, or sigmoid(logit(p) / T) for multi-label."""
    clipped = np.clip(probability, TINY, 1 - TINY if multi_label else None)
    powered = np.exp(np.log(clipped) / temperature)
    if multi_label:
        return powered / (powered + np.exp(np.log1p(-clipped) / temperature))
    return powered / powered.sum(-1, keepdims=True)


def apply_temperature(scores: Sequence[Scores], temperature: float, policy: Policy) -> list[Scores]:
    """The scores at a temperature; a missing answer stays missing."""
    return [_scaled(score, temperature, policy) if score.probabilities else score for score in scores]


def _scaled(score: Scores, temperature: float, policy: Policy) -> Scores:
    names = list(score.probabilities)
    probability = np.array([score.probabilities[name] for name in names])
    scaled = scale(probability, temperature, multi_label=policy.kind == "multi_label")
    return policy.scores(dict(zip(names, scaled.tolist(), strict=True)), score.evidence)
