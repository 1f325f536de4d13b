"""Writing and reading what the data room leaves on disk; a file is whole or not there."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from tamis.errors import DataError
from tamis.records import CalibrationSplit, Example, Splits, TestSplit, TrainSplit, ValidationSplit

FOLDER = "splits"
FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic(path: Path) -> Iterator[TextIO]:
    """A text file that takes its name when it is written to the end.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno in FULL:
            raise DataError(f"no space left on disk to write {path}: free some or set another `out`") from error
        raise DataError(
            f"cannot write {path} ({error.strerror or error}): check the folder or set another `out`"
        ) from error
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    # A full or broken disk must not hide the first error behind a second one.
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, or none."""
    with atomic(path) as file:
        file.write(text)


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, without what is None."""
    with atomic(path) as file:
        for record in records:
            present = {key: value for key, value in record.items() if value is not None}
            file.write(json.dumps(present, ensure_ascii=False) + "\n")


def write_splits(splits: Splits, out: Path) -> None:
    """Write `out/splits/<name>.jsonl`, an `Example` a line."""
    for name in ("train", "validation", "calibration", "test"):
        examples = getattr(splits, name).examples
        write_lines(out / FOLDER / f"{name}.jsonl", (asdict(example) for example in examples))


def load_splits(out: Path) -> Splits:
    """Read back what `prepare_splits` wrote to `out`.

    Raises:
        DataError: the splits are not there or cannot be read.
    """
    return Splits(
        TrainSplit(_examples(out, "train")),
        ValidationSplit(_examples(out, "validation")),
        CalibrationSplit(_examples(out, "calibration")),
        TestSplit(_examples(out, "test")),
    )


def _examples(out: Path, name: str) -> tuple[Example, ...]:
    path = Path(out) / FOLDER / f"{name}.jsonl"
    number = 0
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            examples = []
            for number, line in enumerate(file, 1):  # noqa: B007 - told in the error
                examples.append(_example(json.loads(line)))
            return tuple(examples)
    except FileNotFoundError as error:
        raise DataError(f"no splits at {path}: prepare the data of this run first") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}:{number} holds no example ({error}): prepare the data again") from error


def _example(record: Any) -> Example:
    if not isinstance(record, dict):
        raise TypeError(f"a {type(record).__name__}, wanted an object")
    lists = {key: tuple(value) for key, value in record.items() if isinstance(value, list)}
    return Example(**(record | lists))
