"""What the comparison of the running model and its successor found, as frozen records; none of them holds a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from tamis.errors import PromotionError
from tamis.estimates import Number
from tamis.judge.result import plain

Kind = Literal["reviewed", "before", "frozen", "functional"]
Outcome = Literal["fell", "short", "open", "held", "new"]
Advice = Literal["new", "unasked", "teacher", "student"]


@dataclass(frozen=True)
class Change:
    """One class in one set: F1, or of functional tests the share passed, of the running model and of the new one.

    `low` and `high` are one-sided bounds of `after - before`: each is passed by chance with probability 1 - confidence.
    `unseen` is the share of the class that may have changed although none of its `rows` shows it. The outcome is `fell`
    where a fall beyond the tolerance is shown, `held` where it is shown that there is none, `open` where these rows
    show neither; of a new category `new`, or `short` of the F1 that is wanted.
    """

    rows: int
    before: Number
    after: Number
    low: Number
    high: Number
    unseen: Number
    outcome: Outcome

    @property
    def possible_fall(self) -> float:
        """The largest fall that the rows do not rule out."""
        return max(-self.low, self.unseen)


@dataclass(frozen=True)
class Suite:
    """A set of texts that both models were asked about; changes go by category.

    It is of `reviewed` texts, of the test split of `before`, `frozen`, or `functional`.
    """

    name: str
    kind: Kind
    rows: int
    changes: Mapping[str, Change]


@dataclass(frozen=True)
class Passed:
    """One functional test: its cases and how many each model passes; `about` by language."""

    category: str
    about: Mapping[str, str]
    cases: int
    before: int
    after: int


@dataclass(frozen=True)
class Missed:
    """Reviewed texts of one category, and those of them in which the running model did not see it.

    Of the missed, `shared` are those the teacher did not see either, `alone` those it saw; of the others it gave no
    answer. `tested` of the missed were kept from training, and the new model sees the category in `mended` of them.
    """

    rows: int
    missed: int
    shared: int
    alone: int
    tested: int
    mended: int
    advice: Advice


@dataclass(frozen=True)
class Succession:
    """The running model (`old`) against the candidate (`new`), both by their version."""

    policy: str
    old: str
    new: str
    added: tuple[str, ...]
    names: Mapping[str, Mapping[str, str]]
    tolerance: float
    confidence: float
    strict: bool
    new_f1: float | None
    bootstrap: int
    suites: tuple[Suite, ...]
    tests: Mapping[str, Passed] = field(default_factory=dict)
    missed: Mapping[str, Missed] = field(default_factory=dict)

    def having(self, *outcomes: Outcome) -> Iterator[tuple[Suite, str, Change]]:
        """The classes with one of these outcomes, each with its set."""
        for suite in self.suites:
            for name, change in suite.changes.items():
                if change.outcome in outcomes:
                    yield suite, name, change

    @property
    def refusals(self) -> list[tuple[Suite, str, Change]]:
        """Why the candidate may not take the place of the running model; empty where it may."""
        return list(self.having("fell", "short", *(("open",) if self.strict else ())))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; NaN is null."""
        tree: dict[str, Any] = plain(_ADAPTER.dump_python(self, mode="json"))
        return tree

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Succession:
        """The result `to_json` wrote."""
        return _ADAPTER.validate_python(tree)


def require(found: Succession, candidate: Path) -> None:
    """Refuse to go on with a candidate that loses what the running model knows.

    Raises:
        PromotionError: it does.
    """
    if found.refusals:
        lost = ", ".join(f"{name} ({suite.name})" for suite, name, _ in found.refusals)
        raise PromotionError(
            f"the candidate may not follow: {lost}; it is kept as {candidate}, see"
            f" {candidate.parent / 'report' / 'report.html'}"
        )


_ADAPTER: TypeAdapter[Succession] = TypeAdapter(Succession)
