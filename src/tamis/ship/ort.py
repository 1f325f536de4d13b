"""ONNX Runtime on the processor, a core a batch.

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
    """An ONNX file and the session that computes it; safe in several threads.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.cores = cores()
        self._lanes = ThreadPoolExecutor(self.cores, "onnx")
        self._session = _session(path)
        self._calls, self._counting = 0, Lock()

    def logits(self, ids: Ids, mask: Ids) -> Array:
        """As `Backend` says; by one core while other calls keep the others busy, else a part of the rows by each."""
        with self._counted() as calls:
            if calls > 1 or len(ids) == 1:
                return _run(self._session, ids, mask)
            parts = np.array_split(np.arange(len(ids)), min(self.cores, len(ids)))
            return np.concatenate(list(self._lanes.map(lambda part: _run(self._session, ids[part], mask[part]), parts)))

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


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: Any, ids: Ids, mask: Ids) -> Array:
    used = int(np.flatnonzero(mask.any(0))[-1]) + 1
    return session.run(["logits"], {"ids": ids[:, :used], "mask": mask[:, :used]})[0]
