"""ONNX Runtime on the processor: a core a part of the batch, all cores for one row.

Rows side by side on cores of their own wait for each other once a batch; all cores on the same rows wait for each other
in every operator. Parts are also small enough that what lies between two operators stays in a core's cache.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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
        self._cores = cores()
        self._lanes = ThreadPoolExecutor(self._cores, "onnx")
        self._narrow = _session(path, 1)
        # Holds the weights of the linear layers once more; those of the embedding are the file's, mapped.
        self._wide = _session(path, self._cores) if self._cores > 1 else self._narrow

    def logits(self, ids: Ids, mask: Ids) -> Array:
        """As `Backend` says."""
        if len(ids) == 1:
            return _run(self._wide, ids, mask)
        parts = np.array_split(np.arange(len(ids)), min(self._cores, len(ids)))
        return np.concatenate(list(self._lanes.map(lambda part: _run(self._narrow, ids[part], mask[part]), parts)))


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
