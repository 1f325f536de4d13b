"""Looks in a process of their own: weeks of traffic must take neither the interpreter nor the memory of decisions."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading

from tamis.errors import TamisError
from tamis.policy import Policy
from tamis.ship.monitor.look import look
from tamis.store import Store

log = logging.getLogger(__name__)
NICE = 10
"""Decisions come first; at the very end of the queue a look on a busy machine would take hours."""


class Looking:
    """Looks one at a time; `begin` returns at once, and what is found is in the store.

    Args:
        url: of the store.
        days: that are looked at.
    """

    def __init__(self, url: str, days: int) -> None:
        self._url, self._days = url, days
        self._at_work = threading.Lock()
        self._process: multiprocessing.process.BaseProcess | None = None

    @property
    def at_work(self) -> bool:
        """Whether a look is under way."""
        return self._at_work.locked()

    def begin(self, policy: Policy) -> None:
        """Begin a look, unless one is under way; one that fails says so in the log, and the one before it stays."""
        if self._at_work.acquire(blocking=False):
            threading.Thread(target=self._look, args=(policy,), name="look", daemon=True).start()

    def end(self) -> None:
        """End a look that is under way."""
        if self._process is not None:
            self._process.kill()

    def _look(self, policy: Policy) -> None:
        try:
            # A fork would hold the service's port.
            start = multiprocessing.get_context("spawn").Process
            process = start(target=_apart, args=(self._url, policy, self._days), daemon=True)
            process.start()
            self._process = process
            process.join()
            if process.exitcode:
                log.warning("a look at the traffic ended with %d: the last one stays", process.exitcode)
        finally:
            self._process = None
            self._at_work.release()


def _apart(url: str, policy: Policy, days: int) -> None:
    # Ctrl-C goes to all processes; the service ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICE)
    try:
        with Store.open(url) as store:
            look(store, policy, days)
    except TamisError as error:
        log.warning("%s", error)
        sys.exit(1)
