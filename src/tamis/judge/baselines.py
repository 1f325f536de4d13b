"""What a student must beat to have earned its cost: a keyword list and a linear model of the same labels."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.judge.calibrate import best_temperature, scale
from tamis.policy import Policy
from tamis.records import Example, Scorer, Scores

Fit = Callable[[Sequence[Example], Policy], Scorer]

LEXICON = 300
FEWEST_TEXTS = 2
SMOOTHING = 0.5
BENIGN_WEIGHT = 2.0
FOLDS = 3
DEFAULT_TEMPERATURE = 0.5
WORD = re.compile(r"[a-z0-9']+|[\u3400-\u9fff]+")


def keyword(train: Sequence[Example], policy: Policy) -> Scorer:
    """A lexicon mined from labels: words, and 2 to 4 characters of Chinese, that speak for one harmful category.

    A category keeps the 300 terms whose smoothed log-odds against all other texts are the most standard deviations
    above 0 (Monroe, Colaresi and Quinn, 2008, with a flat prior). A text scores the summed weight of the terms in it;
    without any it is benign.

    Raises:
        DataError: no labelled row.
    """
    rows = [(terms(example.text), truth) for example, truth in _labelled(train, policy)]
    harmful = [name for name in policy.ids if name != policy.benign]
    lexicon = {name: _lexicon(rows, name) for name in harmful}

    def score(texts: Sequence[str]) -> list[Scores]:
        return [_matched(terms(text), lexicon, policy) for text in texts]

    return score


def terms(text: str) -> set[str]:
    """Words of letters and digits, and all runs of 2 to 4 Chinese characters, after NFKC and lower-casing."""
    found: set[str] = set()
    for run in WORD.findall(unicodedata.normalize("NFKC", text).lower()):
        if run[0] < "\u3400":
            found.add(run)
        else:
            found.update(run[i : i + n] for n in (2, 3, 4) for i in range(len(run) - n + 1))
    return found


def _lexicon(rows: Sequence[tuple[set[str], set[str]]], name: str) -> dict[str, float]:
    inside = Counter(term for found, truth in rows if name in truth for term in found)
    outside = Counter(term for found, truth in rows if name not in truth for term in found)
    size = sum(name in truth for _, truth in rows)
    weights = {}
    for term, count in inside.items():
        if count >= FEWEST_TEXTS:
            odds = _odds(count, size) - _odds(outside[term], len(rows) - size)
            deviation = np.sqrt(1 / (count + SMOOTHING) + 1 / (outside[term] + SMOOTHING))
            weights[term] = (odds / deviation, odds)
    best = sorted(weights.items(), key=lambda item: (-item[1][0], item[0]))[:LEXICON]
    return {term: float(odds) for term, (_, odds) in best if odds > 0}


def _odds(count: int, size: int) -> float:
    return float(np.log((count + SMOOTHING) / (size - count + SMOOTHING)))


def _matched(found: set[str], lexicon: Mapping[str, Mapping[str, float]], policy: Policy) -> Scores:
    weight = {name: sum(words[term] for term in found & words.keys()) for name, words in lexicon.items()}
    evidence = tuple(sorted(term for words in lexicon.values() for term in found & words.keys()))
    if policy.kind == "multi_label":
        likely = {name: 1 - float(np.exp(-w / BENIGN_WEIGHT)) for name, w in weight.items()}
        likely[policy.benign] = 1 - max(likely.values(), default=0.0)
    else:
        # expm1 gives a category without a match nothing, so a text without any match is benign for certain.
        mass = {name: float(np.expm1(min(w, 50.0))) for name, w in weight.items()}
        mass[policy.benign] = float(np.exp(BENIGN_WEIGHT))
        likely = {name: m / sum(mass.values()) for name, m in mass.items()}
    return policy.scores({name: likely[name] for name in policy.ids}, evidence)


def svm(train: Sequence[Example], policy: Policy) -> Scorer:
    """TF-IDF of 1 to 4 characters and a linear SVM; probabilities are its decision values at a fitted temperature.

    The temperature comes from 3-fold cross-validation, so that the answers stay the SVM's own. Categories without a
    row get probability 0.

    Raises:
        DataError: no labelled row.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = _labelled(train, policy)
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    features = vectorizer.fit_transform([example.text for example, _ in rows])
    truth = np.array([[name in names for name in policy.ids] for _, names in rows])
    decide = (_several if policy.kind == "multi_label" else _one)(features, truth)

    def score(texts: Sequence[str]) -> list[Scores]:
        if not texts:
            return []
        probabilities = decide(vectorizer.transform(texts))
        return [policy.scores(dict(zip(policy.ids, row.tolist(), strict=True))) for row in probabilities]

    return score


Decide = Callable[[Any], NDArray[np.float64]]


def _one(features: Any, truth: NDArray[np.bool_]) -> Decide:
    """Train one-against-rest machines on single labels; returns features -> probabilities (rows, categories)."""
    labels = truth.argmax(1)
    seen = np.unique(labels)
    if len(seen) == 1:
        return lambda rows: np.tile(truth[0].astype(float), (rows.shape[0], 1))
    model = _machine().fit(features, labels)
    temperature = _temperature(features, labels, truth[:, seen])

    def decide(rows: Any) -> NDArray[np.float64]:
        probabilities = np.zeros((rows.shape[0], truth.shape[1]))
        probabilities[:, seen] = scale(_softmax(model.decision_function(rows)), temperature, multi_label=False)
        return probabilities

    return decide


def _several(features: Any, truth: NDArray[np.bool_]) -> Decide:
    """Train a machine for each category that is sometimes true and sometimes not; the others are constants."""
    columns = [_one(features, np.stack([~column, column], axis=1)) for column in truth.T]
    return lambda rows: np.stack([decide(rows)[:, 1] for decide in columns], axis=1)


def _temperature(features: Any, labels: NDArray[np.int64], truth: NDArray[np.bool_]) -> float:
    """Fitted on decision values of rows left out; a fixed one when a category has fewer rows than folds."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    if np.unique(labels, return_counts=True)[1].min() < FOLDS:
        return DEFAULT_TEMPERATURE
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    decisions = cross_val_predict(_machine(), features, labels, cv=folds, method="decision_function")
    return best_temperature(_softmax(decisions), truth, multi_label=False)


def _machine() -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(max_iter=20_000, random_state=0)


def _softmax(decisions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over categories; two categories have one decision value, which is the second's."""
    if decisions.ndim == 1:
        decisions = np.stack([-decisions / 2, decisions / 2], axis=1)
    powers = np.exp(decisions - decisions.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _labelled(train: Sequence[Example], policy: Policy) -> list[tuple[Example, set[str]]]:
    rows = []
    for example in train:
        if example.label is not None:
            rows.append((example, {example.label}))
        elif example.labels is not None:
            rows.append((example, set(example.labels) or {policy.benign}))
    if not rows:
        raise DataError(
            "a baseline learns from labels and none of its rows has one: label some, or set evaluate.baselines: []"
        )
    return rows


BASELINES: dict[str, Fit] = {"keyword": keyword, "svm": svm}
