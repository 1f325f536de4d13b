"""The running model and its successor on the same texts: paired, by class, each bound one-sided.

A class fell where the upper bound of its change lies below the tolerance, and held where the lower bound does not:
Berger's intersection-union test (1982, Technometrics 24), which needs no correction for the number of classes, since
every one of them must hold. Falls are not corrected either, on purpose: a refusal too many costs somebody a look.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tamis.calibration import Floats
from tamis.config import PromotionConfig
from tamis.judge import metrics
from tamis.judge.judged import Judged, judge
from tamis.judge.update.result import Change, Kind, Outcome, Suite
from tamis.policy import Policy
from tamis.records import Example, Scorer


@dataclass(frozen=True)
class Asked:
    """Texts with verdicts; rows of one of the `groups` are drawn together, as the cases of one template must be."""

    name: str
    kind: Kind
    examples: tuple[Example, ...]
    groups: tuple[int, ...]

    @classmethod
    def of(cls, name: str, kind: Kind, examples: tuple[Example, ...]) -> Asked:
        """Texts that say nothing of each other."""
        return cls(name, kind, examples, tuple(range(len(examples))))


def compare(
    asked: Asked, old: Scorer, new: Scorer, policy: Policy, added: Collection[str], config: PromotionConfig
) -> Suite:
    """Both models on one set.

    Args:
        asked: at least one text, each with a category.
        old: of the running model, which may know fewer categories.
        new: of its successor.
        policy: of the new model; the verdicts are given under it.
        added: categories that the running model does not know.
        config: tolerance, confidence and resamples.
    """
    texts = [example.text for example in asked.examples]
    judged = [judge(asked.examples, scorer(texts), policy) for scorer in (old, new)]
    before, after = (_figures(one, asked, config.bootstrap) for one in judged)
    changes = {}
    for place, name in enumerate(policy.ids):
        own = judged[0].truth[:, place]
        if own.any():
            independent = len(set(np.array(asked.groups)[own].tolist()))
            pair = before[:, place], after[:, place]
            changes[name] = _change(*pair, int(own.sum()), independent, config)
            if name in added:
                changes[name] = _of_new(changes[name], asked.kind, config)
    return Suite(asked.name, asked.kind, len(texts), changes)


def _figures(judged: Judged, asked: Asked, times: int) -> Floats:
    """F1, or recall of functional tests: the value, then its resamples, (1 + times, categories)."""
    groups = np.array(asked.groups)
    count = int(groups.max()) + 1
    found = []
    # The same seed for both models: their resamples are the same, so that differences are paired.
    for weights in (metrics.ones(count), *metrics.resamples(count, times)):
        counted = metrics.counts(judged.truth, judged.said & judged.known, weights[:, groups])
        found.append(counted.recall if asked.kind == "functional" else counted.f1)
    return np.concatenate(found)


def _change(before: Floats, after: Floats, rows: int, independent: int, config: PromotionConfig) -> Change:
    low, high = np.quantile((after - before)[1:], [1 - config.confidence, config.confidence])
    unseen = largest_unseen(independent, config.confidence)
    outcome: Outcome = "open"
    if high < -config.tolerance:
        outcome = "fell"
    elif max(-low, unseen) <= config.tolerance:
        outcome = "held"
    return Change(rows, float(before[0]), float(after[0]), float(low), float(high), unseen, outcome)


def _of_new(change: Change, kind: Kind, config: PromotionConfig) -> Change:
    short = kind == "reviewed" and config.new_f1 is not None and change.after < config.new_f1
    return Change(**(vars(change) | {"outcome": "short" if short else "new"}))


def largest_unseen(rows: int, confidence: float) -> float:
    """The share p of a population that shows in none of `rows` draws with a chance of 1 - confidence.

    (1 - p)^rows = 1 - confidence: the rule of three (Hanley and Lippman-Hand, 1983). A bootstrap alone would say of
    three unchanged rows that nothing can have changed.
    """
    return float(1 - (1 - confidence) ** (1 / rows))
