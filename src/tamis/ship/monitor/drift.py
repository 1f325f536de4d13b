"""How far one stretch of traffic is from another, as pure functions, each with what chance alone would bring.

A limit is the larger of an effect worth a look and the quantile of the statistic when nothing has changed, so that
few rows raise nothing and many rows do not raise trifles. scipy is imported where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tamis.calibration import Floats
from tamis.feedback import likelier

BINS = 10

PSI_LIMIT = 0.2
"""Of a population stability index: another population (Siddiqi, Credit Risk Scorecards, 2006)."""

V_LIMIT = 0.05
"""Where one text in ten is reviewed, about three in a hundred more: half of what is called a small effect (Cohen,
Statistical Power Analysis, 1988, section 7.2), at which reviewers have two thirds more to do."""

AUC_LIMIT = 0.55
"""Where of a text of now and one of before, the one of now looks it 55 times in 100."""


def edges(reference: Floats, bins: int = BINS) -> Floats:
    """Inner edges of bins of equal shares of the reference; fewer where values repeat, so that ties stay together."""
    return np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))


def binned(values: Floats, inner: Floats) -> NDArray[np.int64]:
    """Rows in each bin, shape (len(inner) + 1,)."""
    return np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(inner) + 1)


def psi(reference: Floats, current: Floats) -> tuple[float, int]:
    """Population stability index of numbers, over bins of equal shares of the reference, and how many bins there were.

    Sum of (q - p) ln(q / p) over bins, with half a row added to each so that an empty one counts (Lin, Examining
    distributional shifts by using population stability index, 2017).

    Args:
        reference: numbers, at least one.
        current: numbers, at least one.
    """
    inner = edges(reference)
    before, now = binned(reference, inner) + 0.5, binned(current, inner) + 0.5
    p, q = before / before.sum(), now / now.sum()
    return float(((q - p) * np.log(q / p)).sum()), len(inner) + 1


def psi_limit(reference: int, current: int, bins: int, alpha: float) -> float:
    """What the index exceeds with probability `alpha` when nothing has changed, but at least 0.2.

    It is then (1/n + 1/m) times a chi-squared variable with bins - 1 degrees of freedom (Yurdakul and Naranjo,
    Statistical properties of the population stability index, 2020).
    """
    from scipy.stats import chi2

    chance = (1 / reference + 1 / current) * float(chi2.isf(alpha, max(bins - 1, 1)))
    return max(PSI_LIMIT, chance)


def mix(reference: Sequence[str], current: Sequence[str], alpha: float) -> tuple[float, float]:
    """How differently two stretches are divided over names: Cramér's V of the 2 x names table, and its limit.

    V = sqrt(chi^2 / rows), as the smaller side has two entries. The limit is the V whose chi-squared test has p =
    `alpha`, but at least 0.05.
    """
    from scipy.stats import chi2

    names = sorted({*reference, *current})
    rows = len(reference) + len(current)
    if len(names) < 2:
        return 0.0, V_LIMIT
    table = np.array([[part.count(name) for name in names] for part in (list(reference), list(current))], float)
    expected = table.sum(1, keepdims=True) * table.sum(0) / rows
    statistic = float(((table - expected) ** 2 / expected).sum())
    return math.sqrt(statistic / rows), max(V_LIMIT, math.sqrt(float(chi2.isf(alpha, len(names) - 1)) / rows))


def rise(reference: tuple[int, int], current: tuple[int, int], alpha: float, least: float) -> tuple[float, float]:
    """How much a share has grown, and the growth from which it is more than chance and at least `least`.

    Args:
        reference: rows that have it, and all rows.
        current: the same now.
        alpha: probability of a larger growth when nothing has changed, by the pooled two-proportion z test.
        least: growth worth a look.
    """
    from scipy.stats import norm

    (before, n), (now, m) = reference, current
    pooled = (before + now) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return now / m - before / n, max(least, float(norm.isf(alpha)) * error)


def told_apart(reference: Floats, current: Floats, alpha: float, seed: int = 0) -> tuple[float, float]:
    """How well two clouds of states can be told apart, 0.5 if not at all, and from where on it is more than chance.

    Half of each is learnt from, and the AUC is that of the other halves (Lopez-Paz and Oquab, Revisiting classifier
    two-sample tests, 2017), whose chance is that of Mann and Whitney's U.

    Args:
        reference: states of shape (rows, width).
        current: states of shape (other rows, width).
        alpha: probability of an AUC above the limit when nothing has changed.
        seed: of the halves.
    """
    from scipy.stats import mannwhitneyu, norm

    generator = np.random.default_rng(seed)
    (before, n), (now, m) = ((side[generator.permutation(len(side))], len(side) // 2) for side in (reference, current))
    likely = [likelier(before[:n], now[:m], rest) for rest in (before[n:], now[m:])]
    n, m = map(len, likely)
    value = float(mannwhitneyu(likely[1], likely[0]).statistic) / (n * m)
    return value, max(AUC_LIMIT, 0.5 + float(norm.isf(alpha)) * math.sqrt((n + m + 1) / (12 * n * m)))
