"""What one reviewer has before them: a few leased items to move between, and what they said last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, or_, select, update

from tamis.decisions import stamp
from tamis.reviews.queue import allowed, fits
from tamis.reviews.tables import ALL, ITEMS, VERDICTS, Item, Verdict, Wanted, free, item_of, items_table, standing
from tamis.store import Store

LEASE = timedelta(minutes=5)
"""How long an item is kept for who was given it."""


def next_item(
    store: Store, reviewer: str, wanted: Wanted = ALL, now: datetime | None = None, lease: timedelta = LEASE
) -> Item | None:
    """The most urgent item of a desk of one; None when there is none."""
    return next(iter(desk(store, reviewer, wanted, 1, now, lease)), None)


def desk(
    store: Store,
    reviewer: str,
    wanted: Wanted = ALL,
    size: int = 1,
    now: datetime | None = None,
    lease: timedelta = LEASE,
) -> list[Item]:
    """The items a reviewer holds, filled up to `size` with the most urgent ones nobody holds; the most urgent first.

    One statement chooses and leases, so two reviewers never hold one item. Nobody gets what is not for them, what they
    skipped, or what they have judged. What they hold already stays theirs from now on, whether it is wanted or not,
    see `leave`.

    Args:
        store: the database.
        reviewer: who asks, at most 64 characters.
        wanted: which items are meant.
        size: items at once.
        now: the time.
        lease: after this nobody holds them again.
    """
    moment = now or datetime.now(UTC)
    until = stamp(moment + lease)
    with store.begin() as connection:
        # Writes first: a transaction of SQLite that has read may find that it cannot write any more.
        mine = update(items_table).where(_held(reviewer)).values(held_until=until).returning(*ITEMS)
        found = list(connection.execute(mine).mappings())
        if len(found) < size:
            choose = (
                select(ITEMS.id)
                .where(free(moment), *fits(wanted), *allowed(reviewer))
                .order_by(ITEMS.priority.desc(), ITEMS.id)
                .limit(size - len(found))
                .with_for_update(skip_locked=True)
            )
            more = update(items_table).where(ITEMS.id.in_(choose)).values(held_by=reviewer, held_until=until)
            found += connection.execute(more.returning(*ITEMS)).mappings()
    return sorted((item_of(row) for row in found), key=lambda one: (-one.priority, one.id))


def held(store: Store, reviewer: str) -> list[Item]:
    """What a reviewer holds, without more and without a longer lease."""
    with store.begin() as connection:
        return [item_of(row) for row in connection.execute(select(items_table).where(_held(reviewer))).mappings()]


def take(store: Store, reviewer: str, item: str, now: datetime | None = None, lease: timedelta = LEASE) -> Item | None:
    """One item for a reviewer, be it one they skipped; None where somebody else holds it, or it is not for them."""
    moment = now or datetime.now(UTC)
    mine_or_free = or_(free(moment), ITEMS.held_by == reviewer)
    query = (
        update(items_table)
        .where(ITEMS.id == item, ITEMS.state == "open", mine_or_free, *allowed(reviewer, skipped=True))
        .values(held_by=reviewer, held_until=stamp(moment + lease))
        .returning(*ITEMS)
    )
    with store.begin() as connection:
        row = connection.execute(query).mappings().first()
    return item_of(row) if row else None


def leave(store: Store, reviewer: str) -> None:
    """Give back all that a reviewer holds."""
    with store.begin() as connection:
        connection.execute(update(items_table).where(_held(reviewer)).values(held_by=None, held_until=None))


def last(store: Store, reviewer: str) -> Verdict | None:
    """What a reviewer said last and nothing supersedes; what was done in bulk is left out."""
    query = standing().where(VERDICTS.reviewer == reviewer, VERDICTS.batch.is_(None))
    with store.begin() as connection:
        row = connection.execute(query.order_by(VERDICTS.number.desc()).limit(1)).mappings().first()
    return Verdict(**row) if row else None


def about(store: Store, content: str) -> list[Verdict]:
    """Verdicts that stand on one text, oldest first; those on gold are left out."""
    query = standing().where(ITEMS.content == content, ITEMS.cause != "gold").order_by(VERDICTS.number)
    with store.begin() as connection:
        return [Verdict(**row) for row in connection.execute(query).mappings()]


def _held(reviewer: str) -> ColumnElement[bool]:
    """Items that were leased to a person and that nobody else has taken since."""
    return and_(ITEMS.held_by == reviewer, ITEMS.state == "open")
