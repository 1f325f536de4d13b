"""How much is missed: an estimate from the random audit of what was passed, with an interval that keeps its promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Stratum:
    """Passed texts among which each was equally likely to be audited.

    `passed` counts distinct texts, `judged` those of them that were audited and judged, `missed` those of these that
    break the policy.
    """

    passed: int
    judged: int
    missed: int


@dataclass(frozen=True)
class Misses:
    """The share of distinct passed texts that break the policy; from 0 to 1, and no number, where none was judged."""

    rate: float
    low: float
    high: float
    passed: int
    judged: int

    @property
    def total(self) -> float:
        """How many distinct texts were missed."""
        return self.rate * self.passed


def miss_rate(strata: Sequence[Stratum], level: float = LEVEL) -> Misses:
    """Estimate what share of passed texts breaks the policy.

    Horvitz and Thompson (1952): each miss stands for passed / judged texts, the inverse of the probability with which
    it was seen. The interval is that of Clopper and Pearson (1934), which is exact in one stratum however rare misses
    are, where that of the normal distribution is empty as soon as none is seen. Over strata audited at different rates
    it takes the effective number of rows of Kish, (sum w)^2 / sum w^2 (Korn and Graubard, 1998). It leaves out that
    texts are drawn without replacement, which only makes it wider.

    Args:
        strata: in which the audit's share was constant; one of which nothing was judged is left out.
        level: probability with which the interval covers.
    """
    from scipy.stats import beta

    seen = [one for one in strata if one.judged]
    passed, judged = sum(one.passed for one in seen), sum(one.judged for one in seen)
    if not judged:
        return Misses(float("nan"), 0.0, 1.0, sum(one.passed for one in strata), 0)
    rate = sum(one.missed * one.passed / one.judged for one in seen) / passed
    rows = passed**2 / sum(one.passed**2 / one.judged for one in seen)
    hits, tail = rate * rows, (1 - level) / 2
    low = float(beta.ppf(tail, hits, rows - hits + 1)) if hits > 0 else 0.0
    high = float(beta.isf(tail, hits + 1, rows - hits)) if hits < rows else 1.0
    return Misses(rate, low, high, passed, judged)
