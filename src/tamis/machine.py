"""What of this machine the process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time in each period of so many, or `max`: how a container is held back (cgroup v2)."""


def cores() -> int:
    """Cores to compute on: those it may be put on, and no more than its container is given time of."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(here, _given() or here)


def _given() -> int | None:
    try:
        most, period = QUOTA.read_text().split()
        return None if most == "max" else max(1, math.ceil(int(most) / int(period)))
    except (OSError, ValueError):
        return None
