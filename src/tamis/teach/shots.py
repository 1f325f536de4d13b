"""Gold examples shown to the teacher: the same for every text, or the most similar ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

from tamis.config import FewShotConfig
from tamis.errors import ConfigError
from tamis.policy import Policy
from tamis.records import Example

LONG = 200
"""Characters from which a gold text is shown only when its category has no shorter one."""


class Shots(Protocol):
    """Which gold examples stand before a question."""

    @property
    def identity(self) -> str:
        """Hash of what may be shown."""

    def of(self, example: Example) -> Sequence[Example]:
        """Examples to show before this one, the last shown nearest to it; never itself."""


class FixedShots:
    """The same examples for every text, so that a server computes the prefix once."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = tuple(examples)
        self.identity = _identity("fixed", self.examples, len(self.examples))

    def of(self, example: Example) -> Sequence[Example]:
        """All of them; one that is asked about itself is left out."""
        if all(shot.id != example.id for shot in self.examples):
            return self.examples
        return tuple(shot for shot in self.examples if shot.id != example.id)


class NearestShots:
    """The most similar gold examples of each text, by cosine of character n-gram TF-IDF."""

    def __init__(self, gold: Sequence[Example], n: int) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.n = n
        self.gold = tuple(sorted(gold, key=lambda example: example.id))
        self.identity = _identity("nearest", self.gold, n)
        self._vectorizer: Any = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
        self._matrix: Any = self._vectorizer.fit_transform([example.text for example in self.gold])

    def of(self, example: Example) -> Sequence[Example]:
        """The n nearest, the nearest last."""
        cosine = (self._matrix @ self._vectorizer.transform([example.text]).T).toarray()[:, 0]
        order = sorted(range(len(self.gold)), key=lambda i: (-cosine[i], i))
        near = [self.gold[i] for i in order[: self.n + 1] if self.gold[i].id != example.id]
        return near[: self.n][::-1]


def make_shots(config: FewShotConfig, policy: Policy, gold: Sequence[Example]) -> Shots:
    """The few-shot examples a recipe asks for, out of the gold of the training split.

    Raises:
        ConfigError: gold carries a category the policy does not have.
    """
    strange = sorted({name for example in gold for name in given(example)} - set(policy.ids))
    if strange:
        raise ConfigError(
            f"gold for few-shot carries {', '.join(strange)}, policy {policy.name} has {', '.join(policy.ids)};"
            " map it with data.sources.labels"
        )
    # An example with an unknown category would show the teacher how to leave one out.
    labelled = [example for example in gold if len(policy.verdicts(example)) == len(policy.ids)]
    if config.kind == "none" or not labelled:
        return NO_SHOTS
    if config.kind == "nearest":
        return NearestShots(labelled, config.n)
    return FixedShots(stratified(labelled, policy, config.n))


def stratified(gold: Sequence[Example], policy: Policy, n: int) -> list[Example]:
    """`n` examples, the categories in turn; which of a category is decided by id, so that it never changes."""
    queues = {name: sorted((e for e in gold if policy.verdicts(e)[name]), key=_preference) for name in policy.ids}
    rounds = range(max(map(len, queues.values()), default=0))
    drawn = [queue[turn] for turn in rounds for queue in queues.values() if turn < len(queue)]
    return list({example.id: example for example in drawn}.values())[:n]


def given(example: Example) -> tuple[str, ...]:
    """The categories people named."""
    return (example.label,) if example.label is not None else example.labels or ()


def _preference(example: Example) -> tuple[bool, str]:
    return len(example.text) > LONG, hashlib.sha256(example.id.encode()).hexdigest()


def _identity(kind: str, gold: Sequence[Example], n: int) -> str:
    shown = "\0".join(f"{example.id} {'|'.join(given(example))}" for example in gold)
    return hashlib.sha256(f"{kind}\0{n}\0{shown}".encode()).hexdigest()[:16]


NO_SHOTS: Shots = FixedShots(())
