"""What to have reviewed next, as pure functions over arrays: uncertain, disputed, new, typical of now, of a rare class.

`choose` puts the criteria together; `reviews.queue` queues what it chose.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tamis.calibration import Floats
from tamis.errors import need

EMPTY = 1e-12
FOLDS = 5
SPREAD = 2
STRENGTH = 0.01
"""Inverse of the penalty on the weights of standardised states: with hundreds of them, few texts fit anything."""


def margin(probabilities: Floats) -> Floats:
    """1 minus the distance between the two likeliest categories: 1 is a tie (Scheffer et al., 2001), shape (rows,).

    Args:
        probabilities: shape (rows, categories), at least two categories.
    """
    ordered = np.sort(probabilities, axis=1)
    return 1 - (ordered[:, -1] - ordered[:, -2])


def disagreement(student: Floats, teacher: Floats) -> Floats:
    """Jensen-Shannon divergence of two answers in bits, from 0 (the same) to 1 (Lin, 1991), shape (rows,).

    Args:
        student: probabilities of shape (rows, categories), each row summing to 1.
        teacher: the same of another model.
    """
    middle = (student + teacher) / 2
    return (_divergence(student, middle) + _divergence(teacher, middle)) / 2


def novelty(states: Floats, known: Floats) -> Floats:
    """How far each text is from the nearest one that was judged: 1 minus the largest cosine, in [0, 2], shape (rows,).

    Args:
        states: of the candidates, shape (rows, width).
        known: of judged texts, shape (others, width); without any, everything is new and gets 1.
    """
    if not len(known):
        return np.ones(len(states))
    return 1 - (_unit(states) @ _unit(known).T).max(1)


def shifted(states: Floats, reference: Floats, seed: int = 0) -> Floats:
    """How typical each text is of the traffic of now rather than of a reference, from 0 to 1, shape (rows,).

    The answer of a `likelier` that has not seen the text. It finds what has come into the traffic, also where the model
    is sure of it, which is what a new category looks like: neither uncertain nor far from all that is known.

    Args:
        states: of the candidates, shape (rows, width); with fewer than five, all get 1.
        reference: states of the reference traffic, shape (others, width); without any, all get 1.
        seed: of the division into parts.
    """
    if len(states) < FOLDS or not len(reference):
        return np.ones(len(states))
    part = np.random.default_rng(seed).permutation(len(states)) % FOLDS
    found = np.empty(len(states))
    for number in range(FOLDS):
        found[part == number] = likelier(reference, states[part != number], states[part == number])
    return found


def likelier(before: Floats, now: Floats, states: Floats) -> Floats:
    """Probability that texts are of now and not of before, as a logistic regression tells the two apart.

    Bickel, Brückner and Scheffer, Discriminative learning under covariate shift (2009). Both count the same, however
    many rows they have.

    Args:
        before: states to learn from, shape (rows, width).
        now: the same of now.
        states: of the texts that are asked about, shape (others, width).
    """
    need("sklearn", "train")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fit = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000))
    fit.fit(np.concatenate([before, now]), np.repeat([0, 1], [len(before), len(now)]))
    found: Floats = fit.predict_proba(states)[:, 1]
    return found


def choose(
    criteria: Mapping[str, Floats], categories: Sequence[str], judged: Mapping[str, int], count: int, rare: float = 0.3
) -> NDArray[np.int64]:
    """The candidates to review, best first within each part.

    Criteria are turned into ranks, so that their units do not matter, and averaged. A share of the places goes to the
    categories of which the fewest were judged, one at a time. The rest are spread evenly over the best of all that is
    left, `SPREAD` times as many as there are places or as many as are worth anything: the very best are much alike, and
    a model learns less from them (Kirsch et al., 2023, Stochastic batch acquisition, arXiv 2106.12059, who draw them at
    random).

    Args:
        criteria: one number a candidate each, the larger the more it is worth; at least one.
        categories: what each candidate probably is, in the order of the numbers.
        judged: how many texts of each category people have judged; one that is not there has none.
        count: places.
        rare: share of them that is for rare categories.

    Returns:
        Indices of at most `count` different candidates.
    """
    worth = np.mean([_ranks(values) for values in criteria.values()], axis=0)
    order = [int(i) for i in np.argsort(-worth, kind="stable")]
    have, waiting, chosen = Counter(judged), defaultdict[str, deque[int]](deque), []
    for i in order:
        waiting[categories[i]].append(i)
    for _ in range(min(round(rare * count), len(order))):
        scarce = min((name for name, left in waiting.items() if left), key=lambda name: (have[name], name))
        have[scarce] += 1
        chosen.append(waiting[scarce].popleft())
    taken, places = set(chosen), min(count, len(order)) - len(chosen)
    left, least = [i for i in order if i not in taken], worth.min(initial=np.inf)
    good = sum(worth[i] > least for i in left)
    best = left[: max(places, min(SPREAD * places, good))]
    chosen += [best[place * len(best) // places] for place in range(places)]
    return np.array(chosen, dtype=np.int64)


def _divergence(first: Floats, second: Floats) -> Floats:
    return (first * np.log2(np.maximum(first, EMPTY) / np.maximum(second, EMPTY))).sum(1)


def _unit(states: Floats) -> Floats:
    return states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), EMPTY)


def _ranks(values: Floats) -> Floats:
    """Ranks from 0 to 1, equal ones for equal values."""
    _, inverse = np.unique(values, return_inverse=True)
    return inverse / max(int(inverse.max(initial=0)), 1)
