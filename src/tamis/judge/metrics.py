"""What is measured, as pure functions over arrays.

Every metric takes `weights` of shape (resamples, rows): how often each row was drawn. Ones give the metric itself, and
counts drawn with replacement give its bootstrap distribution in one matrix product. scikit-learn computes the same
numbers one resample at a time, hundreds of times slower; the tests hold these functions equal to it.

Arrays of truth and answers are boolean of shape (rows, categories); a row nobody answered is all False.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tamis.calibration import Bools, Floats, ratio

BLOCK = 4_000_000
FALSE_POSITIVE_RATES = (0.001, 0.01, 0.05)


def ones(rows: int) -> Floats:
    """The weights of the sample itself, shape (1, rows)."""
    return np.ones((1, rows))


def resamples(rows: int, times: int, seed: int = 0) -> Iterator[Floats]:
    """Bootstrap weights in blocks of (resamples, rows); all models share them, so that differences are paired.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 6.
    """
    generator = np.random.default_rng(seed)
    size = max(1, BLOCK // rows)
    for start in range(0, times, size):
        count = min(size, times - start)
        drawn = generator.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(float)


def interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap samples; NaN where no sample has a value."""
    finite = samples[np.isfinite(samples)]
    if not finite.size:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Counts:
    """Weighted true positives, false positives and false negatives, each (resamples, categories)."""

    hits: Floats
    false: Floats
    missed: Floats

    @property
    def precision(self) -> Floats:
        """TP / (TP + FP), 0 where nothing was said."""
        return ratio(self.hits, self.hits + self.false)

    @property
    def recall(self) -> Floats:
        """TP / (TP + FN), 0 where there is nothing to find."""
        return ratio(self.hits, self.hits + self.missed)

    @property
    def f1(self) -> Floats:
        """2 TP / (2 TP + FP + FN), 0 where it is undefined."""
        return ratio(2 * self.hits, 2 * self.hits + self.false + self.missed)

    @property
    def present(self) -> Bools:
        """Which categories have a row."""
        return self.hits + self.missed > 0

    @property
    def pooled(self) -> Counts:
        """Summed over categories, for the micro averages; shape (resamples, 1)."""
        return Counts(*(part.sum(1, keepdims=True) for part in (self.hits, self.false, self.missed)))

    def macro(self, values: Floats) -> Floats:
        """Mean of `values` over the categories that have a row."""
        return ratio((values * self.present).sum(1), self.present.sum(1).astype(float), empty=np.nan)

    def worst(self, values: Floats) -> Floats:
        """Least of `values` over the categories that have a row."""
        return np.where(self.present, values, np.inf).min(1)


def counts(truth: Bools, said: Bools, weights: Floats) -> Counts:
    """Count right and wrong answers by category."""
    # One product instead of three: most of its time goes into reading the weights.
    kinds = np.concatenate([truth & said, ~truth & said, truth & ~said], axis=1).astype(float)
    return Counts(*np.split(weights @ kinds, 3, axis=1))


def accuracy(truth: Bools, said: Bools, weights: Floats) -> Floats:
    """Share of rows with exactly the true categories (multi-label: subset accuracy), shape (resamples,)."""
    return weighted_mean(right(truth, said).astype(float), weights)


def right(truth: Bools, said: Bools) -> Bools:
    """Which rows are answered with exactly the true categories."""
    return (truth == said).all(1)


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Mean of one number a row, shape (resamples,)."""
    return ratio(weights @ values, weights.sum(1), empty=np.nan)


@dataclass(frozen=True)
class Ranking:
    """Positives and negatives at or above each distinct score, best score first: (resamples, thresholds).

    Rows of one score pass a threshold together, so ties cannot be split in the model's favour.
    """

    hits: Floats
    false: Floats

    @property
    def auroc(self) -> Floats:
        """Area under the ROC curve; ties count half (Hanley and McNeil, 1982). NaN without both classes."""
        steps = np.diff(self.false, prepend=0.0, axis=1)
        area = (steps * (self.hits - np.diff(self.hits, prepend=0.0, axis=1) / 2)).sum(1)
        return ratio(area, self.hits[:, -1] * self.false[:, -1], empty=np.nan)

    @property
    def average_precision(self) -> Floats:
        """Sum over thresholds of (gain in recall) x precision, as scikit-learn has it. NaN without positives."""
        gain = np.diff(self.hits, prepend=0.0, axis=1)
        return ratio((gain * self.precision).sum(1), self.hits[:, -1], empty=np.nan)

    @property
    def precision(self) -> Floats:
        """Share of positives among what stands at or above each threshold."""
        return ratio(self.hits, self.hits + self.false)

    @property
    def recall(self) -> Floats:
        """Share of the positives at or above each threshold; NaN without positives."""
        return ratio(self.hits, self.hits[:, -1:], empty=np.nan)

    @property
    def false_positive_rate(self) -> Floats:
        """Share of the negatives at or above each threshold; NaN without negatives."""
        return ratio(self.false, self.false[:, -1:], empty=np.nan)

    def recall_at(self, rate: float) -> Floats:
        """Largest recall of a threshold whose false-positive rate is at most `rate`; 0 when none is."""
        if not self.hits.size:
            return np.full(len(self.hits), np.nan)
        allowed = self.false_positive_rate <= rate + 1e-12
        found = np.where(allowed, self.recall, 0.0).max(1)
        return np.where((self.hits[:, -1] > 0) & (self.false[:, -1] > 0), found, np.nan)

    def false_positives_at(self, recall: float) -> Floats:
        """Least false-positive rate of a threshold that recalls at least `recall`."""
        enough = self.recall >= recall - 1e-12
        least = np.where(enough, self.false_positive_rate, np.inf).min(1)
        return np.where(np.isfinite(least), least, np.nan)


def ranking(truth: Bools, score: Floats, weights: Floats) -> Ranking:
    """Rank rows by `score` (rows,) against `truth` (rows,)."""
    order = np.argsort(-score, kind="stable")
    sorted_score, positive = score[order], truth[order]
    ends = np.flatnonzero(np.append(sorted_score[1:] != sorted_score[:-1], True))
    drawn = weights[:, order]
    hits, everything = np.cumsum(drawn * positive, axis=1), np.cumsum(drawn, axis=1)
    return Ranking(hits[:, ends], everything[:, ends] - hits[:, ends])


def pessimistic(truth: Bools, score: Floats) -> Floats:
    """`score` with every missing answer (NaN) put where it hurts: positives last, negatives first."""
    return np.where(np.isnan(score), np.where(truth, -np.inf, np.inf), score)


def confusion(truth: Sequence[str], said: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """Rows of truth by columns of answers, the last column for no answer (or one outside the policy)."""
    from sklearn.metrics import confusion_matrix

    nobody = "" if "" not in names else "?"
    known = [name if name in names else nobody for name in said]
    table: list[list[int]] = confusion_matrix(list(truth), known, labels=[*names, nobody])[: len(names)].tolist()
    return table


def agreement_with_scores(truth: Floats, risk: Floats) -> dict[str, float]:
    """Spearman's and Kendall's (tau-b) rank correlation and mean absolute error; NaN where a side is constant."""
    from scipy.stats import kendalltau, spearmanr

    error = float(np.abs(truth - risk).mean())
    if np.ptp(truth) == 0 or np.ptp(risk) == 0:
        return {"spearman": float("nan"), "kendall": float("nan"), "mae": error}
    spearman, kendall = spearmanr(truth, risk).statistic, kendalltau(truth, risk).statistic
    return {"spearman": float(spearman), "kendall": float(kendall), "mae": error}


def mcnemar(first: Bools, second: Bools) -> float:
    """Exact two-sided p that two models are right equally often, from the rows only one of them has right.

    McNemar (1947), with the binomial distribution in place of its chi-squared approximation.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def two_sided_p(differences: Floats) -> float:
    """Two-sided p that a difference is 0, from its resamples: the level at which the percentile interval reaches 0.

    Efron and Tibshirani (1993), section 15.4; with the one added to both counts that Davison and Hinkley, Bootstrap
    Methods and their Application (1997), section 4.2.5, give, so that p is never 0. NaN without a resample.
    """
    finite = differences[np.isfinite(differences)]
    if not finite.size:
        return float("nan")
    beyond = min(int((finite <= 0).sum()), int((finite >= 0).sum()))
    return min(1.0, 2 * (1 + beyond) / (1 + finite.size))


def clustered_mcnemar(first: Floats, second: Floats) -> float:
    """Two-sided p that two models are right equally often; each gives the share of its runs that have a row right.

    Durkalski et al. (2003), Analysis of clustered matched-pair data: (sum d)^2 / sum d^2 over the rows' differences d,
    against the chi-squared distribution with one degree of freedom. The runs' answers to one row depend on each other,
    so a row counts once; with one run each this is McNemar's own statistic, (b - c)^2 / (b + c).
    """
    from scipy.stats import chi2

    difference = first - second
    squares = float((difference**2).sum())
    return float(chi2.sf(difference.sum() ** 2 / squares, 1)) if squares else 1.0


def cochran(right: Floats) -> tuple[float, int, float]:
    """Cochran's Q over `right` (rows, models): statistic, degrees of freedom, p that all are right equally often.

    Cochran (1950), (k - 1) sum_j (sum_i c_ij)^2 / sum_ij c_ij^2 with c what a model's entry lies above the mean of its
    row, against the chi-squared distribution with k - 1 degrees of freedom. Entries are 0 and 1, or shares of runs as
    Friedman's test allows scores. Rows that all models have equally right say nothing.
    """
    from scipy.stats import chi2

    models = right.shape[1]
    above = right - right.mean(1, keepdims=True)
    squares = float((above**2).sum())
    # Means of equal shares are off by a rounding error, which must not be divided by.
    statistic = (models - 1) * float((above.sum(0) ** 2).sum()) / squares if squares > 1e-12 else 0.0
    return statistic, models - 1, float(chi2.sf(statistic, models - 1))


def holm(values: Sequence[float]) -> list[float]:
    """Adjusted p values for several comparisons (Holm, 1979): step down, never below the one before."""
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(np.argsort(values)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted
