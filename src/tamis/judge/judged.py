"""One model's answers beside the human verdicts, as arrays, and every figure of them.

Figures of categories: `accuracy`, `macro_`, `micro_` and per-category `precision`, `recall`, `f1`; `worst_recall`;
`macro_` and per-category `auroc` and `average_precision`; `ece`; and of the risk `risk_auroc`,
`risk_average_precision`, `recall_at_fpr_0.001`, `_0.01`, `_0.05` and `fpr_at_recall_0.95`. Macro means go over the
categories with gold rows. Figures of human risk scores and of levels: `spearman`, `kendall`, `mae`. Always: `answered`.

A category nobody has judged in a row counts neither for nor against an answer.

A row without an answer is wrong in every figure; the calibration error alone leaves it out, as nothing was claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.calibration import Bools, Floats, expected_calibration_error, ratio
from tamis.judge import metrics
from tamis.policy import Policy
from tamis.records import Example, Scores

Figures = dict[str, Floats]
"""Figures by name, each of shape (resamples,); `category/figure` for one category."""

HIGH_RECALL = 0.95


@dataclass(frozen=True)
class Judged:
    """Answers and truth on rows with categories; arrays are (rows, categories), or (rows,) for the risk.

    `known` says which categories of a row people have judged; what they have not is no truth and has no part in any
    figure.
    """

    names: tuple[str, ...]
    truth: Bools
    known: Bools
    said: Bools
    probability: Floats
    benign: int
    risk: Floats
    answered: Bools
    several: bool

    @property
    def right(self) -> Bools:
        """Which rows are answered, with exactly the true ones of the categories that are known."""
        return metrics.right(self.truth, self.said & self.known) & self.answered

    @property
    def harmful(self) -> Bools:
        """Which rows are harmful, where `harm_known`."""
        return ~self.truth[:, self.benign]

    @property
    def harm_known(self) -> Floats:
        """1 for a row that people found harmless or harmful, 0 for one they left open: weights of its figures."""
        return self.known[:, self.benign].astype(float)

    @property
    def claims(self) -> tuple[Floats, Bools, NDArray[np.int64]]:
        """Confidence, correctness and row of each claim of the answered rows.

        The top category is the claim, or every known category where several may hold.
        """
        if self.several:
            row, column = np.nonzero(self.known & self.answered[:, None])
            return self.probability[row, column], self.truth[row, column], row
        row = np.flatnonzero(self.answered)
        return self.probability.max(1)[row], self.right[row], row


def judge(rows: Sequence[Example], scores: Sequence[Scores], policy: Policy) -> Judged:
    """Lay a model's scores beside the categories people gave.

    Raises:
        DataError: a verdict that is not a category of the policy.
    """
    verdicts = [policy.verdicts(row) for row in rows]
    truth = np.array([[one.get(name, False) for name in policy.ids] for one in verdicts])
    several, benign = policy.kind == "multi_label", policy.ids.index(policy.benign)
    found = [[score.probabilities.get(name, 0.0) for name in policy.ids] for score in scores]
    probability = np.array(found, dtype=float)
    if not several:
        probability = ratio(probability, probability.sum(1, keepdims=True))
    named = [policy.named(score.probabilities) for score in scores]
    risk = np.array([score.risk if score.probabilities else np.nan for score in scores], dtype=float)
    return Judged(
        names=policy.ids,
        truth=truth,
        known=np.array([[name in one for name in policy.ids] for one in verdicts]),
        said=np.array([[name in one for name in policy.ids] for one in named]),
        probability=probability,
        benign=benign,
        risk=metrics.pessimistic(~truth[:, benign], risk),
        answered=np.array([bool(score.probabilities) for score in scores]),
        several=several,
    )


def category_figures(judged: Judged, weights: Floats) -> Figures:
    """All figures of categories and of the risk."""
    figures = _answer_figures(judged, weights)
    for i, name in enumerate(judged.names):
        score = metrics.pessimistic(judged.truth[:, i], np.where(judged.answered, judged.probability[:, i], np.nan))
        ranked = metrics.ranking(judged.truth[:, i], score, weights * judged.known[:, i])
        figures[f"{name}/auroc"], figures[f"{name}/average_precision"] = ranked.auroc, ranked.average_precision
    for figure in ("auroc", "average_precision"):
        columns = np.stack([figures[f"{name}/{figure}"] for name in judged.names])
        known = np.isfinite(columns)
        figures[f"macro_{figure}"] = ratio(np.where(known, columns, 0).sum(0), known.sum(0) * 1.0, np.nan)
    return figures | _risk_figures(judged, weights) | {"ece": _calibration(judged, weights)}


def macro_f1(judged: Judged, weights: Floats) -> Figures:
    """The figure that models are compared by, alone, at a small part of the work of all figures."""
    counted = metrics.counts(judged.truth, judged.said, weights)
    return {"macro_f1": counted.macro(counted.f1)}


def _answer_figures(judged: Judged, weights: Floats) -> Figures:
    counted = metrics.counts(judged.truth, judged.said & judged.known, weights)
    figures = {
        "accuracy": metrics.weighted_mean(judged.right.astype(float), weights),
        "answered": metrics.weighted_mean(judged.answered.astype(float), weights),
        "worst_recall": counted.worst(counted.recall),
    }
    for figure in ("precision", "recall", "f1"):
        values = getattr(counted, figure)
        figures[f"macro_{figure}"] = counted.macro(values)
        figures[f"micro_{figure}"] = getattr(counted.pooled, figure)[:, 0]
        figures |= {f"{name}/{figure}": values[:, i] for i, name in enumerate(judged.names)}
    return figures


def _risk_figures(judged: Judged, weights: Floats) -> Figures:
    ranked = metrics.ranking(judged.harmful, judged.risk, weights * judged.harm_known)
    return {
        "risk_auroc": ranked.auroc,
        "risk_average_precision": ranked.average_precision,
        **{f"recall_at_fpr_{rate:g}": ranked.recall_at(rate) for rate in metrics.FALSE_POSITIVE_RATES},
        f"fpr_at_recall_{HIGH_RECALL:g}": ranked.false_positives_at(HIGH_RECALL),
    }


def _calibration(judged: Judged, weights: Floats) -> Floats:
    confidence, correct, row = judged.claims
    return expected_calibration_error(confidence, correct, weights[:, row])


def score_figures(truth: Floats, scores: Sequence[Scores], weights: Floats) -> Figures:
    """Figures of risk against the risk people gave, (rows,); a missing answer is the farther end of [0, 1]."""
    given = np.array([score.risk for score in scores], dtype=float)
    answered = np.isfinite(given)
    risk = np.where(answered, given, (truth < 0.5).astype(float))
    found = []
    for drawn in weights.astype(int):
        places = np.repeat(np.arange(len(truth)), drawn)
        found.append(metrics.agreement_with_scores(truth[places], risk[places]))
    figures = {name: np.array([one[name] for one in found]) for name in ("spearman", "kendall", "mae")}
    return figures | {"answered": metrics.weighted_mean(answered.astype(float), weights)}
