"""How many cores a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tamis import machine
from tamis.machine import cores


@pytest.mark.parametrize(
    ("said", "wanted"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("", 64), ("two cores", 64)],
)
def test_a_container_is_not_given_more_than_its_quota(
    said: str, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(64)))
    (tmp_path / "cpu.max").write_text(said)
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    assert cores() == wanted


def test_without_quotas_it_is_the_cores_the_process_may_be_put_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "none")
    before = os.sched_getaffinity(0)
    assert cores() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
