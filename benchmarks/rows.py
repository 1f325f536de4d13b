"""Files of rows that benchmarks read and write."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tamis.records import content_id

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Rows of a .jsonl or .jsonl.gz file, in the order of the hashes of their texts."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return sorted(map(json.loads, file), key=lambda row: content_id(row["text"]))


def write_rows(rows: Iterable[Row], path: Path) -> Path:
    """Write rows as JSON lines; returns where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path
