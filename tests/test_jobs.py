"""Processes side by side, started in both ways."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from psutil import Process, wait_procs
from torch import cuda

from tamis.errors import DataError
from tamis.jobs import Done, Job, run_jobs


def count(folder: Path) -> None:
    sys.stdout.write("counted\n")
    (folder / "threads").write_text(str(torch.get_num_threads()))


def complain(_folder: Path) -> None:
    raise DataError("row 7 is empty: fill it")


def stumble(_folder: Path) -> None:
    raise RuntimeError("no sentence for a user")


def die(_folder: Path) -> None:
    os.kill(os.getpid(), 9)


def stay(folder: Path) -> None:
    (folder / "half").write_text(str(os.getpid()))
    (folder / "half").rename(folder / "pid")
    time.sleep(600)


@pytest.fixture(params=["forkserver", "spawn"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "spawn":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif cuda.device_count() or sys.platform != "linux":
        pytest.skip("no process is forked beside a GPU or on this system")


@pytest.mark.usefixtures("way")
def test_each_fails_alone_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "die").mkdir()
    (tmp_path / "die" / "log.txt").write_text("tamis: what it said when it was tried before\n")
    jobs = [Job(work.__name__, work, tmp_path / work.__name__) for work in (complain, stumble, die, count)]
    done: dict[str, Done] = {one.job.name: one for one in run_jobs(jobs, 2)}
    assert done["count"].failed is None
    assert "counted" in done["count"].job.log.read_text()
    assert (tmp_path / "count" / "threads").read_text() == str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert done["complain"].failed == "row 7 is empty: fill it"
    assert done["stumble"].failed == f"stumble ended with exit code 1: see {tmp_path / 'stumble' / 'log.txt'}"
    assert "no sentence for a user" in done["stumble"].job.log.read_text()
    assert "signal 9, as when memory runs out" in str(done["die"].failed)


@pytest.mark.usefixtures("way")
def test_what_runs_ends_when_the_caller_stops(tmp_path: Path) -> None:
    jobs = [Job("count", count, tmp_path / "count"), *(Job(name, stay, tmp_path / name) for name in ("a", "b"))]
    running = run_jobs(jobs, 2)
    assert next(running).job.name == "count"
    deadline = time.monotonic() + 60
    while not (tmp_path / "a" / "pid").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stays = Process(int((tmp_path / "a" / "pid").read_text()))
    running.close()
    assert not wait_procs([stays], timeout=30)[1]
    assert not (tmp_path / "b").exists()


def test_a_script_need_not_guard_what_it_does(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from tests.test_jobs import count\n"
        "from tamis.jobs import Job, run_jobs\n"
        f"print([one.failed for one in run_jobs([Job('count', count, Path({str(tmp_path)!r}))], 1)])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "[None]\n"), done.stderr
