"""Who is asked what next: items from decisions, gold and appeals, leased so that no two people get one."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, exists, func, insert, or_, select, update

from tamis.decisions import canonical, decisions_table, stamp
from tamis.errors import DataError
from tamis.languages import language
from tamis.records import AUDIT, Example, content_id
from tamis.reviews.tables import (
    ALL,
    ITEMS,
    LOCK,
    VERDICTS,
    Cause,
    Item,
    Wanted,
    for_,
    item_of,
    items_table,
    not_judged_by,
    parts,
    skips_table,
    standing,
)
from tamis.store import Store, notes_table

RISK_HOURS = 24.0
"""A text of risk 1 is read before one of risk 0 that is older by up to so many hours."""

_FILLED = "reviews filled"


def fill(store: Store, now: datetime | None = None) -> int:
    """Queue what was decided since the last time and needs a person: reviews, and passed texts chosen for the audit.

    A text that waits already is not queued again, and one that was audited is not audited twice.

    Returns:
        How many items were added.
    """
    columns = decisions_table.c
    with store.exclusive(LOCK) as connection:
        last = connection.execute(select(notes_table.c.value).where(notes_table.c.key == _FILLED)).scalar() or 0
        tip = connection.execute(select(func.max(columns.number))).scalar() or 0
        if tip == last:
            return 0
        found = connection.execute(
            select(columns.id, columns.content, columns.action, columns.category)
            .add_columns(columns.scores, columns.reasons, columns.signals)
            .where(columns.number > last, columns.number <= tip)
            .where(or_(columns.action == "review", columns.reasons.contains(canonical(AUDIT))))
            .order_by(columns.number)
        ).mappings()
        waiting = {(row.cause, row.content) for row in connection.execute(_known())}
        rows, created = [], now or datetime.now(UTC)
        for decision in found:
            cause = _cause(decision)
            if (cause, decision["content"]) not in waiting:
                waiting.add((cause, decision["content"]))
                rows.append(_of_decision(decision, cause, created))
        if rows:
            connection.execute(insert(items_table), rows)
        _note(connection, tip)
    return len(rows)


def queue(store: Store, decisions: Sequence[str], cause: Cause = "selected", now: datetime | None = None) -> int:
    """Queue decisions that were chosen by their ids, see `feedback.selection`; returns how many were.

    Left out are ids that are not there, and texts that are waiting already.
    """
    columns = decisions_table.c
    created = now or datetime.now(UTC)
    rows: list[dict[str, Any]] = []
    with store.exclusive(LOCK) as connection:
        waiting = set(connection.execute(select(ITEMS.content).where(ITEMS.state == "open")).scalars())
        for part in parts(decisions):
            found = connection.execute(select(decisions_table).where(columns.id.in_(part))).mappings()
            rows += [_of_decision(row, cause, created) for row in found if row["content"] not in waiting]
        if rows:
            connection.execute(insert(items_table), rows)
    return len(rows)


def add_gold(store: Store, examples: Iterable[Example], now: datetime | None = None) -> int:
    """Hide items whose answer is known among the others; each comes to every reviewer once.

    Args:
        store: the database.
        examples: texts with labels of people.
        now: the time.

    Returns:
        How many were new; a text that is gold already keeps its answer.

    Raises:
        DataError: an example without a label.
    """
    created = now or datetime.now(UTC)
    rows = [_of_example(example, created) for example in examples]
    with store.exclusive(LOCK) as connection:
        known = set(connection.execute(select(ITEMS.content).where(ITEMS.cause == "gold")).scalars())
        fresh = [row for row in rows if row["content"] not in known]
        if fresh:
            connection.execute(insert(items_table), fresh)
    return len(fresh)


def appeal(store: Store, decision: str, now: datetime | None = None) -> str:
    """Queue a decision that its author disputes, for another person than the one who judged it; returns the item's id.

    Raises:
        DataError: there is no such decision, or an appeal against it waits.
    """
    with store.exclusive(LOCK) as connection:
        found = connection.execute(select(decisions_table).where(decisions_table.c.id == decision)).mappings().first()
        if found is None:
            raise DataError(
                f"there is no decision {decision} to appeal against: give the id that the log answered with"
            )
        about = and_(ITEMS.decision == decision, ITEMS.state == "open", ITEMS.cause == "appeal")
        if connection.execute(select(ITEMS.id).where(about)).first():
            raise DataError(f"an appeal against decision {decision} waits already: answer that one")
        before = connection.execute(
            standing()
            .where(ITEMS.content == found["content"], ITEMS.cause != "gold")
            .order_by(VERDICTS.number.desc())
            .limit(1)
        ).first()
        row = _of_decision(found, "appeal", now or datetime.now(UTC))
        row |= {"earlier": before.item, "not_for": before.reviewer} if before else {}
        connection.execute(insert(items_table), [row])
    return str(row["id"])


def skip(store: Store, item: str, reviewer: str) -> None:
    """Give an item back to the others; who skips it does not get it again."""
    with store.begin() as connection:
        connection.execute(
            update(items_table).where(ITEMS.id == item, ITEMS.held_by == reviewer).values(held_by=None, held_until=None)
        )
        known = select(skips_table.c.item).where(skips_table.c.item == item, skips_table.c.reviewer == reviewer)
        if not connection.execute(known).first():
            connection.execute(insert(skips_table).values(item=item, reviewer=reviewer))


def count(store: Store, wanted: Wanted = ALL) -> int:
    """How many open items are meant; gold is not counted."""
    with store.begin() as connection:
        return int(
            connection.execute(
                select(func.count()).select_from(items_table).where(*fits(wanted), ITEMS.cause != "gold")
            ).scalar_one()
        )


def listing(store: Store, wanted: Wanted = ALL, limit: int = 100) -> list[Item]:
    """The most urgent open items, gold left out, without leasing them."""
    query = (
        select(items_table)
        .where(*fits(wanted), ITEMS.cause != "gold")
        .order_by(ITEMS.priority.desc(), ITEMS.id)
        .limit(limit)
    )
    with store.begin() as connection:
        return [item_of(row) for row in connection.execute(query).mappings()]


def urgency(risk: float, created: datetime) -> float:
    """What the queue sorts by, most urgent first: risk in hours of waiting, less the hour of its arrival.

    All items age alike, so it never has to be computed again.
    """
    return RISK_HOURS * risk - created.timestamp() / 3600


def item(created: datetime, content: str, cause: str, risk: float, **others: Any) -> dict[str, Any]:
    """The row of an open item; without a number for its risk it counts as surely harmful."""
    known = 1.0 if math.isnan(risk) else risk
    row = dict.fromkeys(column.name for column in items_table.columns)
    row |= {"id": uuid.uuid4().hex, "content": content, "cause": cause, "risk": known, "created": stamp(created)}
    return row | {"priority": urgency(RISKS.get(cause, known), created), "state": "open"} | others


def _cause(decision: RowMapping) -> Cause:
    return "review" if decision["action"] == "review" else "audit"


def _of_decision(row: RowMapping, cause: Cause, created: datetime) -> dict[str, Any]:
    risk = json.loads(row["scores"])["risk"]
    counted = json.loads(row["signals"] or "{}")
    return item(
        created,
        row["content"],
        cause,
        math.nan if risk is None else risk,
        decision=row["id"],
        category=row["category"],
        language=counted.get("language", "other"),
    )


def _of_example(example: Example, created: datetime) -> dict[str, Any]:
    if not example.is_labelled:
        raise DataError(f"gold item {example.id} has no label: hide texts among the others that people have judged")
    truth = example.label if example.label is not None else " ".join(example.labels or ())
    identity = uuid.uuid4()
    # Spread over the queue as other texts are.
    risk = identity.int / 2**128
    about = {"id": identity.hex, "truth": truth, "text": canonical(example.text), "category": truth.partition(" ")[0]}
    return item(created, content_id(example.text), "gold", risk, language=language(example.text), **about)


def _known() -> Select[tuple[str, str]]:
    """What need not be queued again, by cause and content."""
    return select(ITEMS.cause, ITEMS.content).where(or_(ITEMS.state == "open", ITEMS.cause == "audit"))


def _note(connection: Connection, last: int) -> None:
    """Remember the last decision that was looked at; the caller holds the lock, so nobody else does."""
    there = connection.execute(update(notes_table).where(notes_table.c.key == _FILLED).values(value=last)).rowcount
    if not there:
        connection.execute(insert(notes_table).values(key=_FILLED, value=last))


def fits(wanted: Wanted) -> list[ColumnElement[bool]]:
    """Whether an item is open and one of those that are meant; gold always is of the wanted action and age."""
    named = {name: getattr(wanted, name) for name in ("cause", "category", "language")}
    found = [ITEMS.state == "open", *(ITEMS[name] == value for name, value in named.items() if value is not None)]
    gold, columns = ITEMS.cause == "gold", decisions_table.c
    if wanted.action is not None:
        about = exists().where(columns.id == ITEMS.decision, columns.action == wanted.action)
        found.append(or_(gold, about.correlate(items_table)))
    if wanted.before is not None:
        found.append(or_(gold, ITEMS.created < stamp(wanted.before)))
    return found


def allowed(reviewer: str, skipped: bool = False) -> list[ColumnElement[bool]]:
    """Whether a person may be given an item; `skipped` lets them have again what they skipped."""
    passed_over = exists().where(skips_table.c.item == ITEMS.id, skips_table.c.reviewer == reviewer)
    return [for_(reviewer), not_judged_by(reviewer), *([] if skipped else [~passed_over.correlate(items_table)])]


RISKS: Mapping[str, float] = {"appeal": 2.0, "second": 0.5, "audit": 0.5}
"""What stands for the risk in the priority of some causes. That of the audit must not depend on the risk: were the
risky ones judged first, the others would be missing from the estimate of what is missed."""
