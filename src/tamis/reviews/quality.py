"""How well reviewers judge: against each other, and against items whose answer is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tamis.agreement import cohen, krippendorff
from tamis.reviews.tables import Verdict


@dataclass(frozen=True)
class Errors:
    """Items whose answer is known, and how many of them were judged otherwise."""

    rows: int
    wrong: int

    @property
    def rate(self) -> float:
        """Share judged wrongly; 0 of none."""
        return self.wrong / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Dispute:
    """A first verdict and the blind second one that differs from it."""

    first: Verdict
    second: Verdict


@dataclass(frozen=True)
class Quality:
    """What a lead looks at: agreement beyond chance, errors on hidden gold, disputes, appeals that were overturned."""

    pairs: int
    cohen: float
    krippendorff: float
    by_reviewer: dict[str, Errors]
    by_category: dict[str, Errors]
    disputes: tuple[Dispute, ...]
    appeals: Errors


def quality(said: Iterable[Verdict]) -> Quality:
    """Everything at once, of verdicts that stand; see `reviews.verdicts`.

    Cohen's kappa is over first and second verdicts, Krippendorff's alpha over all that was said of an item of gold as
    well. `by_category` goes by the true category of gold.
    """
    every = list(said)
    pairs = _pairs(every)
    gold = [one for one in every if one.truth is not None]
    units: dict[str, list[str]] = defaultdict(list)
    for one in every:
        # A second look is about the same thing as the first one.
        units[one.earlier if one.cause == "second" and one.earlier else one.item].append(one.verdict)
    appeals = [one for one in every if one.outcome is not None]
    return Quality(
        len(pairs),
        cohen([(first.verdict, second.verdict) for first, second in pairs]),
        krippendorff(units.values()),
        _errors(gold, lambda one: one.reviewer),
        _errors(gold, lambda one: str(one.truth)),
        tuple(Dispute(first, second) for first, second in pairs if first.verdict != second.verdict),
        Errors(len(appeals), sum(one.outcome == "overturn" for one in appeals)),
    )


def _pairs(every: list[Verdict]) -> list[tuple[Verdict, Verdict]]:
    first = {one.item: one for one in every}
    return [(first[one.earlier], one) for one in every if one.cause == "second" and one.earlier in first]


def _errors(gold: list[Verdict], by: Callable[[Verdict], str]) -> dict[str, Errors]:
    found: dict[str, list[bool]] = defaultdict(list)
    for one in gold:
        # Categories of a text that has several are a set.
        found[by(one)].append(set(one.verdict.split()) != set(str(one.truth).split()))
    return {name: Errors(len(wrong), sum(wrong)) for name, wrong in sorted(found.items())}
