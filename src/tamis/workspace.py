"""The folder of a run: one stage after another, each done again only when its inputs have changed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tamis.errors import ConfigError

T = TypeVar("T")
INPUTS = ".inputs"
log = logging.getLogger(__name__)


class _ReachedError(Exception):
    """The last wanted stage is done."""


class Workspace:
    """One run's folder, locked against a second run; as a context manager it ends the run after the stage `until`.

    A stage has a fingerprint of its own inputs and of all stages before it. A finished one is loaded, one whose inputs
    have changed starts from an empty folder, and one that was interrupted finds what it had made.
    """

    def __init__(self, out: str | Path, until: str) -> None:
        self.out = Path(out)
        self.until = until
        self._before = ""
        self._lock = self.out / ".lock"
        self._done = self.out / "stages.json"

    def __enter__(self) -> Self:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make the folder {self.out}: {error.strerror}; choose another with --out"
            ) from error
        other = _holder(self._lock)
        if other:
            raise ConfigError(f"{self.out} is in use by process {other}: wait for it or choose another --out")
        self._lock.write_text(str(os.getpid()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._lock.unlink(missing_ok=True)
        return kind is _ReachedError

    def run(
        self, name: str, inputs: Any, work: Callable[[Path], T], load: Callable[[Path], T], folder: str | None = None
    ) -> T:
        """Do a stage, or load what it made before from the same inputs.

        Args:
            name: of the stage.
            inputs: anything JSON can hold that decides the result.
            work: does the stage in its folder; finds there what an interrupted run left.
            load: reads a finished stage's result.
            folder: of the stage; named like it without it.
        """
        self._before = fingerprint([name, inputs, self._before])
        result = self._result(name, self.out / (folder or name), work, load)
        if name == self.until:
            raise _ReachedError
        return result

    def _result(self, name: str, folder: Path, work: Callable[[Path], T], load: Callable[[Path], T]) -> T:
        started = folder / INPUTS
        if self._is_whole(name, folder):
            log.info("%s: unchanged, reused", name)
            return load(folder)
        if started.is_file() and started.read_text() != self._before:
            log.info("%s: inputs have changed, starting over", name)
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        started.write_text(self._before)
        log.info("%s: started", name)
        began = time.monotonic()
        result = work(folder)
        seconds = time.monotonic() - began
        self._finish(name, folder, seconds)
        log.info("%s: done in %.0f s", name, seconds)
        return result

    def _is_whole(self, name: str, folder: Path) -> bool:
        """Whether the stage was finished with these inputs and still has every file it made."""
        done = self._finished().get(name, {"inputs": None})
        return done["inputs"] == self._before and all((folder / file).is_file() for file in done["files"])

    def _finished(self) -> dict[str, Any]:
        return json.loads(self._done.read_text()) if self._done.is_file() else {}

    def _finish(self, name: str, folder: Path, seconds: float) -> None:
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        done = {"inputs": self._before, "files": sorted(file for file in files if file != INPUTS), "seconds": seconds}
        fresh = self._done.with_suffix(".partial")
        fresh.write_text(json.dumps(self._finished() | {name: done}, indent=1))
        fresh.replace(self._done)


def finished(out: Path, name: str) -> dict[str, Any]:
    """Fingerprint of the inputs, files and seconds of a stage that was finished in the folder of a run."""
    stages: dict[str, dict[str, Any]] = json.loads((out / "stages.json").read_text())
    return stages[name]


def fingerprint(inputs: Any) -> str:
    """Hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _holder(lock: Path) -> int | None:
    """The living process that holds a lock; a killed one holds nothing."""
    if not lock.is_file():
        return None
    text = lock.read_text().strip()
    if not text.isdigit() or int(text) == os.getpid():
        return None
    try:
        os.kill(int(text), 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return int(text)
