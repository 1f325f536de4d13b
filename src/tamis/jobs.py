"""Processes side by side: each is given to a free place, ends with its parent, and fails alone."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import cast

import psutil
import torch
from threadpoolctl import threadpool_limits
from torch import cuda

from tamis.errors import TamisError
from tamis.machine import cores

PREFIX = "tamis: "
GIGABYTE = 2**30
PATIENCE = 5.0
"""Seconds that a process has to end in when nobody wants it any more."""


@dataclass(frozen=True)
class Job:
    """Work on a folder, in a process of its own; what it prints once it has begun goes to a file there.

    The work is a function of a module, which is imported before it begins.
    """

    name: str
    work: Callable[[Path], None]
    folder: Path

    @property
    def log(self) -> Path:
        """Where to look for what it printed, of all its runs."""
        return self.folder / "log.txt"


@dataclass(frozen=True)
class Done:
    """A job that has ended; `failed` says why it did not succeed."""

    job: Job
    failed: str | None


@dataclass(frozen=True)
class _Running:
    job: Job
    place: int
    process: BaseProcess
    printed: int
    """Bytes that earlier runs have left in the log."""


def run_jobs(jobs: Iterable[Job], places: int) -> Iterator[Done]:
    """Run jobs, `places` at a time, and give each as it ends; those that run when the caller stops are ended.

    A place has its share of the processors, and of several GPUs one to itself.
    """
    waiting, free, running = deque(jobs), list(range(places)), dict[int, _Running]()
    start = _starter(job.work.__module__ for job in waiting)
    try:
        while waiting or running:
            while waiting and free:
                job, place = waiting.popleft(), free.pop()
                try:
                    one = _started(job, place, places, start)
                except (OSError, EOFError) as error:
                    free.append(place)
                    yield Done(job, f"{job.name} could not be started: {type(error).__name__} {error}")
                else:
                    running[one.process.sentinel] = one
            for ended in wait(list(running)):
                one = running.pop(cast(int, ended))
                free.append(one.place)
                yield _done(one)
    finally:
        _end([one.process for one in running.values()])


def _starter(modules: Iterable[str]) -> Callable[..., BaseProcess]:
    """How processes start: forked from one that has imported the modules, which takes longer than many a student.

    The driver of a GPU and the frameworks of macOS do not survive a fork.
    """
    if sys.platform != "linux" or cuda.device_count():
        return multiprocessing.get_context("spawn").Process
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted(set(modules)))
    return context.Process


def _started(job: Job, place: int, places: int, start: Callable[..., BaseProcess]) -> _Running:
    job.folder.mkdir(parents=True, exist_ok=True)
    printed = job.log.stat().st_size if job.log.is_file() else 0
    environment = os.environ | _share(place, places)
    process = start(target=_begin, args=(job, environment))
    with _as_it_starts(environment):
        process.start()
    return _Running(job, place, process, printed)


def _share(place: int, places: int) -> dict[str, str]:
    """Environment that gives a place its part of the machine."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(one) for one in range(cuda.device_count())]
    own = {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if len(gpus) > 1 else {}
    return {"OMP_NUM_THREADS": str(max(1, cores() // places))} | own


@contextmanager
def _as_it_starts(environment: Mapping[str, str]) -> Iterator[None]:
    """What a new process finds: its environment, and no script that it would run to look for functions in it."""
    script, before = sys.modules["__main__"], dict(os.environ)
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ.update(environment)
    try:
        yield
    finally:
        for name in environment.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        sys.modules["__main__"] = script


def _done(one: _Running) -> Done:
    one.process.join()
    status = one.process.exitcode
    return Done(one.job, _reason(one, status) if status else None)


def _reason(one: _Running, status: int) -> str:
    """The job's own sentence, else how it ended."""
    printed = one.job.log.read_bytes()[one.printed :] if one.job.log.is_file() else b""
    lines = printed.decode("utf-8", errors="replace").splitlines()
    said = next((line.removeprefix(PREFIX) for line in reversed(lines) if line.startswith(PREFIX)), None)
    if said:
        return said
    killed = f"signal {-status}, as when memory runs out" if status < 0 else f"exit code {status}"
    return f"{one.job.name} ended with {killed}: see {one.job.log}"


def _end(processes: Sequence[BaseProcess]) -> None:
    """End processes as Ctrl-C does, which leaves nothing open, and hard those that take long."""
    for process in processes:
        if process.pid and process.is_alive():
            os.kill(process.pid, signal.SIGINT)
    until = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        process.kill()


def _begin(job: Job, environment: Mapping[str, str]) -> None:
    """Be the process of a job; what a user can mend is one sentence and its exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with job.log.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    # The process it was forked from has the environment of the first job, and as many threads as there are cores.
    os.environ.clear()
    os.environ.update(environment)
    threads = int(environment["OMP_NUM_THREADS"])
    threadpool_limits(threads)
    torch.set_num_threads(threads)
    try:
        job.work(job.folder)
    except TamisError as error:
        sys.stderr.write(f"{PREFIX}{error}\n")
        sys.exit(error.exit_code)


def _end_with_parent() -> None:
    """End this process when the one that wanted it has ended, or the one it was forked from: nobody waits for it."""
    wanted, above = multiprocessing.parent_process(), os.getppid()
    while wanted and wanted.is_alive() and os.getppid() == above:
        time.sleep(1)
    os._exit(1)


def workers_for(bytes_each: int) -> int:
    """How many processes of this size fit side by side: one a GPU, else one a processor as memory allows."""
    memory = int(psutil.virtual_memory().available * 0.8 // max(1, bytes_each))
    places = cuda.device_count() or cores()
    return max(1, min(places, memory))
