"""Thresholds by category and language, chosen on a calibration split from costs, promises or a team's capacity.

A promise is checked at one threshold of a fixed grid after the other, from the one at which it is sure to hold, and the
last before the first that fails is taken. That is fixed-sequence testing as in Learn then Test (Angelopoulos et al.,
2021, arXiv 2110.01052): each test has the full level, whatever the number of thresholds. The p-value is the binomial
tail, so that a test passes where the bound of Clopper and Pearson (1934) does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from tamis.calibration import Bools, Calibration, Floats, categories_of, judged_rows, sigmoid, traffic_shares
from tamis.config import CostsConfig, ThresholdsConfig
from tamis.deciding import ANY, Figure, Promise, Thresholds
from tamis.errors import DataError
from tamis.judge.calibrate import as_arrays, fit_calibration
from tamis.policy import Actions, Policy
from tamis.records import CalibrationSplit, Scorer, Scores

GRID: Floats = sigmoid(np.linspace(-9, 9, 181))
"""Thresholds that are tried, from 0.0001 to 0.9999, ten for each factor e of the odds; fixed before any row is seen."""

COST_ROWS = 50
"""Rows of a category, and of one language, from which they have the cheapest thresholds of their own."""


@dataclass(frozen=True)
class Sample:
    """Judged rows: probability and verdict of each harmful category (rows, categories), and each row's language."""

    names: tuple[str, ...]
    told: Floats
    truth: Bools
    language: NDArray[np.str_]

    @property
    def harmful(self) -> Bools:
        """Rows that break the policy, (rows,)."""
        return np.asarray(self.truth.any(1))

    @property
    def largest(self) -> Floats:
        """The likeliest harmful category's probability, (rows,)."""
        return np.asarray(self.told.max(1))


def fit(
    score: Scorer, split: CalibrationSplit, policy: Policy, config: ThresholdsConfig
) -> tuple[Calibration, Thresholds]:
    """Fit the calibration of a scorer on one half of a split, and choose its thresholds on the other; see `halves`.

    Raises:
        DataError: a split of another type, or too few labels for what is promised.
    """
    fitting, choosing = halves(split, config)
    calibration = fit_calibration(score([example.text for example in fitting.examples]), fitting, policy)
    meant = calibration.over(score, policy)([example.text for example in choosing.examples]) if len(choosing) else []
    return calibration, choose_thresholds(meant, choosing, policy, config)


def choose_thresholds(
    scores: Sequence[Scores], split: CalibrationSplit, policy: Policy, config: ThresholdsConfig
) -> Thresholds:
    """Thresholds by the configured method; a promise holds for texts drawn as those of the split were.

    Args:
        scores: calibrated, of every example of `split`, in its order. What calibrated them must not have seen it.
        split: whose gold judges; rows without an answer, which are always reviewed, are left out.
        policy: the categories, and the thresholds of the method `policy`.
        config: the method and its numbers.

    Raises:
        DataError: a split of another type, another number of scores than rows, or too few labels for what is promised.
    """
    rows = judged_rows(scores, split)
    if config.method == "policy":
        return Thresholds()
    told, truth = as_arrays(rows, policy)
    kept = [i for i, name in enumerate(policy.ids) if name != policy.benign]
    names = tuple(policy.ids[i] for i in kept)
    languages = np.array([example.lang for _, example in rows])
    sample = Sample(names, told[:, kept], truth[:, kept], languages)
    return METHODS[config.method](sample, policy, config)


def halves(split: CalibrationSplit, config: ThresholdsConfig) -> tuple[CalibrationSplit, CalibrationSplit]:
    """Rows that fit the calibration, and others that choose thresholds, told apart by the last digit of their ids.

    A promise would not hold on the rows that had shaped the probabilities. Without thresholds to choose all rows fit.
    """
    if config.method == "policy":
        return split, CalibrationSplit(())
    odd = [int(example.id, 16) % 2 == 1 for example in split.examples]
    pairs = list(zip(split.examples, odd, strict=True))
    return CalibrationSplit(tuple(e for e, is_odd in pairs if not is_odd)), CalibrationSplit(
        tuple(e for e, is_odd in pairs if is_odd)
    )


def require_labels(split: CalibrationSplit, policy: Policy, config: ThresholdsConfig) -> None:
    """See that there are labels for what is promised, before anything is paid for.

    Args:
        split: of which one half will choose thresholds.
        policy: the categories.
        config: the promises of the method `target`; others need nothing here.

    Raises:
        DataError: some category has too few; the sentence says how many each needs.
    """
    if config.method != "target":
        return
    chosen = halves(split, config)[1].examples
    told = [categories_of(example, policy) for example in chosen if example.is_labelled]
    short: dict[str, tuple[int, int | None]] = {}
    for name in policy.ids:
        allowed = allowed_errors(config)["false_positive_rate" if name == policy.benign else "recall"]
        rows = sum(name in names for names in told)
        needed = labels_needed(1 - config.confidence, allowed) if allowed is not None else 0
        if rows < needed:
            short[name] = rows, needed
    _refuse(short)


def allowed_errors(config: ThresholdsConfig) -> dict[Figure, float | None]:
    """The largest rate of misses or of false blocks that the target allows; None where it promises nothing."""
    recall = config.target.recall
    return {
        "recall": None if recall is None else 1 - recall,
        "false_positive_rate": config.target.false_positive_rate,
    }


def labels_needed(level: float, allowed: float, seen: float = 0.0) -> int:
    """Rows from which a rate of `seen`, below `allowed`, proves at a level that the true one is at most `allowed`.

    With nothing seen that is the least n of (1 - allowed)^n <= level; else the first of its doublings that does.
    """
    rows = int(np.ceil(np.log(level) / np.log1p(-allowed)))
    while seen and binom.cdf(np.ceil(seen * rows), rows, allowed) > level:
        rows *= 2
    return rows


def review_threshold(own: Floats, missed: float, level: float) -> int:
    """Place in the grid of the highest review threshold under a rate of misses; -1 where not even the lowest is.

    Args:
        own: probabilities of a category in rows that belong to it.
        missed: the largest share of them below the threshold, 1 - recall.
        level: chance that the promise is wrong, 1 - confidence.
    """
    below = np.searchsorted(np.sort(own), GRID, side="left")
    return _last(binom.cdf(below, len(own), missed) <= level)


def block_threshold(largest: Floats, blocked: float, level: float) -> int:
    """Place in the grid of the lowest block threshold under a false positive rate; -1 where not even the highest is.

    Args:
        largest: the likeliest harmful category's probability in harmless rows.
        blocked: the largest share of them at or above the threshold.
        level: chance that the promise is wrong, 1 - confidence.
    """
    place = _last(binom.cdf(_reaching(largest)[::-1], len(largest), blocked) <= level)
    return len(GRID) - 1 - place if place >= 0 else -1


def _last(passed: Bools) -> int:
    """The last place before the first test that fails."""
    return len(passed) - 1 if passed.all() else int(np.argmin(passed)) - 1


def _reaching(values: Floats) -> NDArray[np.int64]:
    """How many values are at or above each threshold of the grid."""
    return len(values) - np.searchsorted(np.sort(values), GRID, side="left")


def _target(sample: Sample, policy: Policy, config: ThresholdsConfig) -> Thresholds:
    blocks, promises = _kept("false_positive_rate", policy.benign, sample.largest, ~sample.harmful, sample, config)
    blocks = blocks or {ANY: policy.actions.block}
    cells = {}
    for i, name in enumerate(sample.names):
        reviews, kept = _kept("recall", name, sample.told[:, i], sample.truth[:, i], sample, config)
        cells[name] = _pairs(reviews or {ANY: policy.actions.review}, blocks)
        promises += kept
    return Thresholds(method="target", by_category=cells, promises=tuple(promises))


def _kept(
    figure: Figure, category: str, values: Floats, rows: Bools, sample: Sample, config: ThresholdsConfig
) -> tuple[dict[str, float], list[Promise]]:
    """Thresholds by language that keep one promise, and the promise for each; neither where it is not asked for."""
    allowed, level = allowed_errors(config)[figure], 1 - config.confidence
    if allowed is None:
        return {}, []
    find, wrong, safest = FIGURES[figure]
    found, promises = {}, []
    for language, mask in _groups(sample.language, (rows,), 2 * labels_needed(level, allowed)).items():
        own = values[rows & mask]
        place = find(own, allowed, level)
        if place < 0:
            seen = float(wrong(own, safest).mean()) if len(own) else 0.0
            _refuse({category: (len(own), labels_needed(level, allowed, seen) if seen < allowed else None)})
        found[language] = float(GRID[place])
        errors = float(wrong(own, GRID[place]).mean())
        value, seen = (1 - allowed, 1 - errors) if figure == "recall" else (allowed, errors)
        promises.append(Promise(figure, category, language, value, config.confidence, seen, len(own)))
    return found, promises


def _pairs(reviews: Mapping[str, float], blocks: Mapping[str, float]) -> dict[str, Actions]:
    """Both thresholds by language; a language without its own has those that pass and block least."""
    low, high = reviews.get(ANY, min(reviews.values())), blocks.get(ANY, max(blocks.values()))
    made = {}
    for language in {*reviews, *blocks, ANY}:
        review = reviews.get(language, low)
        made[language] = Actions(review=review, block=max(review, blocks.get(language, high)))
    return dict(sorted(made.items()))


def _costs(sample: Sample, policy: Policy, config: ThresholdsConfig) -> Thresholds:
    """The cheapest pair of each category in each language that has rows enough, else of all harmful rows together."""
    harmful, everything = sample.harmful, np.ones(len(sample.harmful), bool)
    counts = {"harmful": int(harmful.sum()), policy.benign: int((~harmful).sum())}
    _refuse({name: (rows, COST_ROWS) for name, rows in counts.items() if rows < COST_ROWS})
    cells = {}
    for i, name in enumerate(sample.names):
        few = sample.truth[:, i].sum() < COST_ROWS
        values, own = (sample.largest, harmful) if few else (sample.told[:, i], sample.truth[:, i])
        groups = {ANY: everything} if few else _groups(sample.language, (own, ~harmful), COST_ROWS)
        shares = _shares(sample, config)
        found = {
            language: _cheapest(values[own & mask], values[~harmful & mask], shares, config.costs)
            for language, mask in groups.items()
        }
        cells[name] = _pairs({n: t.review for n, t in found.items()}, {n: t.block for n, t in found.items()})
    return Thresholds(method="costs", by_category=cells)


def _cheapest(own: Floats, harmless: Floats, shares: tuple[float, float], costs: CostsConfig) -> Actions:
    """The pair of grid thresholds with the least cost; of equal ones the most cautious, which reviews most.

    Args:
        own: probabilities of rows that are harmful.
        harmless: of rows that are not.
        shares: of traffic that one harmful and one harmless row stand for.
        costs: of a miss, a false block and a review.
    """
    harm, peace = shares[0] * _reaching(own), shares[1] * _reaching(harmless)
    read = costs.minute * costs.minutes * (harm + peace)
    passing = costs.miss * (shares[0] * len(own) - harm) + read
    blocking = costs.false_block * peace - read
    ordered = np.triu(np.ones((len(GRID), len(GRID)), bool))
    total = np.where(ordered, passing[:, None] + blocking, np.inf)
    review, block = np.nonzero(total <= total.min() + 1e-12)
    lowest = review.min()
    return Actions(review=float(GRID[lowest]), block=float(GRID[block[review == lowest].max()]))


def _capacity(sample: Sample, policy: Policy, config: ThresholdsConfig) -> Thresholds:
    """The lowest review threshold, one for all categories, under which the reviewed share of traffic is proven to fit.

    The share is that of harmful texts times the prevalence plus that of harmless ones times the rest, each bounded at
    half the level.
    """
    share, level, harmful = float(config.capacity or 0), (1 - config.confidence) / 2, sample.harmful
    block = policy.actions.block
    tried = GRID[block > GRID][::-1]
    bound, seen = np.zeros(len(tried)), np.zeros(len(tried))
    for part, row in zip((harmful, ~harmful), _shares(sample, config), strict=True):
        values = sample.largest[part]
        read = ((values >= tried[:, None]) & (values < block)).sum(1)
        bound += row * len(values) * _upper(read, len(values), level)
        seen += row * read
    place = _last(bound <= share)
    if place < 0:
        counts = {"harmful": int(harmful.sum()), policy.benign: int((~harmful).sum())}
        needed = labels_needed(level, share)
        short = {name: (rows, needed) for name, rows in counts.items() if rows < needed}
        _refuse(short or {"traffic": (len(harmful), None)})
    actions = Actions(review=float(tried[place]), block=block)
    promise = Promise("reviewed", ANY, ANY, share, config.confidence, float(seen[place]), len(harmful))
    return Thresholds(
        method="capacity", by_category={name: {ANY: actions} for name in sample.names}, promises=(promise,)
    )


def _upper(seen: NDArray[np.int64], rows: int, level: float) -> Floats:
    """Clopper and Pearson's upper bound of a rate; 1 without rows."""
    return np.where(seen < rows, beta.ppf(1 - level, seen + 1, np.maximum(rows - seen, 1)), 1.0)


def _shares(sample: Sample, config: ThresholdsConfig) -> tuple[float, float]:
    harmful = int(sample.harmful.sum())
    return traffic_shares(harmful, len(sample.harmful) - harmful, config.prevalence)


def _groups(languages: NDArray[np.str_], kinds: Sequence[Bools], needed: int) -> dict[str, Bools]:
    """Languages with enough rows of each kind, the others together; all together where those would be too few.

    Whether there are enough is a matter of counts alone: were it one of scores, a promise would be chosen by its luck.
    """
    found = {str(name): languages == name for name in np.unique(languages)}
    own = {name: mask for name, mask in found.items() if min((kind & mask).sum() for kind in kinds) >= needed}
    rest = ~np.isin(languages, list(own))
    left = [int((kind & rest).sum()) for kind in kinds]
    if not own or (max(left) > 0 and min(left) < needed):
        return {ANY: np.ones(len(languages), bool)}
    return own | ({ANY: rest} if max(left) else {})


def _refuse(short: Mapping[str, tuple[int, int | None]]) -> None:
    """Say which kinds have too few labels and how many they need; None: no number will do. Nothing is short: nothing.

    Raises:
        DataError: something is short.
    """
    if not short:
        return
    hopeless = [name for name, (_, needed) in short.items() if needed is None]
    if hopeless:
        raise DataError(
            f"no threshold keeps what `thresholds` asks of {', '.join(hopeless)}, however many labels there are:"
            " ask for less, or train a better student"
        )
    told = ", ".join(f"{name} has {rows} and needs {needed}" for name, (rows, needed) in short.items())
    raise DataError(
        "too few labels for what `thresholds` asks, in the half of the calibration split that chooses them:"
        f" {told}; label twice what is missing, ask for less, or set thresholds.method=policy"
    )


METHODS: dict[str, Callable[[Sample, Policy, ThresholdsConfig], Thresholds]] = {
    "costs": _costs,
    "target": _target,
    "capacity": _capacity,
}

FIGURES: dict[Figure, tuple[Callable[[Floats, float, float], int], Callable[[Floats, float], Bools], float]] = {
    "recall": (review_threshold, np.less, float(GRID[0])),
    "false_positive_rate": (block_threshold, np.greater_equal, float(GRID[-1])),
}
"""How the best threshold of a promise is found, what is an error at one, and at which there are fewest."""
