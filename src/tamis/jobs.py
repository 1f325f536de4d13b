"""Processes side by side: each is given to a free place, ends with its parent, and fails alone."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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


@dataclass(frozen=True)
class Job:
    """Work on a folder, in a process of its own; what it prints goes to a file there."""

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
    seconds: float
    failed: str | None


@dataclass(frozen=True)
class _Running:
    job: Job
    place: int
    process: BaseProcess
    started: float
    printed: int
    """Bytes that earlier runs have left in the log."""


def run_jobs(jobs: Iterable[Job], places: int) -> Iterator[Done]:
    """Run jobs, `places` at a time, and give each as it ends; those that run when the caller stops are ended.

    A place has its share of the processors, and of several GPUs one to itself.

    Args:
        jobs: what is to be done; their work is a function of a module.
        places: how many run side by side.
    """
    waiting, free, running = deque(jobs), list(range(places)), dict[int, _Running]()
    start = _starter(job.work.__module__ for job in waiting)
    try:
        while waiting or running:
            while waiting and free:
                job, place = waiting.popleft(), free.pop()
                process = start(target=_begin, args=(job, *_share(place, places)))
                printed = len(_printed(job))
                with _no_script():
                    process.start()
                running[process.sentinel] = _Running(job, place, process, time.monotonic(), printed)
            for ended in wait(list(running)):
                one = running.pop(cast(int, ended))
                free.append(one.place)
                yield _done(one)
    finally:
        for one in running.values():
            one.process.terminate()


def _starter(modules: Iterable[str]) -> Callable[..., BaseProcess]:
    """How processes start: forked from one that has imported the modules, which takes longer than many a student.

    The driver of a GPU and the frameworks of macOS do not survive a fork.
    """
    if sys.platform != "linux" or cuda.device_count():
        return multiprocessing.get_context("spawn").Process
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted(set(modules)))
    return context.Process


@contextmanager
def _no_script() -> Iterator[None]:
    """Start processes that do not run this one's script again, as they would to find a function of it."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _share(place: int, places: int) -> tuple[int, int | None]:
    """Threads of a place, and its GPU where there are several."""
    gpus = cuda.device_count()
    return max(1, cores() // places), place % gpus if gpus > 1 else None


def _done(one: _Running) -> Done:
    one.process.join()
    status = one.process.exitcode
    return Done(one.job, time.monotonic() - one.started, _reason(one, status) if status else None)


def _printed(job: Job) -> bytes:
    return job.log.read_bytes() if job.log.is_file() else b""


def _reason(one: _Running, status: int) -> str:
    """The job's own sentence, else how it ended."""
    lines = _printed(one.job)[one.printed :].decode("utf-8", errors="replace").splitlines()
    said = next((line.removeprefix(PREFIX) for line in reversed(lines) if line.startswith(PREFIX)), None)
    if said:
        return said
    killed = f"signal {-status}, as when memory runs out" if status < 0 else f"exit code {status}"
    return f"{one.job.name} ended with {killed}: see {one.job.log}"


def _begin(job: Job, threads: int, gpu: int | None) -> None:
    """Be the process of a job; what a user can mend is one sentence and its exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job.folder.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    # Both, because torch has threads beside those that the libraries tell of.
    threadpool_limits(threads)
    torch.set_num_threads(threads)
    try:
        job.work(job.folder)
    except TamisError as error:
        sys.stderr.write(f"{PREFIX}{error}\n")
        sys.exit(error.exit_code)


def _end_with_parent() -> None:
    """End this process when the one that wanted it has ended: one killed hard ends nothing by itself."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def workers_for(bytes_each: int) -> int:
    """How many processes of this size fit side by side: one a GPU, else one a processor as memory allows."""
    memory = int(psutil.virtual_memory().available * 0.8 // max(1, bytes_each))
    places = cuda.device_count() or cores()
    return max(1, min(places, memory))
