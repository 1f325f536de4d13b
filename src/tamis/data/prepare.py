"""From rows to examples: clean, tell the language, remove exact and near-duplicates, refuse contradictions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tamis.config import DataConfig, SplitName
from tamis.data.near import near_duplicates
from tamis.data.rows import Advance, Rejected, Row, ignore
from tamis.data.sources import named
from tamis.languages import language
from tamis.records import Example, content_id

LINE_ENDS = re.compile("\r\n|[\r\x85\u2028\u2029]")
UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
PRIORITY: dict[SplitName | None, int] = {"test": 0, "calibration": 1, "validation": 2, "train": 3, None: 3}
"""Whose copy of a text is kept: what measures before what selects, what selects before what teaches."""

CONTRADICTION = "contradicting labels"


@dataclass(frozen=True)
class Prepared:
    """Examples that differ, the rows that were refused, and how many copies were removed.

    `counts` has `read`, `exact_duplicates`, `near_duplicates`, `near_duplicates_of_evaluation` (training copies of a
    text that a source put into an evaluation split) and `near_duplicates_other_label`.
    """

    examples: tuple[Example, ...]
    rejected: tuple[Rejected, ...]
    counts: Mapping[str, int] = field(default_factory=dict)


def clean(text: str) -> str:
    """The text as written, without what no reader sees and no encoder takes; doing it twice changes nothing."""
    return UNWANTED.sub("", LINE_ENDS.sub("\n", text)).strip()


def prepare(rows: Iterable[Row | Rejected], config: DataConfig, advance: Advance = ignore) -> Prepared:
    """Make examples of rows; every row becomes an example, a counted copy of one, or is rejected with a reason.

    Of several copies the one of an evaluation split is kept, then the gold one, then the first. A text with two
    different verdicts is rejected altogether. Near-duplicates inside one forced evaluation split stay, so that a
    published test set is measured as published.

    Args:
        rows: what `sources.read` yields, of all sources.
        config: lengths, similarity, shingle and the sources' splits.
        advance: told the rows compared so far; each counts twice.
    """
    merged = _Merger(config)
    for row in rows:
        merged.add(row)
    examples, rejected, counts = merged.result()
    kept = _without_near(examples, config, merged.splits, counts, advance)
    return Prepared(tuple(kept), tuple(rejected), dict(counts))


class _Merger:
    """Merges copies of one text while rows stream through."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self.splits: dict[str, SplitName | None] = {str(source.name): source.split for source in named(config.sources)}
        self._index: dict[str, int] = {}
        self._examples: list[Example] = []
        self._where: list[str] = []
        self._contradicted: set[str] = set()
        self._rejected: list[Rejected] = []
        self._counts: Counter[str] = Counter(read=0, exact_duplicates=0)

    def add(self, row: Row | Rejected) -> None:
        """Take one row in."""
        self._counts["read"] += 1
        example = row if isinstance(row, Rejected) else self._example(row)
        if isinstance(example, Rejected):
            self._rejected.append(example)
            return
        where = row.where
        index = self._index.setdefault(example.id, len(self._examples))
        if index == len(self._examples):
            self._examples.append(example)
            self._where.append(where)
        else:
            self._merge(index, example, where)

    def _example(self, row: Row) -> Example | Rejected:
        text = clean(row.text)
        config = self._config
        reason = None
        if not text:
            reason = "no text: control characters only"
        elif len(text) < config.min_chars:
            reason = f"too short: {len(text)} characters, `data.min_chars` is {config.min_chars}"
        elif len(text) > config.max_chars:
            reason = f"too long: {len(text)} characters, `data.max_chars` is {config.max_chars}"
        elif row.label is None and row.labels is None and row.score is None and self._priority(row.source) < 3:
            reason = f"no verdict: source {row.source} is used for {self.splits[row.source]}"
        if reason is not None:
            return Rejected(row.where, reason, text)
        lang = row.lang or language(text)
        return Example(content_id(text), text, lang, row.source, row.label, row.labels, row.score, row.unknown)

    def _priority(self, source: str) -> int:
        return PRIORITY[self.splits.get(source)]

    def _merge(self, index: int, copy: Example, where: str) -> None:
        held = self._examples[index]
        if held.id in self._contradicted or contradict(held, copy):
            self._contradicted.add(held.id)
            self._rejected.append(Rejected(where, CONTRADICTION, copy.text))
            return
        self._counts["exact_duplicates"] += 1
        if self._worth(copy) < self._worth(held):
            held, copy = copy, held
            self._where[index] = where
        self._examples[index] = _joined(held, copy)

    def _worth(self, example: Example) -> tuple[bool, int]:
        return not example.is_gold, self._priority(example.source)

    def result(self) -> tuple[list[Example], list[Rejected], Counter[str]]:
        """Examples that differ, rejected rows and counts so far."""
        examples = []
        for example, where in zip(self._examples, self._where, strict=True):
            if example.id in self._contradicted:
                self._rejected.append(Rejected(where, CONTRADICTION, example.text))
            else:
                examples.append(example)
        return examples, self._rejected, self._counts


def contradict(left: Example | Row, right: Example | Row) -> bool:
    """Whether two verdicts on the same text cannot both be right."""
    pairs = ((left.label, right.label), (left.score, right.score))
    if any(one is not None and other is not None and one != other for one, other in pairs):
        return True
    return _denies(left, right) or _denies(right, left)


def _denies(one: Example | Row, other: Example | Row) -> bool:
    """Whether a label of the one does not hold for the other."""
    if one.labels is None or other.labels is None:
        return False
    return not set(one.labels) <= {*other.labels, *other.unknown}


def _joined(kept: Example, copy: Example) -> Example:
    """The example that is kept, with what its copy knows of categories nobody has judged in it."""
    if kept.labels is None or copy.labels is None:
        return kept
    labels = (*kept.labels, *(name for name in copy.labels if name in kept.unknown))
    return replace(kept, labels=labels, unknown=tuple(name for name in kept.unknown if name in copy.unknown))


def _without_near(
    examples: list[Example],
    config: DataConfig,
    splits: Mapping[str, SplitName | None],
    counts: Counter[str],
    advance: Advance,
) -> list[Example]:
    priority = np.array([PRIORITY[splits.get(example.source)] for example in examples], dtype=np.int64)
    silver = np.array([not example.is_gold for example in examples], dtype=bool)
    order = np.lexsort((np.arange(len(examples)), silver, priority))
    group = np.where(priority < 3, priority, -1)
    texts = [example.text for example in examples]
    match = near_duplicates(texts, order, group, config.shingle, config.near_duplicate, advance)
    dropped = np.flatnonzero(match >= 0)
    counts["near_duplicates"] = int(dropped.size)
    counts["near_duplicates_of_evaluation"] = int((priority[match[dropped]] < 3).sum())
    counts["near_duplicates_other_label"] = sum(contradict(examples[i], examples[match[i]]) for i in dropped.tolist())
    return [example for example, of in zip(examples, match.tolist(), strict=True) if of < 0]
