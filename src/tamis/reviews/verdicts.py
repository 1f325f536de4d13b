"""What people say, and which of it stands: nothing is overwritten, what is taken back is superseded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, Update, case, func, insert, or_, select, update

from tamis.decisions import stamp
from tamis.errors import DataError
from tamis.reviews.queue import item, urgency
from tamis.reviews.tables import (
    ITEMS,
    LOCK,
    VERDICTS,
    Judgement,
    Verdict,
    for_,
    free,
    items_table,
    not_judged_by,
    parts,
    standing,
    verdicts_table,
)
from tamis.store import Store


def judge(
    store: Store,
    items: Sequence[str],
    judgement: Judgement,
    now: datetime | None = None,
    second_share: float = 0.0,
    batch: str | None = None,
) -> list[int]:
    """Write one judgement of one item, or the same of many.

    What is done already, or held by somebody else, is left alone.

    Args:
        store: the database.
        items: their ids.
        judgement: who says what.
        now: the time.
        second_share: share of items of the cause `review` that another person judges without knowing; ids are random,
            and those below this share of their range are chosen.
        batch: a name under which all can be undone at once.

    Returns:
        The numbers of the verdicts written.

    Raises:
        DataError: no verdict, or an outcome without an appeal or the other way round.
    """
    if not judgement.verdict:
        raise DataError("a verdict names a category: give its id, or that of the benign one for a pass")
    moment = now or datetime.now(UTC)
    numbers: list[int] = []
    with store.exclusive(LOCK) as connection:
        for part in parts(items):
            closed = connection.execute(_closing(part, judgement.reviewer, moment)).mappings().all()
            for row in closed:
                _require_outcome(row, judgement)
                said = asdict(judgement) | {"item": row["id"], "time": stamp(moment), "batch": batch}
                numbers.append(
                    connection.execute(insert(verdicts_table).returning(VERDICTS.number), [said]).scalar_one()
                )
            seconds = [_second(row, judgement.reviewer, moment) for row in closed if _is_second(row, second_share)]
            if seconds:
                connection.execute(insert(items_table), seconds)
    return numbers


def undo(store: Store, numbers: Sequence[int], reviewer: str, now: datetime | None = None) -> int:
    """Take verdicts back: a row that says so supersedes each, and its item is open again.

    A blind second look that was asked for because of it is withdrawn unless it is done.

    Returns:
        How many were taken back; those that were before are not counted.
    """
    moment, gone = stamp(now or datetime.now(UTC)), 0
    with store.exclusive(LOCK) as connection:
        for part in parts(numbers):
            rows = connection.execute(standing().where(VERDICTS.number.in_(part))).all()
            gone += len(rows)
            for row in rows:
                said = {"item": row.item, "reviewer": reviewer, "time": moment, "reason": "", "replaces": row.number}
                connection.execute(insert(verdicts_table), [said])
                connection.execute(
                    update(items_table)
                    .where(ITEMS.earlier == row.item, ITEMS.state == "open", ITEMS.cause == "second")
                    .values(state="done", held_by=None)
                )
                connection.execute(update(items_table).where(ITEMS.id == row.item).values(state="open", held_by=None))
    return gone


def undo_batch(store: Store, batch: str, reviewer: str, now: datetime | None = None) -> int:
    """Take back all that was judged under a name; see `undo`."""
    with store.begin() as connection:
        numbers = connection.execute(select(VERDICTS.number).where(VERDICTS.batch == batch)).scalars().all()
    return undo(store, numbers, reviewer, now)


def verdicts(store: Store, since: datetime | None = None, reviewer: str | None = None) -> list[Verdict]:
    """Verdicts that stand, oldest first.

    Args:
        store: the database.
        since: leave out what was said before.
        reviewer: only what this person said.
    """
    query = standing().order_by(VERDICTS.number)
    query = query.where(VERDICTS.time >= stamp(since)) if since else query
    query = query.where(VERDICTS.reviewer == reviewer) if reviewer else query
    with store.begin() as connection:
        return [Verdict(**row) for row in connection.execute(query).mappings()]


def exposure(store: Store, reviewer: str, benign: str, since: datetime) -> int:
    """How many harmful texts a person has judged since a time, taken back or not: they were read all the same."""
    about = (VERDICTS.reviewer == reviewer, VERDICTS.time >= stamp(since), VERDICTS.verdict.is_not(None))
    query = select(func.count()).select_from(verdicts_table).where(*about, VERDICTS.verdict != benign)
    with store.begin() as connection:
        return int(connection.execute(query).scalar_one())


def settle(said: Iterable[Verdict]) -> dict[str, Verdict]:
    """What people came to, by content: an appeal decides over a blind second verdict, that over a first one.

    Of several of one kind the last decides. Gold is no verdict about the text but about the reviewer, and is left out.
    """
    settled: dict[str, Verdict] = {}
    for verdict in sorted(said, key=lambda one: rank(one.cause, one.time)):
        if verdict.cause != "gold":
            settled[verdict.content] = verdict
    return settled


def rank(kind: str, time: str) -> tuple[int, str]:
    """Whose word decides about a text: the larger; a teacher's is the least."""
    return AUTHORITY.get(kind, -1), time


def _closing(names: Sequence[int] | Sequence[str], reviewer: str, moment: datetime) -> Update:
    """Close open items; gold stays open for the next reviewer, at the end of the queue."""
    gold = ITEMS.cause == "gold"
    return (
        update(items_table)
        .where(ITEMS.id.in_(names), ITEMS.state == "open", or_(free(moment), ITEMS.held_by == reviewer))
        .where(for_(reviewer), not_judged_by(reviewer))
        .values(
            state=case((gold, "open"), else_="done"),
            priority=case((gold, urgency(0.5, moment)), else_=ITEMS.priority),
            held_by=None,
            held_until=None,
        )
        .returning(*ITEMS)
    )


def _require_outcome(row: RowMapping, judgement: Judgement) -> None:
    if (row["cause"] == "appeal") != (judgement.outcome is not None):
        wanted = "whether it is upheld or overturned" if row["cause"] == "appeal" else "no outcome, it is no appeal"
        raise DataError(f"the verdict of item {row['id']} wants {wanted}: set `outcome` accordingly")


def _is_second(row: RowMapping, share: float) -> bool:
    return row["cause"] == "review" and int(row["id"], 16) < share * 16**32


def _second(row: RowMapping, reviewer: str, moment: datetime) -> dict[str, Any]:
    same = {name: row[name] for name in ("decision", "category", "language", "text")}
    return item(moment, row["content"], "second", row["risk"], earlier=row["id"], not_for=reviewer, **same)


AUTHORITY: Mapping[str, int] = {
    "imported": 0,
    "audit": 0,
    "selected": 0,
    "review": 0,
    "gold": 0,
    "second": 1,
    "appeal": 2,
}
"""Whose verdict decides, by what was asked: the higher one."""
