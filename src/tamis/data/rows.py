"""What reading yields: a row, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Advance = Callable[[int, int], None]
"""Told how much is done and of how much (bytes or rows), for a progress bar."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source, columns and labels mapped, the text not yet cleaned."""

    text: str
    source: str
    where: str
    lang: str | None = None
    label: str | None = None
    labels: tuple[str, ...] | None = None
    score: float | None = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be used: where it stands, why, and its text as far as it could be read.

    What stands before the first colon of `reason` is the same for all rows of a kind and is what tables count.
    """

    where: str
    reason: str
    text: str = ""

    @property
    def kind(self) -> str:
        """The reason without its particulars."""
        return self.reason.partition(":")[0]


def ignore(done: int, total: int) -> None:
    """An `Advance` that shows nothing."""
