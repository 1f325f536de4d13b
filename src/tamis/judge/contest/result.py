"""What a contest found, as frozen records that go to JSON and back; none of them holds a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from tamis.estimates import Estimate, Number, Point
from tamis.judge.result import Basis, Comparison, Speed, plain
from tamis.judge.verdict import TEACHER

METRIC = "macro_f1"
LEVEL = 0.05
KNOWLEDGE, PLAIN_KNOWLEDGE = "D", "D1"
"""Group of the students that differ in what they learn from their teacher, and the one with its answers alone."""

Wrong = Literal["both", "student", "teacher"]
"""Who has a row wrong: the best student and the teacher, or one of them alone."""


@dataclass(frozen=True)
class Standing:
    """One candidate: means over its runs, and what single runs show.

    `spread` is the standard deviation over seeds, NaN with one seed. `confusion` (single-label) is the sum over runs,
    with one more column for no answer. `roc` and `precision_recall` hold a curve a run, for the models that are drawn.
    `failed` says by seed why a run is missing.
    """

    group: str
    seeds: tuple[int, ...]
    failed: Mapping[int, str] = field(default_factory=dict)
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    spread: Mapping[str, Number] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] | None = None
    roc: tuple[tuple[Point, ...], ...] = ()
    precision_recall: tuple[tuple[Point, ...], ...] = ()
    facts: Mapping[str, int | float | str] = field(default_factory=dict)
    speed: Speed | None = None

    @property
    def mean_confusion(self) -> tuple[tuple[float, ...], ...]:
        """Rows by true and said category, mean over runs; empty without a run or with several labels."""
        return tuple(tuple(count / len(self.seeds) for count in row) for row in self.confusion or ())


@dataclass(frozen=True)
class Change(Comparison):
    """`first` against `second`: the comparison, with McNemar's p for several runs, and the p of the paired bootstrap.

    Both p are corrected by Holm for all changes of the contest.
    """

    first: str
    second: str
    p_bootstrap: Number
    p_bootstrap_holm: Number

    @property
    def is_sure(self) -> bool:
        """More than noise: the interval of the difference leaves out 0 and the corrected bootstrap p is under 0.05."""
        return not self.is_noise and self.p_bootstrap_holm < LEVEL


@dataclass(frozen=True)
class Omnibus:
    """Cochran's Q over all candidates that ran."""

    statistic: float
    freedom: int
    p: Number


@dataclass(frozen=True)
class Ranks:
    """Candidates by rising adapter rank, the one with the highest figure, and the lowest rank not surely below it."""

    names: tuple[str, ...]
    peak: str
    knee: str


@dataclass(frozen=True)
class Disagreement:
    """A row that the best student or the teacher has wrong in half of its runs or more, with all that its runs said."""

    id: str
    wrong: Wrong
    truth: tuple[str, ...]
    student: tuple[str, ...]
    teacher: tuple[str, ...]


@dataclass(frozen=True)
class Confused:
    """A kind of mistake, in rows a run, before and after; `said` is empty for no answer."""

    truth: str
    said: str
    before: float
    after: float

    @property
    def change(self) -> float:
        """Rows added; fewer are negative."""
        return self.after - self.before


@dataclass(frozen=True)
class Contest(Basis):
    """All candidates on one split; `best` was chosen by the caller, on other rows."""

    against: str
    best: str | None
    standings: Mapping[str, Standing]
    changes: tuple[Change, ...]
    omnibus: Omnibus | None
    ranks: Ranks | None
    disagreements: tuple[Disagreement, ...]

    @property
    def ran(self) -> dict[str, Standing]:
        """The candidates with at least one run."""
        return {name: one for name, one in self.standings.items() if one.seeds}

    @property
    def teacher(self) -> str | None:
        """The teacher's name, if it was measured."""
        return TEACHER if TEACHER in self.ran else None

    @property
    def resamples(self) -> int:
        """Resamples behind each change."""
        return self.bootstrap * len(self.changes)

    def change(self, first: str | None, second: str | None) -> Change | None:
        """What was found of one candidate against another."""
        return next((one for one in self.changes if (one.first, one.second) == (first, second)), None)

    @property
    def knowledge(self) -> list[Change]:
        """What each kind of a teacher's knowledge adds to its answers alone."""
        pairs = (one for one in self.changes if one.second == PLAIN_KNOWLEDGE)
        return [one for one in pairs if self.standings[one.first].group == KNOWLEDGE]

    def value(self, name: str) -> Estimate:
        """The figure a candidate is compared by."""
        return self.standings[name].metrics[METRIC]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; NaN is null."""
        tree: dict[str, Any] = plain(_ADAPTER.dump_python(self, mode="json"))
        return tree

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Contest:
        """The contest `to_json` wrote."""
        return _ADAPTER.validate_python(tree)


_ADAPTER: TypeAdapter[Contest] = TypeAdapter(Contest)


def confusion_changes(before: Standing, after: Standing, names: tuple[str, ...]) -> list[Confused]:
    """Off-diagonal cells of two confusion matrices that differ, the largest change first.

    Cells are rows a run; a matrix is (categories, categories and no answer).
    """
    found = []
    for truth, row, other in zip(names, before.mean_confusion, after.mean_confusion, strict=False):
        for said, old, new in zip((*names, ""), row, other, strict=True):
            if said != truth and old != new:
                found.append(Confused(truth, said, old, new))
    return sorted(found, key=lambda one: (-abs(one.change), one.truth, one.said))
