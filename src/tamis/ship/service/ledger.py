"""What the teachers of a service answered, in the store: as signals, and counted by the hour with what they took.

Nobody waits for it. Answers are written a moment later, all that came meanwhile in one transaction; one that cannot be
written is said in the log, and the decision it led to stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from tamis.decisions import stamp
from tamis.records import TeacherSignal
from tamis.ship.console.hours import Counted, add
from tamis.ship.service import metrics
from tamis.store import Store

log = logging.getLogger(__name__)

PAUSE = 0.2
"""Seconds between two writes."""

Kind = Literal["asked", "kept", "prompt", "completion"]
"""What is counted of a tier: questions, answers known before, and tokens in and out."""


@dataclass
class Ledger:
    """Answers that wait to be written; see `keeping`."""

    store: Store
    _signals: list[TeacherSignal] = field(default_factory=list)
    _counted: Counted = field(default_factory=Counter)

    def answered(self, tier: str, signal: TeacherSignal) -> None:
        """Write what a tier answered, by content hash and without the text, and what it took."""
        self._signals.append(signal)
        metrics.ANSWERS.labels(tier, "asked").inc()
        metrics.TOKENS.labels(tier, "prompt").inc(signal.prompt_tokens)
        metrics.TOKENS.labels(tier, "completion").inc(signal.completion_tokens)
        self._count(tier, "asked", 1)
        self._count(tier, "prompt", signal.prompt_tokens)
        self._count(tier, "completion", signal.completion_tokens)

    def knew(self, tier: str) -> None:
        """Count an answer that was known before."""
        metrics.ANSWERS.labels(tier, "kept").inc()
        self._count(tier, "kept", 1)

    async def write(self) -> None:
        """Commit what waits."""
        signals, counted = self._signals, self._counted
        self._signals, self._counted = [], Counter()
        if not counted:
            return
        try:
            await asyncio.to_thread(self._commit, signals, counted)
        except Exception as error:
            # Whatever it is, the next answers are to be written.
            log.warning("%d answers of teachers could not be kept: %s", len(signals), type(error).__name__)

    def _count(self, tier: str, kind: Kind, number: int) -> None:
        self._counted[kind, stamp(datetime.now(UTC))[:13], tier[:200]] += number

    def _commit(self, signals: list[TeacherSignal], counted: Counted) -> None:
        with self.store.begin() as connection:
            # In one order in all workers, or two that write the same rows could wait for each other.
            for signal in sorted(signals, key=lambda one: (one.teacher, one.example_id)):
                self.store.put(connection, signal)
            add(self.store, connection, counted)


@asynccontextmanager
async def keeping(store: Store) -> AsyncIterator[Ledger]:
    """A ledger that is written from time to time, and for the last time when the block ends."""
    ledger, over = Ledger(store), asyncio.Event()
    writer = asyncio.create_task(_write(ledger, over))
    try:
        yield ledger
    finally:
        over.set()
        await writer


async def _write(ledger: Ledger, over: asyncio.Event) -> None:
    while not over.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), PAUSE)
        await ledger.write()
    # Once more, for what came while that was on its way.
    await ledger.write()
