"""What a student must beat to have earned its cost: a keyword list and linear models of the same labels.

Any of them can learn from the teacher's labels instead of people's: `svm_teacher` is the `svm` of the teacher's labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.calibration import scale
from tamis.errors import DataError
from tamis.judge.calibrate import best_temperature
from tamis.judge.lexicon import Lexicon, lexicon_scorer, mined
from tamis.policy import Policy
from tamis.records import Example, Scorer, Scores, TeacherSignal, TrainSplit

Fit = Callable[[Sequence[Example], Policy], Scorer]

TOLD = "_teacher"
FOLDS = 3


def fit_baseline(
    name: str,
    train: TrainSplit,
    signals: Mapping[str, TeacherSignal],
    policy: Policy,
    lexicon: Lexicon | None = None,
) -> Scorer:
    """Fit one of `NAMES`; those of the teacher's labels see what the student sees.

    Args:
        name: `keyword`, say, learns from the human labels; `keyword_teacher` from the teacher's likeliest category of
            each row it answered, and from the human label of the others.
        train: the rows to learn from.
        signals: the teacher's, by example id.
        policy: the categories.
        lexicon: what `keyword` uses in place of a mined one.

    Raises:
        DataError: no labelled row.
    """
    if name == "keyword" and lexicon is not None:
        return lexicon_scorer(lexicon, policy)
    rows = train.examples
    if name.endswith(TOLD):
        rows = tuple(_as_told(example, signals.get(example.id), policy) for example in rows)
    return BASELINES[name.removesuffix(TOLD)](rows, policy)


def _as_told(example: Example, signal: TeacherSignal | None, policy: Policy) -> Example:
    if signal is None or signal.outcome != "ok":
        return example
    said = policy.named(signal.probabilities)
    if policy.kind == "multi_label":
        return replace(example, label=None, labels=said, score=None, unknown=())
    return replace(example, label=said[0], labels=None, score=None)


def keyword(train: Sequence[Example], policy: Policy) -> Scorer:
    """The terms that labels show to speak for one harmful category; see `lexicon.py`.

    Raises:
        DataError: no labelled row.
    """
    return lexicon_scorer(mined(_labelled(train, policy), policy), policy)


def svm(train: Sequence[Example], policy: Policy) -> Scorer:
    """A linear SVM over TF-IDF of 1 to 4 characters.

    Raises:
        DataError: no labelled row.
    """
    from sklearn.svm import LinearSVC

    return _linear(train, policy, Classifier(LinearSVC(max_iter=20_000, random_state=0), "decision_function", 0.5))


def nb(train: Sequence[Example], policy: Policy) -> Scorer:
    """Complement naive Bayes over TF-IDF of 1 to 4 characters (Rennie, Shih, Teevan and Karger, 2003).

    Each category is told by the texts of all others, so rare categories do not lose to the largest one, as they do with
    the multinomial kind; TF-IDF of length 1 is the paper's remedy against long texts and repeated terms. Its weights
    are fractions, so is the pseudo-count.

    Raises:
        DataError: no labelled row.
    """
    from sklearn.naive_bayes import ComplementNB

    return _linear(train, policy, Classifier(ComplementNB(alpha=0.1), "predict_log_proba", 1.0))


@dataclass(frozen=True)
class Classifier:
    """An untrained classifier of scikit-learn.

    The softmax of its `method`, at a temperature, is its distribution. `usual` is the temperature where rows are too
    few to fit one.
    """

    model: Any
    method: Literal["decision_function", "predict_log_proba"]
    usual: float


def _linear(train: Sequence[Example], policy: Policy, classifier: Classifier) -> Scorer:
    """Train over character n-grams; probabilities are the softmax of its decision values at a fitted temperature.

    The temperature comes from 3-fold cross-validation, so that the answers stay the classifier's own. Categories
    without a row get probability 0.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = _labelled(train, policy)
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    features = vectorizer.fit_transform([text for text, _ in rows])
    truth = np.array([[judged.get(name, False) for name in policy.ids] for _, judged in rows])
    known = np.array([[name in judged for name in policy.ids] for _, judged in rows])
    several = policy.kind == "multi_label"
    decide = _several(features, truth, known, classifier) if several else _one(features, truth, classifier)

    def score(texts: Sequence[str]) -> list[Scores]:
        if not texts:
            return []
        probabilities = decide(vectorizer.transform(texts))
        return [policy.scores(dict(zip(policy.ids, row.tolist(), strict=True))) for row in probabilities]

    return score


Decide = Callable[[Any], NDArray[np.float64]]


def _one(features: Any, truth: NDArray[np.bool_], classifier: Classifier) -> Decide:
    """Train on single labels; returns features -> probabilities (rows, categories)."""
    from sklearn.base import clone

    labels = truth.argmax(1)
    seen = np.unique(labels)
    if len(seen) < 2:
        only = truth[0] if len(truth) else np.arange(truth.shape[1]) == 0
        return lambda rows: np.tile(only.astype(float), (rows.shape[0], 1))
    decisions = getattr(clone(classifier.model).fit(features, labels), classifier.method)
    temperature = _temperature(features, labels, truth[:, seen], classifier)

    def decide(rows: Any) -> NDArray[np.float64]:
        probabilities = np.zeros((rows.shape[0], truth.shape[1]))
        probabilities[:, seen] = scale(_softmax(decisions(rows)), temperature, multi_label=False)
        return probabilities

    return decide


def _several(features: Any, truth: NDArray[np.bool_], known: NDArray[np.bool_], classifier: Classifier) -> Decide:
    """Train each category on the rows that are judged for it; one that is always true or never is a constant."""
    columns = [
        _one(features[judged], np.stack([~column, column], axis=1)[judged], classifier)
        for column, judged in zip(truth.T, known.T, strict=True)
    ]
    return lambda rows: np.stack([decide(rows)[:, 1] for decide in columns], axis=1)


def _temperature(features: Any, labels: NDArray[np.int64], truth: NDArray[np.bool_], classifier: Classifier) -> float:
    """Fitted on decision values of rows left out; the usual one when a category has fewer rows than folds."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    if np.unique(labels, return_counts=True)[1].min() < FOLDS:
        return classifier.usual
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    decisions = cross_val_predict(classifier.model, features, labels, cv=folds, method=classifier.method)
    return best_temperature(_softmax(decisions), truth, multi_label=False)


def _softmax(decisions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over categories; two categories have one decision value, which is the second's."""
    if decisions.ndim == 1:
        decisions = np.stack([-decisions / 2, decisions / 2], axis=1)
    powers = np.exp(decisions - decisions.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _labelled(train: Sequence[Example], policy: Policy) -> list[tuple[str, dict[str, bool]]]:
    """Texts and what is known of their categories; a score of an ordinal policy is the level nearest to it."""
    judged = ((example.text, policy.verdicts(policy.levelled(example))) for example in train)
    rows = [(text, verdicts) for text, verdicts in judged if verdicts]
    if not rows:
        raise DataError(
            "a baseline learns from labels and none of its rows has one: label some, or name others in"
            " evaluate.baselines (`svm_teacher`, or `[]`)"
        )
    return rows


BASELINES: dict[str, Fit] = {"keyword": keyword, "nb": nb, "svm": svm}
NAMES = (*BASELINES, *(f"{name}{TOLD}" for name in BASELINES))
"""What a recipe may name: each of them, of human labels and of the teacher's."""
