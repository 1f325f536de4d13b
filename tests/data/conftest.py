from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tamis.config import DataConfig, SourceConfig
from tamis.policy import Policy

Write = Callable[..., Path]


def make_policy(kind: str = "single_label") -> Policy:
    def category(name: str, benign: bool = False) -> dict[str, Any]:
        texts = {"en": name, "zh": name}
        return {"id": name, "name": texts, "short": texts, "severity": 0, "benign": benign, "definition": texts}

    categories = [category("normal", benign=True), category("abuse"), category("fraud")]
    return Policy.model_validate({"name": "p", "version": "1", "kind": kind, "categories": categories})


@pytest.fixture(scope="session")
def policy() -> Policy:
    return make_policy()


@pytest.fixture(scope="session")
def multi_policy() -> Policy:
    return make_policy("multi_label")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write bytes, text or JSON rows to a file below `tmp_path`; gzipped where its name ends in .gz."""

    def to(name: str, content: bytes | str | Iterable[Any]) -> Path:
        if not isinstance(content, bytes | str):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        raw = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return to


@pytest.fixture(scope="session")
def data() -> Callable[..., DataConfig]:
    """A `DataConfig` of sources given as name=split."""

    def of(sources: dict[str, str | None] | None = None, **settings: Any) -> DataConfig:
        named = [
            SourceConfig(path=f"{name}.jsonl", split=split)  # type: ignore[arg-type]
            for name, split in (sources or {"s": None}).items()
        ]
        return DataConfig(sources=tuple(named), **settings)

    return of
