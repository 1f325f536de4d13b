"""Calibration: what makes a model's probabilities mean what they say, chosen by how many human verdicts there are.

A temperature changes no answer and needs few rows; neither does a staircase for the leading category's probability,
which labels that were smoothed want: they press all sure answers together, and no temperature takes them apart. Platt's
line and isotonic regression bend each category by itself and need many rows. All but the temperature are taken only
where cross-validation on the calibration split says that they are better.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from tamis.calibration import (
    LEADER,
    TINY,
    Bools,
    Calibration,
    CalibrationMethod,
    Curve,
    Floats,
    categories_of,
    judged_rows,
    log_odds,
    scale,
)
from tamis.policy import Policy
from tamis.records import CalibrationSplit, Example, Scores

log = logging.getLogger(__name__)

Fit = Callable[[Floats, Bools, Sequence[str], bool], Calibration]
FEWEST = 20
FOLDS = 5
RANGE = (0.1, 10.0)
END = float(log_odds(np.array(1.0)))


def fit_calibration(scores: Sequence[Scores], split: CalibrationSplit, policy: Policy) -> Calibration:
    """The calibration that a split's human verdicts support.

    A method is a candidate from its `ROWS` rows on. The temperature stands unless another's log-loss in 5-fold
    cross-validation is lower: at all for `confidence`, which changes no answer, by more than one standard error of
    the paired difference for the others, which can (the one-standard-error rule of Breiman et al., 1984).

    Args:
        scores: of every example of `split`, in its order.
        split: whose gold judges; rows without an answer are left out.
        policy: the categories.

    Returns:
        The calibration; the temperature is 1 when fewer than 20 rows can tell.

    Raises:
        DataError: a split of another type, or another number of scores than rows.
    """
    rows = judged_rows(scores, split)
    if len(rows) < FEWEST:
        log.warning("temperature stays 1: %d calibration rows have a verdict, %d are needed", len(rows), FEWEST)
        return Calibration()
    told, truth = as_arrays(rows, policy)
    multi_label = policy.kind == "multi_label"
    known = np.array([[name in policy.verdicts(example) for name in policy.ids] for _, example in rows])
    if multi_label and not known.all():
        # A curve a category wants each row judged for it; one temperature can rest on what is known.
        return Calibration("temperature", best_temperature(told[known], truth[known], multi_label=True))
    method = choose_method(told, truth, policy.ids, multi_label=multi_label)
    return FITS[method](told, truth, policy.ids, multi_label)


def as_arrays(rows: Sequence[tuple[Scores, Example]], policy: Policy) -> tuple[Floats, Bools]:
    """Probabilities and verdicts of judged rows, both (rows, categories)."""
    told = np.array([[s.probabilities.get(name, 0.0) for name in policy.ids] for s, _ in rows])
    truth = np.array([[name in categories_of(e, policy) for name in policy.ids] for _, e in rows])
    return told.reshape(-1, len(policy.ids)), truth.reshape(-1, len(policy.ids))


def choose_method(told: Floats, truth: Bools, names: Sequence[str], *, multi_label: bool) -> CalibrationMethod:
    """The method of the least cross-validated log-loss among those that have rows enough; see `fit_calibration`."""
    rarest = int(min(truth.sum(0).min(), (~truth).sum(0).min()))
    best: CalibrationMethod = "temperature"
    losses = None
    rows = {"confidence": 0 if multi_label else len(truth)}
    for method in (name for name in list(FITS)[1:] if ROWS[name] <= rows.get(name, rarest)):
        losses = _losses(best, told, truth, names, multi_label) if losses is None else losses
        others = _losses(method, told, truth, names, multi_label)
        gain = losses - others
        margin = 0.0 if method == "confidence" else gain.std(ddof=1) / np.sqrt(len(gain))
        if gain.mean() > margin:
            best, losses = method, others
    return best


def _losses(method: CalibrationMethod, told: Floats, truth: Bools, names: Sequence[str], multi_label: bool) -> Floats:
    """Log-loss of each row by a calibration fitted on the other folds."""
    fold = np.random.default_rng(0).permutation(len(told)) % FOLDS
    losses = np.empty(len(told))
    for number in range(FOLDS):
        held = fold == number
        fitted = FITS[method](told[~held], truth[~held], names, multi_label)
        losses[held] = log_losses(fitted.meant(told[held], names, multi_label=multi_label), truth[held], multi_label)
    return losses


def log_losses(probability: Floats, truth: Bools, multi_label: bool) -> Floats:
    """Negative log-likelihood of each row, with several labels the mean over categories; arrays (rows, categories)."""
    likelihood = np.where(truth, probability, 1 - probability) if multi_label else probability[truth][:, None]
    return -np.log(np.clip(likelihood, TINY, 1)).mean(-1)


def best_temperature(probability: Floats, truth: Bools, *, multi_label: bool) -> float:
    """The T in [0.1, 10] of the least negative log-likelihood; both arrays are (rows, categories), or (claims,).

    For probabilities of a softmax, p^(1/T) renormalised is the temperature scaling of Guo et al. (2017); multi-label
    policies scale each category's log-odds.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        scaled = scale(probability, float(np.exp(log_temperature)), multi_label=multi_label)
        return float(log_losses(scaled, truth, multi_label).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def _temperature(told: Floats, truth: Bools, _names: Sequence[str], multi_label: bool) -> Calibration:
    return Calibration("temperature", best_temperature(told, truth, multi_label=multi_label))


def _confidence(told: Floats, truth: Bools, _names: Sequence[str], _multi_label: bool) -> Calibration:
    odds, right = log_odds(told.max(-1)), truth[np.arange(len(told)), told.argmax(-1)]
    return Calibration("confidence", curves={LEADER: _stairs(odds, right)})


def _platt(told: Floats, truth: Bools, names: Sequence[str], _multi_label: bool) -> Calibration:
    odds = log_odds(told)
    return Calibration("platt", curves={name: _line(odds[:, i], truth[:, i]) for i, name in enumerate(names)})


def _isotonic(told: Floats, truth: Bools, names: Sequence[str], _multi_label: bool) -> Calibration:
    odds = log_odds(told)
    return Calibration("isotonic", curves={name: _stairs(odds[:, i], truth[:, i]) for i, name in enumerate(names)})


def _line(odds: Floats, truth: Bools) -> Curve:
    """A line in log-odds by logistic regression (Platt, 1999), one category against all others."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=100.0, max_iter=1000).fit(odds[:, None], truth)
    ends = fitted.decision_function(np.array([[-END], [END]]))
    return (-END, END), (float(ends[0]), float(ends[1]))


def _stairs(odds: Floats, truth: Bools) -> Curve:
    """Corners of an isotonic regression (Zadrozny and Elkan, 2002), never surer than 1 / (n + 2)."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(out_of_bounds="clip").fit(odds, truth)
    least = 1 / (len(odds) + 2)
    heights = log_odds(np.clip(fitted.y_thresholds_, least, 1 - least))
    return tuple(map(float, fitted.X_thresholds_)), tuple(map(float, heights))


FITS: dict[CalibrationMethod, Fit] = {
    "temperature": _temperature,
    "confidence": _confidence,
    "platt": _platt,
    "isotonic": _isotonic,
}

ROWS: dict[CalibrationMethod, int] = {"temperature": 0, "confidence": 100, "platt": 50, "isotonic": 200}
"""Rows that must be there before a method is a candidate; of the last two, with each category's verdict and without."""
