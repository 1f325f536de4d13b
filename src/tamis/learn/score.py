"""A student's scores, and the one number that chooses its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import f1_score, log_loss, recall_score

from tamis.errors import TrainingError
from tamis.learn.student import Student
from tamis.network import logits_of
from tamis.records import Example, Scorer, Scores, ValidationSplit
from tamis.windows import probabilities_of, scores_of, worst


@dataclass(frozen=True)
class Quality:
    """A student on the validation split of `rows` rows."""

    macro_f1: float
    worst_recall: float
    loss: float
    above_floor: bool
    rows: int

    def beats(self, other: Quality) -> bool:
        """Whether this is the better checkpoint: first the floor on the worst recall, then macro-F1, then the loss.

        Two macro-F1 closer than a standard error are a tie: on a small validation split a row or two decide between
        them, and the loss, which every row moves a little, tells the checkpoints apart with less noise.
        """
        if self.above_floor != other.above_floor:
            return self.above_floor
        error = math.sqrt(other.macro_f1 * (1 - other.macro_f1) / other.rows)
        ahead = self.macro_f1 - other.macro_f1
        return ahead > error or (ahead >= -error and self.loss < other.loss)


def scorer_of(student: Student) -> Scorer:
    """The student as a scorer: texts to `Scores`."""

    def score(texts: Sequence[str]) -> list[Scores]:
        windows = student.encoder.encode(texts)
        return scores_of(logits_of(student.network, windows.ids), windows.owner, student.policy)

    return score


def labelled(split: ValidationSplit) -> tuple[Example, ...]:
    """The rows a checkpoint is chosen on: those with a human label; a risk score alone names no category.

    Raises:
        TrainingError: there is none.
    """
    rows = tuple(example for example in split.examples if example.is_labelled)
    if not rows:
        raise TrainingError(
            f"none of the {len(split)} validation rows has a human label, so no checkpoint can be chosen (scores do not"
            " count): label some and name their column in `label` of a source"
        )
    return rows


def quality_of(student: Student, split: ValidationSplit, floor: float) -> Quality:
    """Macro-F1, worst recall and loss on the human labels of a validation split.

    Raises:
        TrainingError: no row has one.
    """
    gold = labelled(split)
    windows = student.encoder.encode([example.text for example in gold])
    policy = student.policy
    rows = probabilities_of(logits_of(student.network, windows.ids), policy)
    probabilities = worst(rows, windows.owner, policy)
    if policy.kind == "multi_label":
        truth = np.array([[name in (example.labels or ()) for name in policy.ids] for example in gold])
        said, names = probabilities >= 0.5, list(range(len(policy.ids)))
        loss = -np.log(np.clip(np.where(truth, probabilities, 1 - probabilities), 1e-7, 1)).mean()
    else:
        truth = np.array([policy.ids.index(example.label or policy.benign) for example in gold])
        said, names = probabilities.argmax(1), sorted(set(truth.tolist()))
        loss = log_loss(truth, probabilities, labels=range(len(policy.ids)))
    recalls = recall_score(truth, said, labels=names, average=None, zero_division=0)
    f1 = f1_score(truth, said, labels=names, average="macro", zero_division=0)
    return Quality(float(f1), float(recalls.min()), float(loss), bool(recalls.min() >= floor), len(gold))
