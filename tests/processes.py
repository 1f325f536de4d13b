"""The command line and functions as processes that can be killed; on Linux the libraries are loaded for them already.

Loading them takes 10 seconds, longer than most of what is tested so.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from tests.waiting import until

CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
CONTEXT.set_forkserver_preload(["tamis.experiment", "tamis.update"])


def start(work: Callable[..., object], *arguments: object) -> BaseProcess:
    """Begin a function in a process of its own."""
    process = CONTEXT.Process(target=_work, args=(dict(os.environ), torch.get_num_threads(), work, arguments))
    process.start()
    return process


def tamis(*words: str, err: str = os.devnull) -> BaseProcess:
    """Begin a command, whose answer goes nowhere."""
    return start(_command, words, os.devnull, err)


def ended(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("out", "err")]
        process = start(_command, words, *map(str, said))
        process.join(240)
        process.kill()
        process.join()
        out, err = (path.read_text(encoding="utf-8") for path in said)
        return subprocess.CompletedProcess(words, process.exitcode, out, err)


def wait_until(process: BaseProcess, ready: Callable[[], bool]) -> None:
    """Let a process come so far; one that does not is killed."""
    came = until(lambda: not process.is_alive() or ready(), 240)
    if not came:
        process.kill()
    assert came, "it never came so far"
    assert process.is_alive(), "it ended before it came so far"


def kill_when(process: BaseProcess, ready: Callable[[], bool]) -> None:
    """Kill a process hard in the middle of its work."""
    wait_until(process, ready)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"


def _work(
    environment: dict[str, str], threads: int, work: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # Weights are the same to the bit with as many threads alone.
    torch.set_num_threads(threads)
    work(*arguments)


def _command(words: tuple[str, ...], out: str, err: str) -> None:
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    from tamis.cli import main

    sys.argv = ["tamis", *words]
    main()
