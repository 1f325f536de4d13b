"""From scores to an action: thresholds as a bundle carries them; `judge.thresholds` chooses them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tamis.policy import Actions, Policy
from tamis.records import Action, Scores

ThresholdMethod = Literal["policy", "costs", "target", "capacity", "hand"]
Figure = Literal["recall", "false_positive_rate", "reviewed"]
ANY = "any"
"""The language of texts whose own language has no thresholds."""

CAUTION: tuple[Action, ...] = ("pass", "review", "block")
"""Of several actions for one text the last of these is taken."""


@dataclass(frozen=True)
class Promise:
    """One figure that holds with a confidence, for texts like those of the calibration split.

    `value` is what is promised, `seen` the same figure in the `rows` it was proven on.
    """

    figure: Figure
    category: str
    language: str
    value: float
    confidence: float
    seen: float
    rows: int


class Thresholds(BaseModel):
    """Two thresholds by harmful category and language; none with the method `policy`, whose own act on the risk.

    With the method `hand` a person set them, and nothing is promised. A text is reviewed, or blocked, as soon as one
    category's probability reaches that category's threshold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: ThresholdMethod = "policy"
    by_category: dict[str, dict[str, Actions]] = {}
    promises: tuple[Promise, ...] = ()

    @property
    def need_language(self) -> bool:
        """Whether two languages are treated differently anywhere."""
        return any(len(cells) > 1 for cells in self.by_category.values())


@dataclass(frozen=True, slots=True)
class Limit:
    """A number in [0, 1] and the thresholds it is held against."""

    what: str
    value: float
    actions: Actions


def limits(scores: Scores, language: str, thresholds: Thresholds, policy: Policy) -> list[Limit]:
    """What decides about one text: the risk under the policy's own thresholds, else each harmful category."""
    if not thresholds.by_category:
        return [Limit("risk", scores.risk, policy.actions)]
    return [
        Limit(name, scores.probabilities.get(name, math.nan), cells.get(language, cells[ANY]))
        for name, cells in thresholds.by_category.items()
    ]


def decide(scores: Scores, language: str, thresholds: Thresholds, policy: Policy) -> tuple[Action, tuple[str, ...]]:
    """Action for one text and what called for it; no answer, or one that is no number, is reviewed, never passed."""
    if not scores.probabilities:
        return "review", ("no answer",)
    found = [(limit.what, limit.actions.of(limit.value)) for limit in limits(scores, language, thresholds, policy)]
    action = max((action for _, action in found), key=CAUTION.index)
    return action, tuple(f"{what} calls for {act}" for what, act in found if act == action != "pass")
