"""A student's scores, and the one number that chooses its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, recall_score

from tamis.errors import TrainingError
from tamis.learn.student import Student
from tamis.network import logits_of
from tamis.policy import HOLDS, Policy
from tamis.records import Example, Scorer, Scores, ValidationSplit
from tamis.windows import Array, probabilities_of, scores_of, worst

SMALLEST = 1e-7


@dataclass(frozen=True)
class Quality:
    """A student on the validation split of `rows` rows.

    Either the figures of human labels, `macro_f1` and `worst_recall`, or `score`, Spearman's correlation with human
    risk scores; the others are None.
    """

    macro_f1: float | None
    worst_recall: float | None
    loss: float
    above_floor: bool
    rows: int
    score: float | None = None

    def beats(self, other: Quality) -> bool:
        """Whether this is the better checkpoint: first the floor on the worst recall, then the figure, then the loss.

        Two figures closer than a standard error are a tie: on a small validation split a row or two decide between
        them, and the loss, which every row moves a little, tells the checkpoints apart with less noise.
        """
        if self.above_floor != other.above_floor:
            return self.above_floor
        ahead, error = self._figure[0] - other._figure[0], other._figure[1]
        return ahead > error or (ahead >= -error and self.loss < other.loss)

    @property
    def _figure(self) -> tuple[float, float]:
        """What chooses, and its standard error: that of a share, or of a correlation (Fisher, 1915)."""
        if self.score is not None:
            return self.score, (1 - self.score**2) / math.sqrt(self.rows)
        share = self.macro_f1 or 0.0
        return share, math.sqrt(share * (1 - share) / self.rows)


def scorer_of(student: Student) -> Scorer:
    """The student as a scorer: texts to `Scores`."""

    def score(texts: Sequence[str]) -> list[Scores]:
        windows = student.encoder.encode(texts)
        return scores_of(logits_of(student.network, windows.ids), windows.owner, student.policy)

    return score


def deciding(split: ValidationSplit) -> tuple[Example, ...]:
    """The rows a checkpoint is chosen on: those with a human label, and where there is none those with a risk score.

    Raises:
        TrainingError: there is neither.
    """
    labelled = tuple(example for example in split.examples if example.is_labelled)
    if not (labelled or split.gold):
        raise TrainingError(
            f"none of the {len(split)} validation rows has a human label or a risk score, so no checkpoint can be"
            " chosen: judge some and name their column in `label` or `score` of a source"
        )
    return labelled or split.gold


def quality_of(logits: Array, owner: Sequence[int], gold: Sequence[Example], policy: Policy, floor: float) -> Quality:
    """Macro-F1, worst recall and loss on rows with human labels, or the agreement with their human scores.

    Args:
        logits: of all windows, shape (windows, categories).
        owner: the row each window is of.
        gold: the rows, see `deciding`.
        policy: what the categories are.
        floor: what the worst recall should reach.
    """
    probabilities = worst(probabilities_of(logits, policy), owner, policy)
    judge = _of_labels if gold[0].is_labelled else _of_scores
    return judge(gold, probabilities, policy, floor)


def _of_labels(gold: Sequence[Example], probabilities: Array, policy: Policy, floor: float) -> Quality:
    judged = [policy.verdicts(example) for example in gold]
    known = np.array([[name in one for name in policy.ids] for one in judged])
    truth = np.array([[one.get(name, False) for name in policy.ids] for one in judged])
    names = np.flatnonzero(truth.any(0)).tolist() or list(range(len(policy.ids)))
    if policy.kind == "multi_label":
        said = (probabilities >= HOLDS) & known
        likely = np.where(truth, probabilities, 1 - probabilities)[known]
    else:
        said = probabilities.argmax(1)[:, None] == np.arange(len(policy.ids))
        likely = probabilities[truth]
    loss = -np.log(np.clip(likely, SMALLEST, 1)).mean()
    recalls = recall_score(truth, said, labels=names, average=None, zero_division=0)
    f1 = f1_score(truth, said, labels=names, average="macro", zero_division=0)
    return Quality(float(f1), float(recalls.min()), float(loss), bool(recalls.min() >= floor), len(gold))


def _of_scores(gold: Sequence[Example], probabilities: Array, policy: Policy, _: float) -> Quality:
    truth = np.array([example.score for example in gold], dtype=float)
    told = [policy.risk(dict(zip(policy.ids, map(float, row), strict=True))) for row in probabilities]
    risk = np.array(told)
    # A student that says the same of every text puts them in no order, which agrees with none.
    same = np.ptp(truth) == 0 or np.ptp(risk) == 0
    order = 0.0 if same else float(spearmanr(truth, risk).statistic)
    return Quality(None, None, float(np.square(truth - risk).mean()), True, len(gold), score=order)
