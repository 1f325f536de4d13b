"""The tables of reviews, and their rows as records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    RowMapping,
    Select,
    String,
    Table,
    Text,
    exists,
    or_,
    select,
)

from tamis.decisions import stamp
from tamis.records import Action
from tamis.store import metadata

Cause = Literal["review", "audit", "selected", "second", "appeal", "gold", "imported"]
Outcome = Literal["uphold", "overturn"]

LOCK = 7_461_515
"""Keeps writers of items and verdicts apart."""

LIST = 500
"""Ids in one statement."""

items_table = Table(
    "review_items",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("decision", String(32), index=True),
    Column("content", String(64), nullable=False, index=True),
    Column("cause", String(16), nullable=False),
    Column("category", String(64), nullable=False),
    Column("language", String(8), nullable=False),
    Column("risk", Float, nullable=False),
    Column("priority", Float, nullable=False),
    Column("created", String(32), nullable=False),
    Column("state", String(8), nullable=False),
    Column("held_by", String(64), index=True),
    Column("held_until", String(32)),
    Column("earlier", String(32), index=True),
    Column("not_for", String(64)),
    Column("truth", String(400)),
    Column("text", Text),
    Index("ix_review_items_queue", "state", "priority"),
    Index("ix_review_items_held", "held_by"),
)
verdicts_table = Table(
    "review_verdicts",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("item", String(32), nullable=False, index=True),
    Column("reviewer", String(64), nullable=False),
    Column("time", String(32), nullable=False),
    Column("verdict", String(400)),
    Column("outcome", String(16)),
    Column("reason", Text, nullable=False),
    Column("batch", String(32), index=True),
    Column("replaces", Integer, unique=True),
    Index("ix_review_verdicts_reviewer", "reviewer", "time"),
)
skips_table = Table(
    "review_skips",
    metadata,
    Column("item", String(32), primary_key=True),
    Column("reviewer", String(64), primary_key=True),
)
ITEMS, VERDICTS = items_table.c, verdicts_table.c


@dataclass(frozen=True)
class Item:
    """One question to a person; a page must not show `cause`, `earlier` and `truth` to who answers it.

    `category`, `language` and `risk` are those of the decision. `text` is there only for gold and imported items; that
    of a decision is in the decision log, as long as it is kept there.
    """

    id: str
    decision: str | None
    content: str
    cause: Cause
    category: str
    language: str
    risk: float
    priority: float
    created: str
    state: Literal["open", "done"]
    held_by: str | None = None
    held_until: str | None = None
    earlier: str | None = None
    not_for: str | None = None
    truth: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Wanted:
    """Which items are meant; None means all.

    `action` is that of the decision, `before` leaves out what came later.
    """

    cause: Cause | None = None
    category: str | None = None
    language: str | None = None
    action: Action | None = None
    before: datetime | None = None


ALL = Wanted()
"""Every item."""


@dataclass(frozen=True)
class Judgement:
    """What a person says: a category id (the benign one is a pass), or several with a space between.

    `outcome` is set on appeals alone: whether the verdict that was appealed stands.
    """

    reviewer: str
    verdict: str
    reason: str = ""
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Verdict:
    """A judgement that stands, and what it is about."""

    number: int
    item: str
    decision: str | None
    content: str
    cause: Cause
    earlier: str | None
    truth: str | None
    reviewer: str
    time: str
    verdict: str
    outcome: Outcome | None
    reason: str
    batch: str | None


def item_of(row: RowMapping) -> Item:
    """An item as its row holds it; texts are JSON there, as no database takes every character."""
    return Item(**dict(row) | {"text": None if row["text"] is None else json.loads(row["text"])})


def standing() -> Select[Any]:
    """Verdicts that nothing supersedes, with their items; columns in the order `Verdict` has them."""
    later = verdicts_table.alias()
    named = (VERDICTS.number, VERDICTS.item, ITEMS.decision, ITEMS.content, ITEMS.cause, ITEMS.earlier, ITEMS.truth)
    said = (VERDICTS.reviewer, VERDICTS.time, VERDICTS.verdict, VERDICTS.outcome, VERDICTS.reason, VERDICTS.batch)
    return (
        select(*named, *said)
        .join_from(verdicts_table, items_table, ITEMS.id == VERDICTS.item)
        .where(VERDICTS.verdict.is_not(None), ~exists().where(later.c.replaces == VERDICTS.number))
    )


def free(moment: datetime) -> ColumnElement[bool]:
    """Whether nobody holds an item at a time."""
    return or_(ITEMS.held_until.is_(None), ITEMS.held_until <= stamp(moment))


def not_judged_by(reviewer: str) -> ColumnElement[bool]:
    """Whether a person has said nothing of an item that stands."""
    said, later = verdicts_table.alias(), verdicts_table.alias()
    return ~exists().where(
        said.c.item == ITEMS.id,
        said.c.reviewer == reviewer,
        said.c.verdict.is_not(None),
        ~exists().where(later.c.replaces == said.c.number).correlate(said),
    ).correlate(items_table)


def for_(reviewer: str) -> ColumnElement[bool]:
    """Whether an item may go to a person at all."""
    return or_(ITEMS.not_for.is_(None), ITEMS.not_for != reviewer)


def parts(names: Sequence[int] | Sequence[str]) -> Iterator[Sequence[int] | Sequence[str]]:
    """Names in portions that fit one statement."""
    return (names[start : start + LIST] for start in range(0, len(names), LIST))
