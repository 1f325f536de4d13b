"""The decision log: what was decided, on which grounds, chained so that no row can be changed or taken out unnoticed.

Each row holds the SHA-256 of its canonical content, the hash of the row before in it. What is kept of the text (by
default a preview that shows its shape, see `preview`) is not in the chain; a seal over it and a random salt is. So it
can be forgotten without breaking the chain, and cannot be changed without breaking the seal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import secrets
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Column, Connection, Float, Integer, RowMapping, String, Table, Text, insert, or_, select, update

from tamis.errors import ConfigError, DataError
from tamis.records import Action, Decision
from tamis.signals import text_signals
from tamis.store import Store, metadata

log = logging.getLogger(__name__)

GENESIS = "0" * 64
"""What stands for the hash of the row before the first."""

PREVIEW = 8
"""Characters of a preview at each end of the text."""

BATCH = 500
EXPIRES = timedelta(hours=1)
KEY_LENGTH = 200
_LOCK = 7_461_514

decisions_table = Table(
    "decisions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", String(32), nullable=False, unique=True),
    Column("key", String(KEY_LENGTH), nullable=False, unique=True),
    Column("time", String(32), nullable=False),
    Column("content", String(64), nullable=False, index=True),
    Column("action", String(16), nullable=False),
    Column("category", String(64), nullable=False),
    Column("scores", Text, nullable=False),
    Column("tiers", Text, nullable=False),
    Column("reasons", Text, nullable=False),
    Column("versions", Text, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("signals", Text),
    Column("until", String(32), index=True),
    Column("seal", String(64), nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("kept", Text),
)


@dataclass(frozen=True)
class Logged:
    """What stands in the log for an idempotency key; `fresh` where it was not there before."""

    id: str
    action: Action
    fresh: bool


@dataclass(frozen=True)
class Verified:
    """What walking the chain found: rows that hold, how many of them are forgotten, and the last one's hash.

    `broken` names the first row that does not hold and why; None where all do. Rows taken off the end leave a chain
    that holds: who wants to notice that keeps `rows` and `head` elsewhere.
    """

    rows: int
    forgotten: int
    head: str
    broken: str | None


@dataclass(frozen=True)
class _Waiting:
    row: dict[str, Any]
    done: Future[Logged]


class DecisionLog:
    """Writes decisions in the order they come; as a context manager it ends when all are written.

    One thread commits all decisions that wait in one transaction, and each is acknowledged after it is on disk.
    Several processes may write to one database.
    """

    def __init__(
        self, store: Store, keep_days: int | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Open the log.

        Args:
            store: the database.
            keep_days: keep whole texts, for so many days; without it a preview alone.
            now: the time, in UTC.
        """
        self._store, self._days, self._now = store, keep_days, now
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._closed = False
        self.expire()
        self._writer = Thread(target=self._run, name="decision log", daemon=True)
        self._writer.start()

    def add(self, decision: Decision, text: str, key: str | None = None) -> Future[Logged]:
        """Hand over a decision; the result is there once it is committed.

        Args:
            decision: its id is the content hash of the text.
            text: what was judged.
            key: idempotency key; a second decision with it changes nothing and gets what the first one got. Without
                one the decision is a first.

        Returns:
            A future; it fails with a `ConfigError` when the database cannot be written, and with a `DataError` when
            the key belongs to another text.

        Raises:
            DataError: a key that is empty, longer than 200 characters or not printable.
            ConfigError: the log is closed.
        """
        if key is not None and (not 0 < len(key) <= KEY_LENGTH or not key.isprintable()):
            raise DataError(
                f"an idempotency key has 1 to {KEY_LENGTH} printable characters, got {len(key)}: shorten it"
            )
        if self._closed:
            raise ConfigError("the decision log is closed: open it again before more is decided")
        waiting = _Waiting(_row(decision, text, key, self._now(), self._days), Future())
        self._queue.put(waiting)
        return waiting.done

    def expire(self) -> int:
        """Forget texts whose days are over; returns how many. The writer does so by itself once an hour."""
        self._next = self._now() + EXPIRES
        with self._store.exclusive(_LOCK) as connection:
            gone = _expire(connection, self._now())
        if gone:
            self._store.wipe()
        return gone

    def close(self) -> None:
        """Write what waits and stop."""
        self._closed = True
        self._queue.put(None)
        self._writer.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        for batch in self._batches():
            waiting = [one for one in batch if one.done.set_running_or_notify_cancel()]
            answers: Sequence[Logged | Exception]
            try:
                with self._store.exclusive(_LOCK) as connection:
                    answers = _append(connection, [one.row for one in waiting])
            except Exception as error:
                log.warning("%d decisions could not be logged: %s", len(waiting), type(error).__name__)
                answers = [error] * len(waiting)
            for one, answer in zip(waiting, answers, strict=True):
                if isinstance(answer, Exception):
                    one.done.set_exception(answer)
                else:
                    one.done.set_result(answer)
            self._expire_at_times()

    def _expire_at_times(self) -> None:
        if self._now() < self._next:
            return
        try:
            self.expire()
        except ConfigError as error:
            # Decisions must go on; the next hour tries again.
            log.warning("%s", error)

    def _batches(self) -> Iterator[list[_Waiting]]:
        """All that waits, as often as something does, until the log is closed."""
        while True:
            batch = [self._queue.get()]
            while len(batch) < BATCH:
                try:
                    batch.append(self._queue.get_nowait())
                except Empty:
                    break
            found = [one for one in batch if one is not None]
            if found:
                yield found
            if len(found) < len(batch):
                return


def verify(store: Store) -> Verified:
    """Walk the chain from the first row; see `Verified`.

    Raises:
        ConfigError: the database cannot be read.
    """
    rows, forgotten, head = 0, 0, GENESIS
    chain = select(decisions_table).order_by(decisions_table.c.number).execution_options(yield_per=1000)
    with store.begin() as connection, closing(connection.execute(chain)) as found:
        for row in found.mappings():
            wrong = _wrong(row, rows + 1, head)
            if wrong:
                return Verified(rows, forgotten, head, f"row {row['number']} (decision {row['id']}): {wrong}")
            rows, head, forgotten = rows + 1, row["hash"], forgotten + (row["kept"] is None)
    return Verified(rows, forgotten, head, None)


def forget(store: Store, name: str) -> int:
    """Remove what is kept of a text, for good; the decision stays, and so does the hash of its content.

    Args:
        store: the database.
        name: a decision's id, or the content hash of a text, of which every decision is meant.

    Returns:
        How many decisions had something to forget.

    Raises:
        ConfigError: the database cannot be written.
    """
    columns = decisions_table.c
    with store.exclusive(_LOCK) as connection:
        gone = connection.execute(
            update(decisions_table)
            .where(or_(columns.id == name, columns.content == name), columns.kept.is_not(None))
            .values(kept=None)
        ).rowcount
    store.wipe()
    return gone


def preview(text: str) -> str:
    """The shape of a text: its first and last eight characters, with every letter and digit masked.

    A digit or other number becomes `#`, a Chinese character `字`, any other letter or mark `x`, a control character
    `?`; a symbol made of letters counts as they do. Spaces, punctuation and other symbols stay. A text of at most
    sixteen characters is masked as a whole.
    """
    if len(text) <= 2 * PREVIEW:
        return "".join(map(_masked, text))
    return f"{''.join(map(_masked, text[:PREVIEW]))}…{''.join(map(_masked, text[-PREVIEW:]))}"


@lru_cache(maxsize=4096)
def _masked(character: str) -> str:
    plain = unicodedata.normalize("NFKC", character)
    letter = next((one for one in plain if one.isalnum()), character)
    if unicodedata.name(letter, "").startswith("CJK"):
        return "字"
    return MASKS.get(unicodedata.category(letter)[0], character)


def _row(decision: Decision, text: str, key: str | None, now: datetime, days: int | None) -> dict[str, Any]:
    """All of a row but its place in the chain."""
    scores = decision.scores
    told = {"probabilities": dict(scores.probabilities), "risk": scores.risk, "uncertainty": scores.uncertainty}
    kept = {"salt": secrets.token_hex(16), "preview": preview(text)} | ({} if days is None else {"text": text})
    name = uuid.uuid4().hex
    return {
        "id": name,
        "key": name if key is None else key,
        "time": stamp(now),
        "content": decision.id,
        "action": decision.action,
        "category": decision.category,
        "scores": canonical(told),
        "tiers": canonical(decision.tiers),
        "reasons": canonical(decision.reasons),
        "versions": canonical(dict(decision.versions)),
        "latency_ms": float(decision.latency_ms),
        "signals": canonical(text_signals(text)),
        "until": None if days is None else stamp(now + timedelta(days=days)),
        "seal": _sha(canonical(kept)),
        "kept": canonical(kept),
    }


def _append(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[Logged | Exception]:
    """Chain and insert rows whose keys are new; what each caller gets, in the order of `rows`."""
    columns = decisions_table.c
    # A row's own id is nobody's key yet.
    keys = {row["key"] for row in rows if row["key"] != row["id"]}
    known = {row["key"]: dict(row) for row in connection.execute(_by_key(keys)).mappings()} if keys else {}
    tip = connection.execute(select(columns.number, columns.hash).order_by(columns.number.desc()).limit(1)).first()
    number, head = (tip.number, tip.hash) if tip else (0, GENESIS)
    answers: list[Logged | Exception] = []
    fresh: list[dict[str, Any]] = []
    for row in rows:
        earlier = known.get(row["key"])
        if earlier is None:
            number += 1
            row |= {"number": number, "previous": head}
            row["hash"] = head = _hash(row)
            known[row["key"]] = row
            fresh.append(row)
        answers.append(_answer(row, earlier))
    if fresh:
        connection.execute(insert(decisions_table), fresh)
    return answers


def _by_key(keys: set[str]) -> Any:
    columns = decisions_table.c
    return select(columns.key, columns.id, columns.action, columns.content).where(columns.key.in_(keys))


def _answer(row: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> Logged | Exception:
    if earlier is None:
        return Logged(row["id"], row["action"], fresh=True)
    if earlier["content"] != row["content"]:
        return DataError(
            f"idempotency key of decision {earlier['id']} was used for another text: give each text a key of its own"
        )
    return Logged(earlier["id"], earlier["action"], fresh=False)


def _wrong(row: RowMapping, number: int, head: str) -> str | None:
    """Why a row does not hold at its place of the chain; None where it does."""
    if row["number"] != number or row["previous"] != head:
        return "the row before it was changed, added or taken out"
    if row["hash"] != _hash(row):
        return "its content is not what was written"
    if row["kept"] is not None and _sha(row["kept"]) != row["seal"]:
        return "what is kept of its text is not what was written"
    return None


def _hash(row: Mapping[str, Any] | RowMapping) -> str:
    # Rows that were written before `signals` was counted have none, and their hash does not cover it.
    covered = [name for name in CHAINED if name != "signals" or row[name] is not None]
    return _sha(canonical({name: row[name] for name in covered}))


def _expire(connection: Connection, now: datetime) -> int:
    columns = decisions_table.c
    over = update(decisions_table).where(columns.until <= stamp(now), columns.kept.is_not(None))
    return connection.execute(over.values(kept=None)).rowcount


def canonical(value: Any) -> str:
    """JSON that is the same for the same value: sorted keys, no spaces, ASCII; what is no number is null."""
    return json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), default=repr)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sha(text: str) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def stamp(moment: datetime) -> str:
    """A time as the tables of the store hold it: in UTC, to the microsecond, so that text sorts as time does."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


MASKS = {"N": "#", "L": "x", "M": "x", "C": "?"}
"""What stands for a character by the first letter of its Unicode category; others stay as they are."""

CHAINED = sorted(column.name for column in decisions_table.columns if column.name not in ("hash", "kept"))
