"""Who gets in, and what keeps others out, over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.ship.console.conftest import Consoled, consoled


@pytest.fixture(scope="module")
def console(bundles: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consoled]:
    with consoled(bundles[0], tmp_path_factory.mktemp("console")) as running:
        yield running


@contextmanager
def signed_in(console: Consoled, name: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=console.url, timeout=30, follow_redirects=True) as client:
        answer = client.post("/sign-in", data={"name": name, "password": console.passwords[name]})
        assert answer.status_code == 200
        yield client


def test_pages_open(console: Consoled) -> None:
    with signed_in(console, "ann") as client:
        page = client.get("/settings")
        assert page.status_code == 200
        assert "ann" in page.text
        assert re.search(r'name="csrf" value="[\w-]{43}"', page.text)
