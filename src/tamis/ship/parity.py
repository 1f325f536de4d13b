"""Whether an exported student decides as the trained one: overall, in each language and in each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tamis.deciding import ANY, limits
from tamis.errors import BundleError
from tamis.records import Example, Scores

if TYPE_CHECKING:
    from tamis.ship.bundle import Moderator

FLIPS_ALLOWED = 0.01
NEAR_TIE = 0.05
ALL = "all"


@dataclass(frozen=True)
class Parity:
    """Some texts judged twice: how many were decided otherwise, and how far the probabilities are apart at most.

    Merging and arithmetic in 16 or 8 bits move a probability by some hundredths, which flips decisions that were nearly
    a tie. Those are counted in `flips`; `clear_flips` counts those the student was not near to taking otherwise.
    """

    texts: int
    flips: int
    clear_flips: int
    largest_difference: float

    @property
    def holds(self) -> bool:
        """At most one clear decision in a hundred is another, or a single one."""
        return self.clear_flips <= max(1, FLIPS_ALLOWED * self.texts)


def compare(
    wanted: Sequence[Scores], got: Sequence[Scores], examples: Sequence[Example], moderator: Moderator
) -> dict[str, Parity]:
    """Two models' scores of the same texts, by group: `all`, `language ...` and `class ...`, the student's category.

    Args:
        wanted: of the trained student, calibrated as the bundle is.
        got: of the bundle.
        examples: of the calibration split, in the order of the scores.
        moderator: the bundle, whose thresholds decide.
    """
    flips = [_flip(a, b, example, moderator) for a, b, example in zip(wanted, got, examples, strict=True)]
    names = moderator.policy.ids
    apart = [max(abs(a.probabilities[n] - b.probabilities[n]) for n in names) for a, b in zip(wanted, got, strict=True)]
    groups: dict[str, list[int]] = {ALL: list(range(len(wanted)))}
    for place, (scores, example) in enumerate(zip(wanted, examples, strict=True)):
        for name in (f"language {example.lang}", f"class {scores.category}"):
            groups.setdefault(name, []).append(place)
    return {
        name: Parity(
            texts=len(places),
            flips=sum(flips[i] is not None for i in places),
            clear_flips=sum(flips[i] == "clear" for i in places),
            largest_difference=max((apart[i] for i in places), default=0.0),
        )
        for name, places in groups.items()
    }


def require_parity(table: Mapping[str, Parity], bundle: str, page: Path) -> None:
    """Refuse a bundle that decides otherwise than its student in any group.

    Args:
        table: of `compare`.
        bundle: what it is called, such as `onnx int8`.
        page: file the table is in.

    Raises:
        BundleError: over one clear decision in a hundred, and more than a single one, is another.
    """
    for name, parity in table.items():
        if not parity.holds:
            raise BundleError(
                f"the {bundle} bundle decides {parity.clear_flips} of {parity.texts} texts ({name}) otherwise than the"
                f" student: not exported, see {page}"
            )


def _flip(wanted: Scores, got: Scores, example: Example, moderator: Moderator) -> Literal["near", "clear"] | None:
    """Whether one text is decided otherwise, and whether the student was near to deciding so."""
    one, other = (moderator.decide(example.text, scores) for scores in (wanted, got))
    if (one.category, one.action) == (other.category, other.action):
        return None
    return "clear" if _margin(wanted, moderator) > NEAR_TIE else "near"


def _margin(scores: Scores, moderator: Moderator) -> float:
    """How far a decision is from another one: to the second category, or to a threshold, whichever is nearer."""
    first, second = sorted(scores.probabilities.values(), reverse=True)[:2]
    held = limits(scores, ANY, moderator.thresholds, moderator.policy)
    return min(first - second, *(abs(one.value - t) for one in held for t in (one.actions.review, one.actions.block)))
