"""Processes side by side: each is given to a free worker, ends with its parent, and fails alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tamis.machine import cores

PARENT = "TAMIS_PARENT"
PREFIX = "tamis: "
GIGABYTE = 2**30


@dataclass(frozen=True)
class Job:
    """A module of tamis to run with an argument; what it prints goes to `log`."""

    name: str
    module: str
    argument: str
    log: Path


@dataclass(frozen=True)
class Done:
    """A job that has ended; `failed` says why it did not succeed."""

    job: Job
    seconds: float
    failed: str | None


def run_jobs(jobs: Iterable[Job], workers: int) -> Iterator[Done]:
    """Run jobs, `workers` at a time, and give each as it ends.

    A worker has its share of the processors, and of several GPUs one to itself.
    """
    free: SimpleQueue[int] = SimpleQueue()
    for worker in range(workers):
        free.put(worker)

    def one(job: Job) -> Done:
        worker = free.get()
        try:
            return _run(job, worker, workers)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(workers) as pool:
        for future in as_completed([pool.submit(one, job) for job in jobs]):
            yield future.result()


def _run(job: Job, worker: int, workers: int) -> Done:
    started = time.monotonic()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        command = [sys.executable, "-m", job.module, job.argument]
        environment = os.environ | share(worker, workers) | {PARENT: str(os.getpid())}
        status = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode  # noqa: S603
    return Done(job, time.monotonic() - started, _reason(job, status) if status else None)


def share(worker: int, workers: int) -> dict[str, str]:
    """Environment that gives a worker its part of the machine."""
    from torch import cuda

    threads = max(1, cores() // workers)
    gpus = cuda.device_count()
    own = {"CUDA_VISIBLE_DEVICES": str(worker % gpus)} if gpus > 1 else {}
    return {"OMP_NUM_THREADS": str(threads), "TAMIS_QUIET": "1"} | own


def _reason(job: Job, status: int) -> str:
    """The job's own sentence, else how it ended."""
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line.removeprefix(PREFIX) for line in reversed(lines) if line.startswith(PREFIX)), None)
    if said:
        return said
    killed = f"signal {-status}, as when memory runs out" if status < 0 else f"exit code {status}"
    return f"{job.name} ended with {killed}: see {job.log}"


def end_with_parent() -> None:
    """End this process when the one that started it has ended: one killed hard ends nothing by itself."""
    parent = int(os.environ.get(PARENT, "0"))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


def workers_for(bytes_each: int) -> int:
    """How many processes of this size fit side by side: one a GPU, else one a processor as memory allows."""
    import psutil
    from torch import cuda

    memory = int(psutil.virtual_memory().available * 0.8 // max(1, bytes_each))
    places = cuda.device_count() or cores()
    return max(1, min(places, memory))
