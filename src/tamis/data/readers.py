"""From files to cells: one generator a format, each streaming, each turning a bad line into a `Rejected`."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from tamis.data.rows import Advance, Rejected
from tamis.errors import DataError, need

Item = tuple[str, Mapping[str, Any]] | Rejected
Header = Callable[[list[str]], None]

SAMPLE_BYTES = 1 << 18
FIELD_BYTES = 1 << 20
TELL_EVERY = 1000
ESCAPED_BYTES = re.compile("[\udc80-\udcff]")
HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
COMMON_HANZI = {
    "GB18030": frozenset("的一是不了在人有我他这个们中来上大为和国"),
    "Big5": frozenset("的一是不了在人有我他這個們中來上大為和國"),
}


def lines(path: Path, advance: Advance) -> Iterator[tuple[int, bytes]]:
    """Numbered raw lines of a plain or gzipped file.

    Raises:
        DataError: the file is empty, cannot be read, is cut off, or is in another encoding than UTF-8.
    """
    try:
        with path.open("rb") as raw:
            stream = _unzipped(raw, path)
            _refuse_foreign(path, _sample(path))
            for number, line in enumerate(stream, 1):
                if number % TELL_EVERY == 0:
                    advance(raw.tell(), path.stat().st_size)
                yield number, line
    except EOFError as error:
        raise DataError(f"{path} is a gzip file that was cut off: copy or download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a sound gzip file ({error}): copy it again or remove `.gz`") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _unzipped(raw: io.BufferedReader, path: Path) -> io.BufferedReader:
    if not path.name.endswith(".gz"):
        return raw
    return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw)), 1 << 16)


def _sample(path: Path) -> bytes:
    with path.open("rb") as raw:
        return _unzipped(raw, path).read1(SAMPLE_BYTES)


def _refuse_foreign(path: Path, sample: bytes) -> None:
    if not sample.strip():
        raise DataError(f"{path} is empty: give a file with at least one row")
    found = foreign_encoding(sample)
    if found is None:
        return
    if path.name.endswith(".gz"):
        command = f"gzip -dc {path} | iconv -f {found} -t UTF-8 | gzip > utf8-{path.name}"
    else:
        command = f"iconv -f {found} -t UTF-8 {path} > utf8-{path.name}"
    raise DataError(f"{path} must be UTF-8 and looks like {found}: convert it with `{command}`")


def foreign_encoding(sample: bytes) -> str | None:
    """Likely encoding of bytes most of whose non-ASCII lines are not UTF-8; None where they are."""
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    whole = sample[: sample.rfind(b"\n") + 1] if len(sample) >= SAMPLE_BYTES else sample
    beyond_ascii = [line for line in (whole or sample).split(b"\n") if not line.isascii()]
    bad = [line for line in beyond_ascii if not _decodes(line)]
    if len(bad) * 2 <= len(beyond_ascii):
        return None
    runs = [len(run) for line in bad for run in HIGH_BYTES.findall(line)]
    # Accented Latin letters stand alone; two-byte scripts come in runs.
    return "WINDOWS-1252" if sum(runs) < 2 * len(runs) else _chinese_encoding(b"\n".join(bad))


def _decodes(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _chinese_encoding(sample: bytes) -> str:
    def common(name: str) -> int:
        return sum(letter in COMMON_HANZI[name] for letter in sample.decode(name, "ignore"))

    return max(COMMON_HANZI, key=common)


def read_jsonl(path: Path, header: Header, advance: Advance) -> Iterator[Item]:
    """One JSON object a line; blank lines are skipped. Columns are known only at the end, so `header` is not called."""
    del header
    for number, raw in lines(path, advance):
        if number == 1 and raw.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            raise DataError(
                f"{path} holds a JSON array, wanted one object a line: convert it with `jq -c '.[]' {path}`"
            )
        where = f"{path.name}:{number}"
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            yield Rejected(where, "bytes that are not UTF-8", raw.decode("utf-8", "replace").strip())
            continue
        if text.strip():
            yield _object(text, where)


def _object(text: str, where: str) -> Item:
    try:
        cells = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Rejected(where, f"bad JSON: {error}", text.strip())
    if not isinstance(cells, dict):
        return Rejected(where, f"bad JSON: a {type(cells).__name__}, wanted an object", text.strip())
    return where, cells


class _PhysicalLines:
    """Decoded lines that remember those of the record being read, so that a broken record can be read again."""

    def __init__(self, numbered: Iterator[tuple[int, bytes]]) -> None:
        self._numbered = numbered
        self._again: deque[tuple[int, str]] = deque()
        self.taken: list[tuple[int, str]] = []

    def __iter__(self) -> _PhysicalLines:
        return self

    def __next__(self) -> str:
        self.taken.append(self._again.popleft() if self._again else self._fresh())
        return self.taken[-1][1]

    def _fresh(self) -> tuple[int, str]:
        number, raw = next(self._numbered)
        # Bad bytes become lone surrogates, which strict UTF-8 cannot hold, so they can be told later.
        return number, raw.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")

    def only_first(self) -> tuple[int, str]:
        """Give back all lines of the record but the first, and return that."""
        first, *rest = self.taken
        self._again.extendleft(reversed(rest))
        return first


def read_csv(path: Path, header: Header, advance: Advance) -> Iterator[Item]:
    """Comma-separated values with a header line."""
    return _delimited(path, header, advance, ",")


def read_tsv(path: Path, header: Header, advance: Advance) -> Iterator[Item]:
    """Tab-separated values with a header line; a line whose quotes do not close is read as if it had none."""
    return _delimited(path, header, advance, "\t")


def _delimited(path: Path, header: Header, advance: Advance, delimiter: str) -> Iterator[Item]:
    csv.field_size_limit(FIELD_BYTES)
    physical = _PhysicalLines(lines(path, advance))
    columns: list[str] | None = None
    for where, cells in _records(path, physical, delimiter):
        if isinstance(cells, Rejected):
            yield cells
        elif columns is None:
            columns = [name.strip() for name in cells]
            header(columns)
        elif cells:
            yield _named(where, columns, cells)


def _records(path: Path, physical: _PhysicalLines, delimiter: str) -> Iterator[tuple[str, list[str] | Rejected]]:
    while True:
        for cells in _records_until_broken(physical, delimiter):
            yield f"{path.name}:{physical.taken[0][0]}", cells
            physical.taken.clear()
        if not physical.taken:
            return
        # A record that does not end costs its first line only: what follows is read afresh.
        number, text = physical.only_first()
        physical.taken.clear()
        where = f"{path.name}:{number}"
        if delimiter == "\t":
            yield where, text.rstrip("\r\n").split("\t")
        else:
            yield where, Rejected(where, "bad CSV: quotes that do not pair", _shown(text.strip()))


def _records_until_broken(physical: _PhysicalLines, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(physical, delimiter=delimiter, strict=True)
    except csv.Error:
        return


def _named(where: str, columns: list[str], cells: list[str]) -> Item:
    line = " ".join(cells)
    if ESCAPED_BYTES.search(line):
        return Rejected(where, "bytes that are not UTF-8", _shown(line))
    if len(cells) != len(columns):
        return Rejected(where, f"wrong number of cells: {len(cells)}, the header has {len(columns)}", line)
    return where, dict(zip(columns, cells, strict=True))


def _shown(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def read_parquet(path: Path, header: Header, advance: Advance) -> Iterator[Item]:
    """Rows of a Parquet file, a batch at a time."""
    arrow = need("pyarrow", "train")
    parquet = need("pyarrow.parquet", "train")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: give a file with at least one row")
    try:
        table = parquet.ParquetFile(path)
        header(table.schema_arrow.names)
        number, total, size = 0, max(table.metadata.num_rows, 1), path.stat().st_size
        for batch in table.iter_batches(batch_size=4096):
            yield from _batch_rows(path, batch, number)
            number += batch.num_rows
            advance(size * number // total, size)
    except (arrow.ArrowInvalid, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"cannot read {path} as Parquet ({reason}): write or copy it again") from error


def _batch_rows(path: Path, batch: Any, before: int) -> Iterator[Item]:
    try:
        rows: list[dict[str, Any] | None] = batch.to_pylist()
    except UnicodeDecodeError:
        rows = [_sound_row(batch.slice(index, 1)) for index in range(batch.num_rows)]
    for number, cells in enumerate(rows, before + 1):
        where = f"{path.name}: row {number}"
        yield Rejected(where, "bytes that are not UTF-8") if cells is None else (where, cells)


def _sound_row(batch: Any) -> dict[str, Any] | None:
    try:
        return dict(batch.to_pylist()[0])
    except UnicodeDecodeError:
        return None


def read_hub(name: str, subset: str | None, split: str, header: Header) -> Iterator[Item]:
    """Rows of a data set of the Hugging Face hub, streamed; class labels are given by name.

    Raises:
        DataError: no such data set, subset or split, or no connection.
    """
    datasets = need("datasets", "train")
    try:
        table = datasets.load_dataset(name, subset, split=split, streaming=True)
        features = table.features or {}
        if features:
            header(list(features))
        names = {column: kind.names for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
        for number, cells in enumerate(table, 1):
            yield f"{name}: row {number}", {key: _class_name(value, names.get(key)) for key, value in cells.items()}
    except DataError:
        raise
    except Exception as error:  # the library raises errors of many others
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"cannot read hub:{name} (subset {subset}, split {split}): {type(error).__name__}: {reason}; "
            "check its name, `subset`, `hub_split` and the connection"
        ) from error


def _class_name(value: Any, names: list[str] | None) -> Any:
    return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value


READERS: dict[str, Callable[[Path, Header, Advance], Iterator[Item]]] = {
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".tsv": read_tsv,
    ".tsv.gz": read_tsv,
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".parquet": read_parquet,
}
