"""How probabilities are made to mean what they say, as a bundle carries it; `judge.calibrate` fits it. Numpy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.policy import Policy
from tamis.records import CalibrationSplit, Example, Scorer, Scores

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
CalibrationMethod = Literal["temperature", "platt", "isotonic"]
Curve = tuple[tuple[float, ...], tuple[float, ...]]
TINY = 1e-12
BINS = 15


@dataclass(frozen=True)
class Calibration:
    """A temperature, or a curve a category from log-odds told to log-odds meant.

    Curves are linear between their knots and level beyond them: two knots at the ends are a line (Platt), many are a
    staircase's corners (isotonic).
    """

    method: CalibrationMethod = "temperature"
    temperature: float = 1.0
    curves: Mapping[str, Curve] = field(default_factory=dict)

    def apply(self, scores: Sequence[Scores], policy: Policy) -> list[Scores]:
        """Calibrated scores; a missing answer stays missing."""
        return [self._one(score, policy) if score.probabilities else score for score in scores]

    def over(self, scorer: Scorer, policy: Policy) -> Scorer:
        """The scorer calibrated."""
        return lambda texts: self.apply(scorer(texts), policy)

    def _one(self, score: Scores, policy: Policy) -> Scores:
        names = list(score.probabilities)
        told = np.array([score.probabilities[name] for name in names])
        meant = self.meant(told, names, multi_label=policy.kind == "multi_label")
        return policy.scores(dict(zip(names, meant.tolist(), strict=True)), score.evidence)

    def meant(self, told: Floats, names: Sequence[str], *, multi_label: bool) -> Floats:
        """Probabilities (..., categories) calibrated, in the same shape; `names` are those of the last axis."""
        if not self.curves:
            return scale(told, self.temperature, multi_label=multi_label)
        odds = log_odds(told)
        bent = np.stack([np.interp(odds[..., i], *self.curves[name]) for i, name in enumerate(names)], -1)
        probability = sigmoid(bent)
        return probability if multi_label else probability / probability.sum(-1, keepdims=True)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` and JSON made of one."""
        curves = {name: (tuple(xs), tuple(ys)) for name, (xs, ys) in tree["curves"].items()}
        return cls(tree["method"], tree["temperature"], curves)


def scale(probability: Floats, temperature: float, *, multi_label: bool) -> Floats:
    """p^(1/T) renormalised over the last axis, or sigmoid(logit(p) / T) for multi-label."""
    clipped = np.clip(probability, TINY, 1 - TINY if multi_label else None)
    powered = np.exp(np.log(clipped) / temperature)
    if multi_label:
        return powered / (powered + np.exp(np.log1p(-clipped) / temperature))
    return powered / powered.sum(-1, keepdims=True)


def log_odds(probability: Floats) -> Floats:
    """log(p / (1 - p)), finite for 0 and 1 too."""
    clipped = np.clip(probability, TINY, 1 - TINY)
    return np.log(clipped) - np.log1p(-clipped)


def sigmoid(odds: Floats) -> Floats:
    """The probability of log-odds."""
    return np.exp(-np.logaddexp(0, -odds))


def require_calibration(scores: Sequence[Scores], split: CalibrationSplit) -> None:
    """See that something is chosen on a calibration split, with a score for each row.

    Raises:
        DataError: a split of another type, or another number of scores than rows.
    """
    if not isinstance(split, CalibrationSplit):
        raise DataError(
            f"probabilities and thresholds are fitted on a CalibrationSplit, got a {type(split).__name__}:"
            " pass that split"
        )
    if len(scores) != len(split):
        raise DataError(f"calibration needs a score for each of its {len(split)} rows, got {len(scores)}")


def judged_rows(scores: Sequence[Scores], split: CalibrationSplit) -> list[tuple[Scores, Example]]:
    """The rows of a calibration split that have an answer and a person's category.

    Raises:
        DataError: a split of another type, or another number of scores than rows.
    """
    require_calibration(scores, split)
    return [(s, e) for s, e in zip(scores, split.examples, strict=True) if s.probabilities and e.is_labelled]


def categories_of(example: Example, policy: Policy) -> tuple[str, ...]:
    """The categories that hold of a labelled example."""
    return tuple(name for name, holds in policy.verdicts(example).items() if holds)


def traffic_shares(harmful: int, harmless: int, prevalence: float | None) -> tuple[float, float]:
    """The share of traffic that one harmful and one harmless row stand for.

    Args:
        harmful: rows that break the policy.
        harmless: rows that do not.
        prevalence: share of traffic that breaks it; that of the rows without it.
    """
    share = prevalence if prevalence is not None else harmful / max(harmful + harmless, 1)
    return share / max(harmful, 1), (1 - share) / max(harmless, 1)


def ratio(top: Floats, bottom: Floats, empty: float = 0.0) -> Floats:
    """`top / bottom`, and `empty` where `bottom` is 0."""
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, empty), where=bottom > 0)


def bin_of(confidence: Floats, bins: int = BINS) -> NDArray[np.int64]:
    """Index of the equal-width bin of each confidence in [0, 1]; a bin holds its upper edge."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def expected_calibration_error(confidence: Floats, correct: Bools, weights: Floats, bins: int = BINS) -> Floats:
    """Mean over `bins` equal-width bins of |accuracy - confidence|, weighted by rows (Guo et al., 2017, eq. 3)."""
    inside = np.eye(bins)[bin_of(confidence, bins)]
    gaps = np.abs((weights * (correct - confidence)) @ inside).sum(1)
    return ratio(gaps, weights.sum(1), empty=np.nan)


def reliability(confidence: Floats, correct: Bools, bins: int = BINS) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and rows of each bin that holds a row."""
    where = bin_of(confidence, bins)
    return [
        (float(confidence[where == i].mean()), float(correct[where == i].mean()), int((where == i).sum()))
        for i in np.unique(where)
    ]
