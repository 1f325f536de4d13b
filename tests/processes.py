"""The command line and functions as processes that can be killed, forked from one that has loaded the libraries.

Loading them takes 10 seconds, longer than most of what is tested so.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
CONTEXT.set_forkserver_preload(["tamis.experiment", "tamis.update"])


def start(work: Callable[..., object], *arguments: object) -> BaseProcess:
    """Begin a function in a process of its own."""
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    return process


def tamis(*words: str) -> BaseProcess:
    """Begin a command, whose words go nowhere."""
    return start(_command, words, os.devnull, os.devnull)


def ended(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("out", "err")]
        process = start(_command, words, *map(str, said))
        process.join(240)
        assert process.exitcode is not None, "it does not end"
        out, err = (path.read_text(encoding="utf-8") for path in said)
        return subprocess.CompletedProcess(words, process.exitcode, out, err)


def kill_when(process: BaseProcess, ready: Callable[[], bool]) -> None:
    """Kill a process hard in the middle of its work."""
    deadline = time.monotonic() + 240
    while not ready() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.is_alive(), "it ended before it could be killed"
    process.kill()
    process.join()


def _command(words: tuple[str, ...], out: str, err: str) -> None:
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    from tamis.cli import main

    sys.argv = ["tamis", *words]
    main()
