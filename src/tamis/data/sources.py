"""Reading sources: whatever the format, rows come out with the same columns, or a reason why not."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from tamis.config import SourceConfig
from tamis.data.readers import READERS, Item, read_hub
from tamis.data.rows import Advance, Rejected, Row, ignore
from tamis.errors import DataError
from tamis.policy import Policy

HUB = "hub:"
DEMO = "demo"
DENIED = "!"
"""Before a label: the category does not hold."""


def read(source: SourceConfig, policy: Policy, advance: Advance = ignore) -> Iterator[Row | Rejected]:
    """Rows of a source, one at a time; a bad row is a `Rejected` and never stops the run.

    Args:
        source: where the rows are and what their columns mean.
        policy: whose category ids the labels must be, after mapping.
        advance: told the bytes read so far and in all; nothing where there is no telling.

    Raises:
        DataError: the source as a whole cannot be used, or nearly all of its labels are unknown.
    """
    if source.path == DEMO:
        yield from _read_demo(source, policy)
    elif source.path.startswith(HUB):
        yield from _read_hub(source, policy)
    else:
        yield from _read_files(files(source), source, policy, advance)


def _read_files(paths: list[Path], source: SourceConfig, policy: Policy, advance: Advance) -> Iterator[Row | Rejected]:
    sizes = [path.stat().st_size for path in paths]
    for number, path in enumerate(paths):
        mapper = _Mapper(source, policy, str(path))
        progress = _after(sum(sizes[:number]), sum(sizes), advance)
        yield from mapper.rows(READERS[_suffix(path)](path, mapper.check_header, progress))
        progress(sizes[number], sizes[number])


def _after(before: int, total: int, advance: Advance) -> Advance:
    return lambda done, _: advance(before + done, total)


def is_local(source: SourceConfig) -> bool:
    """Whether a source is files of this machine."""
    return source.path != DEMO and not source.path.startswith(HUB)


def files(source: SourceConfig) -> list[Path]:
    """Files of a source: itself, or those of a folder in order of their names.

    Raises:
        DataError: there are none, or of a kind that cannot be read.
    """
    path = Path(source.path)
    kinds = ", ".join(READERS)
    if path.is_dir():
        found = sorted(child for child in path.rglob("*") if child.is_file() and _suffix(child) in READERS)
        if not found:
            raise DataError(f"folder {path} holds no file that can be read: put {kinds} files there")
        return found
    if not path.exists():
        raise DataError(f"no file {path}{_nearest_file(path)}: check `data.sources`")
    if _suffix(path) not in READERS:
        raise DataError(f"cannot read {path}: wanted one of {kinds}, a folder, `hub:NAME` or `demo`")
    return [path]


def named(sources: Sequence[SourceConfig]) -> tuple[SourceConfig, ...]:
    """The sources with a name each; files of one name in different folders are told apart by their paths.

    Raises:
        DataError: two sources of one name go into different splits.
    """
    short = [source.name or _short_name(source) for source in sources]
    names = [
        source.path if source.name is None and short.count(name) > 1 else name
        for source, name in zip(sources, short, strict=True)
    ]
    splits: dict[str, str | None] = {}
    for source, name in zip(sources, names, strict=True):
        if splits.setdefault(name, source.split) != source.split:
            raise DataError(f"two sources are called {name!r} and name different splits: give each its own `name`")
    return tuple(source.model_copy(update={"name": name}) for source, name in zip(sources, names, strict=True))


def _short_name(source: SourceConfig) -> str:
    if source.path == DEMO:
        return DEMO
    if source.path.startswith(HUB):
        return source.path.removeprefix(HUB)
    path = Path(source.path)
    return path.name.removesuffix(_suffix(path)) or path.name


def _suffix(path: Path) -> str:
    suffixes = path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]
    return "".join(suffixes).lower() if not path.is_dir() else ""


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f", nor a folder {path.parent}"
    near = difflib.get_close_matches(path.name, [child.name for child in path.parent.iterdir()], n=1)
    return f", did you mean {near[0]}?" if near else ""


def _read_demo(source: SourceConfig, policy: Policy) -> Iterator[Row | Rejected]:
    folder = resources.files("tamis.data") / "demo"
    with resources.as_file(folder) as root:
        paths = {path.stem: path for path in sorted(root.glob("*.jsonl"))}
        wanted = {label: path for label, path in paths.items() if label in policy.ids}
        if not wanted:
            raise DataError(
                f"the demo has rows of {', '.join(paths) or 'no category'} and policy {policy.name} "
                f"has {', '.join(policy.ids)}: give `data.sources` of your own"
            )
        columns = source.model_copy(update={"text": "text", "label": "label", "lang": "lang", "labels": {}})
        for label, path in wanted.items():
            mapper = _Mapper(columns, policy, str(path))
            items = READERS[".jsonl"](path, mapper.check_header, ignore)
            yield from mapper.rows(_labelled(items, label))


def _labelled(items: Iterator[Item], label: str) -> Iterator[Item]:
    for item in items:
        yield item if isinstance(item, Rejected) else (item[0], {**item[1], "label": label})


def _read_hub(source: SourceConfig, policy: Policy) -> Iterator[Row | Rejected]:
    mapper = _Mapper(source, policy, source.path)
    name = source.path.removeprefix(HUB)
    yield from mapper.rows(read_hub(name, source.subset, source.hub_split, mapper.check_header))


class _BadCellError(ValueError):
    """A cell that cannot be used; the message is the reason of the rejection."""


class _Mapper:
    """Maps cells to rows and keeps count, so that a source that is wrong as a whole is told from bad rows."""

    def __init__(self, source: SourceConfig, policy: Policy, where: str) -> None:
        self._source = source
        self._policy = policy
        self._where = where
        self._name = source.name or _short_name(source)
        self._columns: set[str] = set()
        self._labelled = 0
        self._unknown: Counter[str] = Counter()
        self._unknown_rows = 0
        self._reasons: Counter[str] = Counter()
        self._rows = 0

    def rows(self, items: Iterator[Item]) -> Iterator[Row | Rejected]:
        """Map every item, then judge the source as a whole."""
        for item in items:
            row = item if isinstance(item, Rejected) else self._row(*item)
            if isinstance(row, Rejected):
                self._reasons[row.kind] += 1
            else:
                self._rows += 1
            yield row
        self._finish()

    def check_header(self, columns: list[str]) -> None:
        """Refuse a source that lacks a column the recipe names.

        Raises:
            DataError: it lacks one.
        """
        for setting, column in self._wanted():
            if column not in columns:
                raise DataError(self._missing(setting, column, columns))

    def _wanted(self) -> list[tuple[str, str]]:
        source = self._source
        label = source.label if source.score is None else None
        pairs = {"text": source.text, "label": label, "score": source.score, "lang": source.lang}
        return [(setting, column) for setting, column in pairs.items() if column is not None]

    def _missing(self, setting: str, column: str, columns: list[str]) -> str:
        near = difflib.get_close_matches(column, columns, n=1, cutoff=0.5)
        hint = f", the nearest is {near[0]!r}" if near else ""
        null = " (null where there are no labels)" if setting == "label" else ""
        return (
            f"{self._where} has no column {column!r}: it has {', '.join(columns) or 'none'}{hint}; "
            f"set `{setting}` of the source{null}"
        )

    def _row(self, where: str, cells: Mapping[str, Any]) -> Row | Rejected:
        if not self._columns.issuperset(cells):
            self._columns.update(cells)
        source = self._source
        text = cells.get(source.text)
        if not isinstance(text, str) or not text.strip():
            return Rejected(
                where, "no text" if text is None or text == "" or isinstance(text, str) else _not_text(text)
            )
        try:
            found = self._labels(cells.get(source.label) if source.label else None)
            score = _score(cells.get(source.score)) if source.score else None
        except _BadCellError as error:
            return Rejected(where, str(error), text)
        lang = _language_code(cells.get(source.lang)) if source.lang else None
        if found is None:
            return Row(text, self._name, where, lang, score=score)
        labels, denied = found
        if self._policy.kind != "multi_label":
            return Row(text, self._name, where, lang, label=labels[0])
        labels, unknown = self._told(labels, denied)
        return Row(text, self._name, where, lang, labels=labels, unknown=unknown)

    def _labels(self, cell: Any) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Categories a cell says hold, and those it says do not (`!x`)."""
        several = self._policy.kind == "multi_label"
        found = _label_names(cell, several)
        if not found:
            return None
        self._labelled += 1
        denies = [several and name.startswith(DENIED) for name in found]
        bare = [name.removeprefix(DENIED) if no else name for name, no in zip(found, denies, strict=True)]
        mapped = [self._source.labels.get(name, name) for name in bare]
        unknown = [name for name, label in zip(bare, mapped, strict=True) if label not in self._policy.ids]
        if unknown:
            self._unknown_rows += 1
            self._unknown.update(unknown)
            raise _BadCellError(f"unknown label: {', '.join(unknown)}")
        pairs = set(zip(mapped, denies, strict=True))
        labels, denied = (tuple(n for n in self._policy.ids if (n, no) in pairs) for no in (False, True))
        self._check(labels, denied)
        return labels, denied

    def _check(self, labels: tuple[str, ...], denied: tuple[str, ...]) -> None:
        if len(labels) > 1 and self._policy.kind != "multi_label":
            raise _BadCellError(f"several labels where the policy allows one: {', '.join(labels)}")
        if len(labels) > 1 and self._policy.benign in labels:
            raise _BadCellError(f"the benign label with another: {', '.join(labels)}")
        both = [name for name in labels if name in denied]
        if both:
            raise _BadCellError(f"a label that holds and does not: {', '.join(both)}")
        if self._policy.benign in denied:
            raise _BadCellError(f"the benign label denied: {self._policy.benign}, name what holds instead")

    def _told(self, labels: tuple[str, ...], denied: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Labels that hold and categories nobody has judged; the benign one follows from the others, they from it."""
        benign, said = self._policy.benign, {*labels, *denied}
        silent = [name for name in self._policy.ids if name not in said]
        if self._source.unlisted == "absent" or benign in labels or silent == [benign]:
            return labels or (benign,), ()
        return labels, tuple(name for name in silent if not (labels and name == benign))

    def _finish(self) -> None:
        seen = self._rows + self._reasons.total()
        if seen == 0:
            raise DataError(f"{self._where} has no rows: give a file with at least one")
        for setting, column in self._wanted():
            if self._columns and column not in self._columns:
                raise DataError(self._missing(setting, column, sorted(self._columns)))
        if self._unknown_rows * 2 > self._labelled:
            raise DataError(self._unmapped())
        if self._rows == 0:
            reason, count = self._reasons.most_common(1)[0]
            raise DataError(
                f"none of the {seen} rows of {self._where} can be used, {count} for this: {reason}; mend the file"
            )

    def _unmapped(self) -> str:
        found = [name for name, _ in self._unknown.most_common(8)]
        return (
            f"{self._where}: {self._unknown_rows} of {self._labelled} labelled rows have labels policy "
            f"{self._policy.name} does not know ({', '.join(found)}), it has {', '.join(self._policy.ids)}: "
            f"map them in the source, e.g. `labels: {{{found[0]!r}: {self._policy.ids[-1]}}}`"
        )


def _not_text(value: Any) -> str:
    return f"the text is no string: {type(value).__name__}"


def _label_names(cell: Any, several: bool) -> list[str]:
    """Labels in a cell: none, one, a list, or several separated by `|`."""
    if isinstance(cell, (list, tuple)):
        return [name for part in cell for name in _label_names(part, several=False)]
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return []
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    parts = str(cell).split("|") if several else [str(cell)]
    return [part.strip() for part in parts if part.strip()]


def _score(cell: Any) -> float | None:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    try:
        if isinstance(cell, bool):
            raise ValueError
        value = float(cell)
    except (TypeError, ValueError):
        raise _BadCellError("score is no number") from None
    if not 0 <= value <= 1:
        raise _BadCellError(f"score out of [0, 1]: {value:g}")
    return value


def _language_code(cell: Any) -> str | None:
    code = str(cell or "").strip().lower().replace("_", "-").partition("-")[0]
    return code or None
