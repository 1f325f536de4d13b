"""Processes side by side, started in both ways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from psutil import Process, wait_procs
from tests.processes import start
from tests.waiting import until
from threadpoolctl import threadpool_info
from torch import cuda

from tamis.errors import DataError
from tamis.jobs import Done, Job, run_jobs
from tamis.machine import cores


def count(folder: Path) -> None:
    sys.stdout.write("counted\n")
    threads = [torch.get_num_threads(), *(one["num_threads"] for one in threadpool_info())]
    told = {"threads": max(threads), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "set": os.environ.get("SET_LATER")}
    (folder / "told").write_text(json.dumps(told))


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


def pid_of(folder: Path) -> int:
    assert until((folder / "pid").is_file, 60)
    return int((folder / "pid").read_text())


def run_one_that_stays(folder: Path) -> None:
    list(run_jobs([Job("a", stay, folder)], 1))


@pytest.fixture(params=["forkserver", "spawn"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "spawn":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif cuda.device_count() or sys.platform != "linux":
        pytest.skip("no process is forked beside a GPU or on this system")


@pytest.mark.usefixtures("way")
def test_each_fails_alone_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setenv("SET_LATER", "yes")
    (tmp_path / "die").mkdir()
    (tmp_path / "die" / "log.txt").write_text("tamis: what it said when it was tried before\n")
    jobs = [Job(work.__name__, work, tmp_path / work.__name__) for work in (complain, stumble, die, count)]
    done: dict[str, Done] = {one.job.name: one for one in run_jobs(jobs, 2)}
    assert done["count"].failed is None
    assert "counted" in done["count"].job.log.read_text()
    told = json.loads((tmp_path / "count" / "told").read_text())
    assert told["threads"] == max(1, cores() // 2)
    assert told["gpu"] in {"2", "3"}
    assert told["set"] == "yes"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert done["complain"].failed == "row 7 is empty: fill it"
    assert done["stumble"].failed == f"stumble ended with exit code 1: see {tmp_path / 'stumble' / 'log.txt'}"
    assert "no sentence for a user" in done["stumble"].job.log.read_text()
    assert "signal 9, as when memory runs out" in str(done["die"].failed)


@pytest.mark.usefixtures("way")
def test_what_runs_ends_when_the_caller_stops(tmp_path: Path) -> None:
    jobs = [Job("count", count, tmp_path / "count"), *(Job(name, stay, tmp_path / name) for name in ("a", "b"))]
    running = run_jobs(jobs, 2)
    assert next(running).job.name == "count"
    stays = Process(pid_of(tmp_path / "a"))
    running.close()
    assert not wait_procs([stays], timeout=30)[1]
    assert not (tmp_path / "b").exists()


def test_nothing_outlives_who_wanted_it_or_what_it_was_forked_from(tmp_path: Path) -> None:
    for name, above in (("wanted", False), ("forked", True)):
        wanted = start(run_one_that_stays, tmp_path / name)
        stays = Process(pid_of(tmp_path / name))
        (stays.parent() if above else Process(wanted.pid)).kill()
        assert not wait_procs([stays], timeout=30)[1], name
        wanted.kill()


def test_one_that_cannot_be_started_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    jobs = [Job("none", count, tmp_path / "file" / "none"), Job("count", count, tmp_path / "count")]
    (tmp_path / "file").touch()
    done = {one.job.name: one.failed for one in run_jobs(jobs, 1)}
    assert done["count"] is None
    assert str(done["none"]).startswith("none could not be started: NotADirectoryError")


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
