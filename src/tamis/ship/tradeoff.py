"""How much traffic to show to the teacher: its share against quality and cost, on calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tamis.calibration import categories_of, require_calibration, traffic_shares
from tamis.config import CostsConfig
from tamis.deciding import Thresholds
from tamis.policy import Policy
from tamis.records import Action, CalibrationSplit, Scores
from tamis.ship.cascade import Step, step

BANDS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, float("inf"))
"""Bands of the student that are tried, in log-odds; with the last one the teacher sees everything."""


@dataclass(frozen=True)
class Costs:
    """What mistakes and reviewing cost, and one text shown to the teacher in the same currency."""

    mistakes: CostsConfig
    teacher: float


@dataclass(frozen=True)
class Point:
    """What comes of one band: shares of traffic, of harmful texts (`missed`), of harmless ones (`false_blocks`).

    `cost` is that of one text on average.
    """

    band: float
    teacher_share: float
    reviewed: float
    missed: float
    false_blocks: float
    cost: float


def curve(
    student: Sequence[Scores],
    teacher: Sequence[Scores],
    split: CalibrationSplit,
    policy: Policy,
    thresholds: Thresholds,
    costs: Costs,
    prevalence: float | None = None,
) -> list[Point]:
    """One point a band, from the student alone to the teacher for everything.

    Args:
        student: calibrated scores of every example of `split`, in its order.
        teacher: the same of the tier above it; `NO_ANSWER` where it has none, which is then reviewed.
        split: whose human labels judge.
        policy: the categories.
        thresholds: both are held against.
        costs: of mistakes, reviewers and the teacher.
        prevalence: share of traffic that breaks the policy; that of the split without it.

    Raises:
        DataError: a split of another type, or another number of scores than rows.
    """
    for scores in (student, teacher):
        require_calibration(scores, split)
    rows = [row for row in zip(student, teacher, split.examples, strict=True) if row[2].is_labelled]
    harmful = [policy.benign not in categories_of(example, policy) for _, _, example in rows]
    harm, peace = traffic_shares(sum(harmful), len(rows) - sum(harmful), prevalence)
    weights = [harm if bad else peace for bad in harmful]
    upper = [step("teacher", told, example.lang, thresholds, policy, 0.0) for _, told, example in rows]
    points = []
    for band in BANDS:
        lower = [step("student", own, example.lang, thresholds, policy, band) for own, _, example in rows]
        points.append(_point(band, list(zip(lower, upper, strict=True)), harmful, weights, costs))
    return points


def _point(
    band: float, steps: Sequence[tuple[Step, Step]], harmful: Sequence[bool], weights: Sequence[float], costs: Costs
) -> Point:
    asked, reviewed, missed, blocked = 0.0, 0.0, 0.0, 0.0
    for (lower, upper), bad, weight in zip(steps, harmful, weights, strict=True):
        deciding = lower if lower.sure else upper
        action: Action = deciding.action if deciding.sure else "review"
        asked += weight * (not lower.sure)
        reviewed += weight * (action == "review")
        missed += weight * (bad and action == "pass")
        blocked += weight * (not bad and action == "block")
    price = costs.mistakes
    cost = price.miss * missed + price.false_block * blocked + price.minute * price.minutes * reviewed
    bad_share = sum(weight for weight, bad in zip(weights, harmful, strict=True) if bad)
    good_share = sum(weights) - bad_share
    return Point(
        band, asked, reviewed, missed / (bad_share or 1), blocked / (good_share or 1), cost + costs.teacher * asked
    )


def cheapest(points: Sequence[Point]) -> Point:
    """The point of the least cost; of equal ones the one that asks the teacher least."""
    return min(points, key=lambda point: (round(point.cost, 9), point.teacher_share))
