"""Rows of an earlier run beside new ones: each stays in the split it was in, and a newer verdict takes its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from tamis.config import SourceConfig, SplitName
from tamis.data.prepare import clean, contradict
from tamis.data.rows import Rejected, Row
from tamis.records import Example, Splits, content_id

NAMES: dict[SplitName, str] = {name: f"{name} before" for name in get_args(SplitName)}
"""What the source of an earlier row is called, by its split."""


def sources_before(before: Splits) -> tuple[SourceConfig, ...]:
    """A source for each split of the earlier run that has rows; none of them is a file to read."""
    return tuple(
        SourceConfig(path=name, name=name, split=split) for split, name in NAMES.items() if getattr(before, split)
    )


def rows_before(before: Splits, new: Sequence[Row | Rejected]) -> Iterator[Row]:
    """The rows of the earlier run, but those that somebody has judged otherwise since."""
    judged = {content_id(clean(row.text)): row for row in new if isinstance(row, Row)}
    for split, name in NAMES.items():
        for example in getattr(before, split).examples:
            newer = judged.get(example.id)
            if newer is None or not contradict(newer, example):
                yield _row(example, name)


def _row(example: Example, source: str) -> Row:
    judged = example.label, example.labels, example.score, example.unknown
    return Row(example.text, source, example.id, example.lang, *judged)
