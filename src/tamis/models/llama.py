"""llama.cpp as a library: how it is loaded and how many threads it gets, for whoever runs a GGUF file."""

from __future__ import annotations

import os
from typing import Any

from tamis.errors import need
from tamis.machine import cores


def llama_cpp(extra: str) -> Any:
    """The library, its OpenMP told to sleep when it waits.

    Threads that spin lose half the speed, or more, as soon as another process wants a core.

    Args:
        extra: which brings it to whoever asks.

    Raises:
        MissingExtraError: it is not installed.
    """
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        return need("xllamacpp", extra)
    finally:
        if before is None:
            del os.environ["OMP_WAIT_POLICY"]


def calm(params: Any) -> None:
    """Use the cores this process may use, on loopback, quietly, and sleep rather than spin."""
    params.hostnames = ["127.0.0.1"]
    params.verbosity = -1
    # Without it idle slots are copied to memory, which helps nobody here.
    params.cache_ram_mib = 0
    threads = cores()
    for pool in (params.cpuparams, params.cpuparams_batch):
        pool.n_threads = threads
        pool.poll = 0
