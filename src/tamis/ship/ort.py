"""ONNX Runtime on the processor: a core a batch, or all cores for one row that comes alone.

Batches side by side on cores of their own wait for nobody; all cores on the same rows wait for each other in every
operator. What lies between two operators of a small batch also stays in a core's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from tamis.machine import cores
from tamis.windows import Array, Ids


class OnnxBackend:
    """An ONNX file and the sessions that compute it; safe in several threads.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.cores = cores()
        self._lanes = ThreadPoolExecutor(self.cores, "onnx")
        self._narrow = _session(path, 1)
        # Holds the weights of the linear layers once more; those of the embedding are the file's, mapped.
        self._wide = _session(path, self.cores) if self.cores > 1 else self._narrow
        self._calls, self._counting = 0, Lock()

    def logits(self, ids: Ids, mask: Ids) -> Array:
        """As `Backend` says; by one core while other calls keep the others busy, else by all of them."""
        with self._counted() as calls:
            if calls > 1:
                return _run(self._narrow, ids, mask)
            if len(ids) == 1:
                return _run(self._wide, ids, mask)
            parts = np.array_split(np.arange(len(ids)), min(self.cores, len(ids)))
            return np.concatenate(list(self._lanes.map(lambda part: _run(self._narrow, ids[part], mask[part]), parts)))

    @contextmanager
    def _counted(self) -> Iterator[int]:
        """How many calls there are now, this one among them."""
        with self._counting:
            self._calls += 1
            calls = self._calls
        try:
            yield calls
        finally:
            with self._counting:
                self._calls -= 1


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Where nobody says how many there are, each is bound to a core, and waits for it however busy it is.
    options.intra_op_num_threads = threads
    # Threads that spin while they wait make a shared machine slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: Any, ids: Ids, mask: Ids) -> Array:
    used = int(np.flatnonzero(mask.any(0))[-1]) + 1
    return session.run(["logits"], {"ids": ids[:, :used], "mask": mask[:, :used]})[0]
