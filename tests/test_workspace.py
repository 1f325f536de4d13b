from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tamis.errors import ConfigError
from tamis.workspace import Workspace, fingerprint


def go(out: Path, first: int, second: int, until: str = "b") -> list[str]:
    """Two stages; returns which were done rather than loaded."""
    done: list[str] = []
    with Workspace(out, until) as work:
        a = work.run(
            "a", first, lambda folder: done.append("a") or (folder / "x").write_text(str(first)), lambda _: None
        )
        assert a is None or a == len(str(first))
        work.run("b", second, lambda _: done.append("b"), lambda _: None)
        done.append("behind the last stage")
    return done


def test_a_rerun_does_only_what_changed(tmp_path: Path) -> None:
    assert go(tmp_path, 1, 1) == ["a", "b"]
    assert go(tmp_path, 1, 1) == []
    assert go(tmp_path, 1, 2) == ["b"]
    assert go(tmp_path, 2, 2) == ["a", "b"]


def test_it_ends_after_the_wanted_stage(tmp_path: Path) -> None:
    assert go(tmp_path, 1, 1, until="a") == ["a"]
    assert go(tmp_path, 1, 1) == ["b"]


def test_an_interrupted_stage_finds_what_it_made_and_changed_inputs_start_over(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError

    with pytest.raises(RuntimeError), Workspace(tmp_path, "a") as work:
        work.run("a", 1, broken, lambda _: None)
    seen: list[bool] = []
    with Workspace(tmp_path, "a") as work:
        work.run("a", 1, lambda folder: seen.append((folder / "half").exists()), lambda _: None)
    with Workspace(tmp_path, "a") as work:
        work.run("a", 2, lambda folder: seen.append((folder / "half").exists()), lambda _: None)
    assert seen == [True, False]


def test_a_finished_stage_that_lost_a_file_is_done_again(tmp_path: Path) -> None:
    go(tmp_path, 1, 1)
    (tmp_path / "a" / "x").unlink()
    assert go(tmp_path, 1, 1) == ["a"]


def test_two_runs_cannot_share_a_folder_but_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        (tmp_path / ".lock").write_text(str(other.pid))
        with pytest.raises(ConfigError, match=f"in use by process {other.pid}"), Workspace(tmp_path, "a"):
            pass
        other.kill()
    with Workspace(tmp_path, "a"):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="choose another with --out"), Workspace(tmp_path / "file" / "run", "a"):
        pass


def test_a_fingerprint_depends_on_values_not_on_key_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
