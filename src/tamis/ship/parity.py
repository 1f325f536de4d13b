"""Whether an exported student decides as the trained one: overall, in each language and in each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tamis.errors import BundleError
from tamis.policy import Policy
from tamis.records import Example, Scores

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
    wanted: Sequence[Scores], got: Sequence[Scores], examples: Sequence[Example], policy: Policy
) -> dict[str, Parity]:
    """Two models' scores of the same texts, by group: `all`, `language ...` and `class ...`, the student's category.

    Args:
        wanted: of the trained student at the bundle's temperature.
        got: of the bundle.
        examples: of the calibration split, in the order of the scores.
        policy: whose thresholds decide.
    """
    groups: dict[str, list[int]] = {ALL: list(range(len(wanted)))}
    for place, (scores, example) in enumerate(zip(wanted, examples, strict=True)):
        for name in (f"language {example.lang}", f"class {scores.category}"):
            groups.setdefault(name, []).append(place)
    return {name: _parity([(wanted[i], got[i]) for i in places], policy) for name, places in groups.items()}


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


def _parity(pairs: Sequence[tuple[Scores, Scores]], policy: Policy) -> Parity:
    act = policy.actions.of
    flipped = [a for a, b in pairs if a.category != b.category or act(a.risk) != act(b.risk)]
    clear = sum(_margin(scores, policy) > NEAR_TIE for scores in flipped)
    apart = (abs(a.probabilities[name] - b.probabilities[name]) for a, b in pairs for name in policy.ids)
    return Parity(len(pairs), len(flipped), clear, max(apart, default=0.0))


def _margin(scores: Scores, policy: Policy) -> float:
    """How far a decision is from another one: to the second category, or to a threshold, whichever is nearer."""
    first, second = sorted(scores.probabilities.values(), reverse=True)[:2]
    return min(first - second, abs(scores.risk - policy.actions.review), abs(scores.risk - policy.actions.block))
