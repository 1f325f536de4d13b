"""Judge many waiting items at once: all that a filter means, after a look at how many and which, and with a way back.

Only what is read for the decision's sake may be judged so. The audit, blind second looks, gold and appeals are answers
about the model and about people, which are worth nothing unless somebody has read each.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import urlencode

from fastapi import APIRouter
from sqlalchemy import ColumnElement, func, or_, select
from starlette.responses import Response

from tamis import reviews
from tamis.decisions import stamp
from tamis.reviews import Item, Judgement
from tamis.reviews.tables import ITEMS, VERDICTS, for_, free, items_table, not_judged_by, parts, standing
from tamis.ship.console.acts import Act, acts, write_act
from tamis.ship.console.page import Lead, Stop
from tamis.ship.console.queue import REASON
from tamis.ship.console.reading import read
from tamis.store import Store

CAUSES = ("review", "selected")
MOST = 2000
"""Items that are judged at once; what more there is waits for the next time."""

EXAMPLES = 8
SHOWN = 10

router = APIRouter()


@dataclass(frozen=True)
class Filter:
    """Which items are meant: by the decision's category and language, and its risk in percent, both ends included."""

    category: str = ""
    language: str = ""
    low: int = 0
    high: int = 100

    @classmethod
    def of(cls, told: Mapping[str, str]) -> Self:
        """From the fields of a form; what is no number is no limit."""
        low, high = (_percent(told.get(name, ""), default) for name, default in (("low", 0), ("high", 100)))
        return cls(told.get("category", ""), told.get("language", ""), low, high)

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """As conditions on items."""
        named = [ITEMS[name] == value for name in ("category", "language") if (value := getattr(self, name))]
        # Risks are not rounded, so that both ends are meant as they are written.
        return [*named, ITEMS.risk >= self.low / 100, ITEMS.risk <= self.high / 100]


@router.get("")
def show(visit: Lead) -> Response:
    """The filter, what it means at this moment, and what was judged in bulk before."""
    chosen = Filter.of(visit.request.query_params)
    asked, until = bool(visit.request.url.query), datetime.now(UTC)
    found = count(visit.store, chosen, visit.user.name, until) if asked else {}
    done = acts(visit.store, "bulk", limit=SHOWN)
    return visit.page(
        "bulk.html.j2",
        chosen=chosen,
        asked=asked,
        found=found,
        total=sum(found.values()),
        until=stamp(until),
        examples=read(visit, listing(visit.store, chosen, visit.user.name, until, EXAMPLES)) if asked else [],
        batches=[(act, left) for act, left in zip(done, still_stand(visit.store, done), strict=True)],
        languages=[(name, visit.words(f"lang_{name}")) for name in ("zh", "en", "other")],
        most=MOST,
        reason_length=REASON,
    )


@router.post("")
def judge(visit: Lead) -> Response:
    """Judge what was previewed: what has come since is left for the next time."""
    fields = {name: visit.field(name) for name in ("category", "language", "low", "high")}
    verdict, reason = visit.field("verdict"), visit.field("reason")[:REASON]
    if verdict not in visit.policy.ids:
        raise Stop(400, "queue_no_verdict")
    if not reason:
        raise Stop(400, "quality_no_reason")
    until = _time(visit.field("until"))
    items = listing(visit.store, Filter.of(fields), visit.user.name, until, MOST)
    batch, share = uuid.uuid4().hex, visit.service.config.console.second_share
    judgement, done = Judgement(visit.user.name, verdict, reason), 0
    # In portions, so that decisions can be logged in between.
    for part in parts([item.id for item in items]):
        done += len(reviews.judge(visit.store, [str(name) for name in part], judgement, None, share, batch))
    about = {"batch": batch, "rows": done, "verdict": verdict, "reason": reason, "filter": fields}
    if done:
        write_act(visit.store, visit.user.name, "bulk", **about)
    return visit.go("/bulk", "bulk_done", n=done)


@router.post("/{batch}/undo")
def undo(visit: Lead, batch: str) -> Response:
    """Take back all that was judged at once."""
    gone = reviews.undo_batch(visit.store, batch, visit.user.name)
    if gone:
        write_act(visit.store, visit.user.name, "bulk_undo", batch=batch, rows=gone)
    return visit.go("/bulk", "bulk_undone", n=gone)


def count(store: Store, chosen: Filter, reviewer: str, until: datetime) -> dict[str, int]:
    """How many open items are meant, by the category that was decided; those that somebody has on screen are not."""
    query = select(ITEMS.category, func.count()).where(*_meant(chosen, reviewer, until)).group_by(ITEMS.category)
    with store.begin() as connection:
        return {row[0]: int(row[1]) for row in connection.execute(query.order_by(func.count().desc()))}


def listing(store: Store, chosen: Filter, reviewer: str, until: datetime, limit: int) -> list[Item]:
    """The most urgent items that are meant."""
    query = select(items_table).where(*_meant(chosen, reviewer, until)).order_by(ITEMS.priority.desc()).limit(limit)
    with store.begin() as connection:
        return [Item(**row) for row in connection.execute(query).mappings()]


def still_stand(store: Store, done: Sequence[Act]) -> list[int]:
    """Of each bulk judgement, how many of its verdicts were not taken back."""
    names = [act.about["batch"] for act in done]
    query = standing().with_only_columns(VERDICTS.batch, func.count()).where(VERDICTS.batch.in_(names))
    with store.begin() as connection:
        found: dict[Any, int] = {row[0]: row[1] for row in connection.execute(query.group_by(VERDICTS.batch))}
    return [found.get(name, 0) for name in names]


def address(chosen: Filter) -> str:
    """The query of a page that shows what a filter means."""
    return urlencode(vars(chosen))


def _meant(chosen: Filter, reviewer: str, until: datetime) -> list[ColumnElement[bool]]:
    mine = or_(free(datetime.now(UTC)), ITEMS.held_by == reviewer)
    open_ = [ITEMS.state == "open", ITEMS.cause.in_(CAUSES), ITEMS.created <= stamp(until)]
    return [*open_, *chosen.conditions, mine, for_(reviewer), not_judged_by(reviewer)]


def _percent(told: str, default: int) -> int:
    return min(100, int(told)) if told.isascii() and told.isdigit() else default


def _time(told: str) -> datetime:
    try:
        return datetime.fromisoformat(told)
    except ValueError:
        raise Stop(400, "stop_csrf") from None
