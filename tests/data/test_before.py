from __future__ import annotations

import json
from pathlib import Path

import pytest

from tamis.config import RunConfig
from tamis.data import prepare_splits
from tamis.data.before import NAMES, rows_before
from tamis.data.rows import Rejected, Row
from tamis.policy import Policy
from tamis.records import CalibrationSplit, Example, Splits, TestSplit, TrainSplit, ValidationSplit, content_id

WORDS = "river stone candle window garden market winter letter bridge forest mirror basket".split()


def _example(text: str, label: str | None = "normal", **more: object) -> Example:
    return Example(content_id(text), text, "en", "spring", label=label, **more)


@pytest.fixture
def before() -> Splits:
    """Twelve rows of an earlier run, three a split."""
    rows = [_example(f"an old {word} of {word}s", "fraud" if i % 2 else "normal") for i, word in enumerate(WORDS)]
    kinds = (TrainSplit, ValidationSplit, CalibrationSplit, TestSplit)
    return Splits(*(kind(tuple(rows[i::4])) for i, kind in enumerate(kinds)))


def _prepared(before: Splits, rows: list[dict[str, str]], policy: Policy, tmp_path: Path) -> Splits:
    path = tmp_path / "new.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shares = {"validation": 0.2, "calibration": 0.2, "test": 0.2}
    data = {"sources": [{"path": str(path)}], "split": shares}
    return prepare_splits(RunConfig.model_validate({"data": data}), policy, tmp_path / "out", before)


def test_each_row_of_before_stays_in_its_split(before: Splits, small_policy: Policy, tmp_path: Path) -> None:
    rows = [{"text": f"a new {word} {i} {word}", "label": "gambling"} for i, word in enumerate(WORDS)]
    splits = _prepared(before, rows, small_policy, tmp_path)
    for name, source in NAMES.items():
        kept = [row for row in getattr(splits, name).examples if row.source == source]
        assert [(row.id, row.label) for row in kept] == [(row.id, row.label) for row in getattr(before, name).examples]
    assert sum(row.source == "new" for part in vars(splits).values() for row in part.examples) == len(WORDS)


def test_a_newer_verdict_takes_the_place_of_the_older(before: Splits, small_policy: Policy, tmp_path: Path) -> None:
    corrected = before.train.examples[0]
    rows = [{"text": f"a new {word} {i} {word}", "label": "gambling"} for i, word in enumerate(WORDS)]
    rows += [{"text": corrected.text, "label": "gambling"}]
    splits = _prepared(before, rows, small_policy, tmp_path)
    found = [row for part in vars(splits).values() for row in part.examples if row.id == corrected.id]
    assert [(row.label, row.source) for row in found] == [("gambling", "new")]


def test_what_nobody_contradicts_is_carried_over_whole(before: Splits) -> None:
    partial = _example("several labels", None, labels=("fraud",), unknown=("gambling",))
    same = _example("said again")
    again = Splits(TrainSplit((partial, same)), ValidationSplit(()), CalibrationSplit(()), TestSplit(()))
    new = [Row("said again", "new", "1", "en", "normal"), Rejected("2", "no text")]
    rows = list(rows_before(again, new))
    assert [(row.labels, row.unknown) for row in rows] == [(("fraud",), ("gambling",)), (None, ())]
