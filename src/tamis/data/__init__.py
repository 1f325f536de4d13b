"""From files to typed splits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tamis.config import RunConfig
from tamis.data.before import rows_before, sources_before
from tamis.data.card import write_card
from tamis.data.files import load_splits, write_splits
from tamis.data.leaks import check_leaks
from tamis.data.prepare import Prepared, prepare
from tamis.data.rows import Advance, Rejected, Row, ignore
from tamis.data.sources import named, read
from tamis.data.split import split
from tamis.policy import Policy
from tamis.records import Splits

__all__ = [
    "Prepared",
    "Rejected",
    "Row",
    "check_leaks",
    "load_splits",
    "prepare",
    "prepare_splits",
    "read",
    "split",
    "write_card",
]


def prepare_splits(config: RunConfig, policy: Policy, out: Path, before: Splits | None = None) -> Splits:
    """Read, clean, de-duplicate, split and check; write the splits, the rejected rows and the data card to `out`.

    Args:
        config: the sources and how they are divided.
        policy: the categories.
        out: the folder.
        before: splits of an earlier run whose rows stay in the splits they were in.

    Raises:
        DataError: a source that cannot be used, data that cannot be split, or a full disk.
        LeakError: a text stands, nearly the same, in two splits.
    """
    with _bar() as bar:
        rows, data = _rows(config, policy, bar), config.data
        if before is not None:
            new = list(rows)
            rows = chain(new, rows_before(before, new))
            data = data.model_copy(update={"sources": (*data.sources, *sources_before(before))})
        prepared = prepare(rows, data, _advance(bar, "compare"))
        splits = split(prepared.examples, data, policy)
        check_leaks(splits, _advance(bar, "check for leaks"))
        write_splits(splits, out)
        write_card(splits, prepared, data, policy, out, config.report.language)
    return splits


def _rows(config: RunConfig, policy: Policy, bar: Progress) -> Iterator[Row | Rejected]:
    for source in named(config.data.sources):
        yield from read(source, policy, _advance(bar, f"read {source.name}"))


def _advance(bar: Progress, description: str) -> Advance:
    if bar.disable:
        return ignore
    task = bar.add_task(description, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
