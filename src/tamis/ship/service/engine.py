"""A bundle behind a bounded queue: windows of many requests are computed together, in batches by a budget of tokens.

    score() on the loop -> encoding thread -> computing threads -> score() on the loop

Texts are tokenised while the batch before them is computed. What goes into a batch is chosen when the backend is free,
not before: by then more has come in, and who gave up is known. A backend that is fastest with a core a batch has a
computing thread a core, and no core waits for another. The threads and the queue are a `Line`; bundles over a shared
base have one line together, so that their texts share batches.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from queue import Empty, SimpleQueue
from threading import Lock, Semaphore, Thread
from typing import Any, TypeVar

import numpy as np

from tamis.config import BatchConfig
from tamis.errors import Closing, Overloaded, TooLate
from tamis.records import NO_ANSWER, Scores
from tamis.ship.backends import Backend
from tamis.ship.bundle import Moderator
from tamis.windows import Array, Ids, by_length, padded

log = logging.getLogger(__name__)

T = TypeVar("T")

AHEAD = 4
"""Batches of each lane whose windows are sorted by length together."""

LENGTHS = (16, 64, 256)
"""Tokens of the windows that are computed before an engine is ready."""

SURE = 0.8
"""Of a caller's time so much may be waited for: at the edge of it every second answer would come too late."""

PACE, PER_BYTE = 1000.0, 0.3
"""Tokens a second, and of a byte of text, before any was computed."""

NEWEST = 0.2
"""Weight of the newest measurement in a running mean."""

Compute = Callable[[Ids, Ids, Sequence[Any]], Iterable[Array]]
"""(batch, length) ids and mask, and the backend of each row -> logits of each row, (categories,) of its bundle."""

TOO_LATE = "the answer cannot be there in time: wait longer, or send fewer texts at a time"


@dataclass(eq=False, slots=True)
class _Job:
    """One request: its windows, and the logits of those that are computed."""

    moderator: Moderator
    texts: Sequence[str]
    size: int
    until: float
    done: asyncio.Future[list[Scores]]
    rows: Sequence[Sequence[int]] = ()
    owner: Sequence[int] = ()
    places: Sequence[str] = ()
    taken: int = 0
    logits: dict[int, Array] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.done.done() or self.until <= time.monotonic()

    def share(self, tokens: int) -> list[int]:
        """The next windows, of about so many tokens together."""
        first = self.taken
        while self.taken < len(self.rows) and tokens > 0:
            tokens -= len(self.rows[self.taken])
            self.taken += 1
        return list(range(first, self.taken))


def _alone(ids: Ids, mask: Ids, backends: Sequence[Backend]) -> Array:
    return backends[0].logits(ids, mask)


class Engine:
    """Scores texts with one loaded bundle, for one event loop."""

    def __init__(self, moderator: Moderator, line: Line, leave: Callable[[], None] | None = None) -> None:
        """Nothing is computed yet; `warm` is to be called before the first request.

        Args:
            moderator: the loaded bundle.
            line: what computes; the engine's own without `leave`.
            leave: called once by `close`, in a thread, when all is answered; without it the line ends.
        """
        self.moderator, self.line = moderator, line
        self.depth = 0
        """Tokens, as estimated from bytes, of this bundle that are queued or being computed."""
        self._leave = leave or line.end
        self._jobs: set[asyncio.Future[list[Scores]]] = set()
        self._closing = False

    async def score(self, texts: Sequence[str], until: float) -> list[Scores]:
        """Calibrated scores of texts, in their order, as `Moderator.score` gives them.

        A text whose computation fails has no answer, which is reviewed and never passed.

        Args:
            texts: of one request.
            until: when the caller stops waiting, on the clock of the loop.

        Raises:
            Overloaded: at once, when more waits than may, or than leaves time for these.
            TooLate: at once, when there is not the time to compute these alone; later, when `until` has come.
            Closing: the engine takes no more.
        """
        if not texts:
            return []
        if self._closing:
            raise Closing("this bundle is no longer served: send the request again")
        loop = asyncio.get_running_loop()
        size = sum(len(text.encode("utf-8", "surrogatepass")) + 1 for text in texts)
        tokens = self.line.admit(size, until - loop.time())
        job = _Job(self.moderator, texts, size, until, loop.create_future())
        self._jobs.add(job.done)
        self.depth += tokens
        self.line.depth += tokens
        try:
            async with asyncio.timeout_at(until):
                self.line.put(job)
                return await job.done
        except TimeoutError:
            raise TooLate(TOO_LATE) from None
        finally:
            self._jobs.discard(job.done)
            self.depth -= tokens
            self.line.depth -= tokens

    @property
    def backlog(self) -> float:
        """Seconds of work that are queued or being computed, that of others on the same line too."""
        return self.line.depth / self.line.tokens_per_second

    def warm(self) -> None:
        """Compute batches of typical lengths, so that no request waits for what is done once, and take the pace."""
        most, tokens = self.moderator.encoder.max_tokens, self.line.config.tokens
        ids = [np.ones((max(1, tokens // n), n), np.int64) for n in sorted({min(n, most) for n in LENGTHS})]
        for _ in range(2):
            began = time.monotonic()
            for batch in ids:
                self.moderator.backend.logits(batch, np.ones_like(batch))
        self.line.start_at(sum(batch.size for batch in ids) / (time.monotonic() - began))

    async def close(self) -> None:
        """Answer all that was accepted, then end."""
        if not self._closing:
            self._closing = True
            await asyncio.gather(*self._jobs, return_exceptions=True)
            await asyncio.to_thread(self._leave)


class Line:
    """A queue and the threads behind it, which tokenise and compute for the bundles that share it."""

    def __init__(self, config: BatchConfig, compute: Compute = _alone, lanes: int = 1) -> None:
        """Start the threads.

        Args:
            config: tokens of a batch at most, and how much may wait.
            compute: logits of a batch; without it all rows are of one backend.
            lanes: batches that are computed side by side.
        """
        self.config, self._logits = config, compute
        self._lanes = lanes
        self.depth = 0
        """Tokens, as estimated from bytes, that are queued or being computed; whole ones, so that none is exactly 0."""
        self.tokens_per_second = PACE
        self._paced = False
        self._per_byte = PER_BYTE
        self._arrived: SimpleQueue[_Job | None] = SimpleQueue()
        self._encoded: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting: deque[_Job] = deque()
        self._batches: deque[list[tuple[_Job, int]]] = deque()
        self._ended = False
        self._turn, self._batch = Lock(), Semaphore(lanes)
        self._counting, self._busy = Lock(), 0
        work = (self._encode, *[self._compute] * lanes)
        self._threads = [Thread(target=one, name=one.__name__, daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    def put(self, job: _Job) -> None:
        """Let a request wait for its turn."""
        self._arrived.put(job)

    def start_at(self, pace: float) -> None:
        """Tokens a second as one bundle measured them alone; what later ones measure beside others is none."""
        if not self._paced:
            self.tokens_per_second, self._paced = pace, True

    def between(self, work: Callable[[], None]) -> None:
        """Do something while no batch is computed, with a single lane; none after it holds what nobody waits for."""
        with self._batch:
            work()

    def end(self) -> None:
        """Compute what is there, then end the threads."""
        self._arrived.put(None)
        for thread in self._threads:
            thread.join()

    def admit(self, size: int, seconds: float) -> int:
        """Tokens that so many bytes of text are likely to be, if they can be computed in time.

        Raises:
            Overloaded: more waits than may, or than leaves time for these.
            TooLate: there is not the time to compute these alone.
        """
        tokens = math.ceil(size * self._per_byte)
        if tokens / self.tokens_per_second > seconds:
            raise TooLate(TOO_LATE)
        # A request that finds nothing before it may be larger than what may wait.
        limit = min(SURE * seconds, self.config.wait) if self.depth else seconds
        if (self.depth + tokens) / self.tokens_per_second > limit:
            raise Overloaded(self.depth / self.tokens_per_second)
        return tokens

    def _encode(self) -> None:
        """Texts to windows, all that wait at a time."""
        ends = False
        while not ends:
            arrived, ends = drained(self._arrived, wait=True)
            for moderator, jobs in _by_moderator(job for job in arrived if not job.over):
                try:
                    self._encode_jobs(moderator, jobs)
                except BaseException as error:  # a panic of the tokenizer is no Exception, and must not end the thread
                    self._fail(jobs, error)
            # In the order they came: in that of the bundles, a burst would be computed bundle by bundle.
            for job in arrived:
                if job.rows:
                    self._encoded.put(job)
        self._encoded.put(None)

    def _encode_jobs(self, moderator: Moderator, jobs: Sequence[_Job]) -> None:
        windows = moderator.encoder.encode([text for job in jobs for text in job.texts])
        texts = list(accumulate((len(job.texts) for job in jobs), initial=0))
        ends = np.searchsorted(windows.owner, texts).tolist()
        for job, text, first, last in zip(jobs, texts, ends, ends[1:], strict=False):
            job.rows, job.places = windows.ids[first:last], windows.places[first:last]
            job.owner = [owner - text for owner in windows.owner[first:last]]
        per_byte = sum(map(len, windows.ids)) / sum(job.size for job in jobs)
        self._per_byte += NEWEST * (per_byte - self._per_byte)

    def _compute(self) -> None:
        """Windows to scores, a batch at a time."""
        while True:
            with self._turn:
                rows = self._next()
            if rows is None:
                return
            began, busy = time.monotonic(), self._count(1)
            done, pace = self._compute_batch(rows), busy / (time.monotonic() - began)
            self._count(-1)
            # Small batches say no more than that it is at least theirs; after a stall they are all that is let in.
            if 2 * busy * done >= self.config.tokens or done * pace > self.tokens_per_second:
                self.tokens_per_second += NEWEST * (done * pace - self.tokens_per_second)

    def _count(self, more: int) -> int:
        """How many threads compute, after so many more do."""
        with self._counting:
            self._busy += more
            return self._busy

    def _next(self) -> list[tuple[_Job, int]] | None:
        """The windows of the next batch; None when all is taken and no more will come."""
        while not self._batches:
            if self._ended and not self._waiting:
                return None
            if not self._ended:
                fresh, self._ended = drained(self._encoded, wait=not self._waiting)
                self._waiting.extend(fresh)
            rows = self._take()
            lengths = [len(job.rows[i]) for job, i in rows]
            # Where little waits, each lane gets its share of it: no core has a full batch while another has nothing.
            tokens = min(self.config.tokens, math.ceil(sum(lengths) / self._lanes))
            self._batches.extend([rows[i] for i in batch] for batch in by_length(lengths, tokens))
        return self._batches.popleft()

    def _take(self) -> list[tuple[_Job, int]]:
        """Windows of the next batches, from each request a batch's worth in turn: no long text holds up the others."""
        rows: list[tuple[_Job, int]] = []
        room = AHEAD * self._lanes * self.config.tokens
        while self._waiting and room > 0:
            job = self._waiting.popleft()
            if job.over:
                continue
            part = job.share(self.config.tokens)
            rows += [(job, i) for i in part]
            room -= sum(len(job.rows[i]) for i in part)
            if job.taken < len(job.rows):
                self._waiting.append(job)
        return rows

    def _compute_batch(self, rows: Sequence[tuple[_Job, int]]) -> int:
        """Compute the windows somebody waits for; returns their tokens, none where they could not be."""
        with self._batch:
            rows = [row for row in rows if not row[0].over]
            return self._compute_rows(rows) if rows else 0

    def _compute_rows(self, rows: Sequence[tuple[_Job, int]]) -> int:
        jobs = dict.fromkeys(job for job, _ in rows)
        try:
            backends = [job.moderator.backend for job, _ in rows]
            logits = self._logits(*padded([job.rows[i] for job, i in rows]), backends)
            for (job, i), found in zip(rows, logits, strict=True):
                job.logits[i] = found
            for moderator, own in _by_moderator(job for job in jobs if len(job.logits) == len(job.rows)):
                self._finish(moderator, own)
        except BaseException as error:
            groups = [own for _, own in _by_moderator(jobs)]
            if len(groups) == 1:
                self._fail(jobs, error)
                return 0
            # One bundle that cannot be computed must not take the others' texts with it.
            return sum(self._compute_rows([row for row in rows if row[0] in own]) for own in groups)
        return sum(len(job.rows[i]) for job, i in rows)

    def _finish(self, moderator: Moderator, jobs: Sequence[_Job]) -> None:
        """Scores of one bundle's requests whose windows are all computed."""
        logits = np.stack([job.logits[i] for job in jobs for i in range(len(job.rows))])
        texts = list(accumulate((len(job.texts) for job in jobs), initial=0))
        owner = [first + index for first, job in zip(texts, jobs, strict=False) for index in job.owner]
        scores = moderator.scores(logits, owner, [place for job in jobs for place in job.places])
        self._answer([(job, scores[first : first + len(job.texts)]) for first, job in zip(texts, jobs, strict=False)])

    def _fail(self, jobs: Iterable[_Job], error: BaseException) -> None:
        # The kind alone: a message may hold the text.
        log.error("a batch could not be computed: %s", type(error).__name__)
        self._answer([(job, [NO_ANSWER] * len(job.texts)) for job in jobs])

    def _answer(self, answers: Sequence[tuple[_Job, list[Scores]]]) -> None:
        answers[0][0].done.get_loop().call_soon_threadsafe(_set, answers)


def _by_moderator(jobs: Iterable[_Job]) -> Iterator[tuple[Moderator, list[_Job]]]:
    grouped: dict[Moderator, list[_Job]] = {}
    for job in jobs:
        grouped.setdefault(job.moderator, []).append(job)
    yield from grouped.items()


def _set(answers: Sequence[tuple[_Job, list[Scores]]]) -> None:
    for job, scores in answers:
        if not job.done.done():
            job.done.set_result(scores)


def drained(queue: SimpleQueue[T | None], *, wait: bool) -> tuple[list[T], bool]:
    """All that is in a queue, and whether its end (None) was; with `wait` at least one of them."""
    found: list[T] = []
    try:
        item = queue.get(block=wait)
        while item is not None:
            found.append(item)
            item = queue.get_nowait()
    except Empty:
        return found, False
    return found, True
