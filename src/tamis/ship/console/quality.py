"""How well people judge: agreement, errors on hidden gold, what they dispute, and appeals to decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fastapi import APIRouter
from sqlalchemy import func, or_, select
from starlette.responses import Response

from tamis import charts, reviews
from tamis.decisions import stamp
from tamis.estimates import Estimate
from tamis.languages import language
from tamis.records import Example, content_id
from tamis.reviews import Judgement, Verdict, Wanted
from tamis.reviews.quality import Errors, Quality
from tamis.reviews.tables import ITEMS, VERDICTS, Outcome, items_table, standing
from tamis.ship.console.explorer import newest
from tamis.ship.console.page import Lead, Stop, Visit
from tamis.ship.console.queue import REASON, appealed
from tamis.ship.console.reading import read
from tamis.ship.monitor import Stratum, miss_rate
from tamis.store import Store

DAYS = {"7": 7, "30": 30, "90": 90}
SHOWN = 20
LONGEST = 20_000
"""Characters of a text of gold."""

router = APIRouter()


@dataclass(frozen=True)
class Rate:
    """Errors of a person, or in a category, as a share with its 95 % interval."""

    name: str
    errors: Errors
    estimate: Estimate


@router.get("")
def show(visit: Lead) -> Response:
    """All of it, over some days."""
    days = DAYS.get(visit.query("days"), 30)
    found = _quality(visit, days)
    disputes = found.disputes[: -SHOWN - 1 : -1]
    appeals = reviews.listing(visit.store, Wanted(cause="appeal"), SHOWN)
    people, categories = rates(found.by_reviewer), rates(found.by_category, visit.names)
    return visit.page(
        "quality.html.j2",
        days=days,
        choices=[(name, visit.words("last_days", n=n)) for name, n in DAYS.items()],
        quality=found,
        gold=overall(found.by_reviewer),
        golds=golds(visit.store),
        people=people,
        categories=categories,
        charts={"people": bars(visit, "people", people), "categories": bars(visit, "categories", categories)},
        disputes=[(one, text) for one, text in zip(disputes, _texts(visit, [d.first for d in disputes]), strict=True)],
        appeals=[(shown, appealed(visit, shown.item) or "") for shown in read(visit, appeals)],
        second_share=visit.service.config.console.second_share,
        reason_length=REASON,
        longest=LONGEST,
    )


@router.post("/appeal")
def begin_appeal(visit: Lead) -> Response:
    """Queue a decision that its author disputes."""
    reviews.appeal(visit.store, visit.field("decision"))
    return visit.go("/quality#appeals", "quality_appeal_begun")


@router.post("/appeals/{item}")
def decide_appeal(visit: Lead, item: str) -> Response:
    """Uphold what was decided, or overturn it for another category."""
    found = reviews.take(visit.store, visit.user.name, item)
    if found is None or found.cause != "appeal":
        return visit.go("/quality#appeals", "quality_appeal_not_yours")
    before = appealed(visit, found) or ""
    outcome: Outcome = "overturn" if visit.field("outcome") == "overturn" else "uphold"
    verdict = before if outcome == "uphold" else visit.field("verdict")
    if outcome == "overturn" and (verdict not in visit.policy.ids or verdict == before):
        raise Stop(400, "quality_no_other")
    if not visit.field("reason"):
        raise Stop(400, "quality_no_reason")
    judgement = Judgement(visit.user.name, verdict, visit.field("reason")[:REASON], outcome)
    done = reviews.judge(visit.store, [item], judgement)
    return visit.go("/quality#appeals", f"quality_{outcome}_done" if done else "quality_appeal_not_yours")


@router.post("/gold")
def add_gold(visit: Lead) -> Response:
    """Hide a text whose answer is known among the others."""
    text, label = visit.field("text")[:LONGEST], visit.field("label")
    if not text or label not in visit.policy.ids:
        raise Stop(400, "quality_gold_incomplete")
    several = visit.policy.kind == "multi_label"
    known = {"labels": (label,)} if several else {"label": label}
    example = Example(content_id(text), text, language(text), "console", **known)
    fresh = reviews.add_gold(visit.store, [example])
    return visit.go("/quality#gold", "quality_gold_added" if fresh else "quality_gold_known")


def _quality(visit: Visit, days: int) -> Quality:
    """All figures, counted again when something was judged or taken back since, and each day."""
    state, now = visit.request.app.state, datetime.now(UTC)
    stamp = (newest(visit.store), days, now.date())
    kept: tuple[object, Quality] | None = getattr(state, "quality", None)
    if kept is None or kept[0] != stamp:
        state.quality = kept = (stamp, reviews.quality(compared(visit.store, now - timedelta(days=days))))
    return kept[1]


def compared(store: Store, since: datetime) -> list[Verdict]:
    """Verdicts that say something of a reviewer: of gold and appeals, and blind second ones with their firsts.

    All others are of texts that one person judged once; they change none of the figures, and are most of the table.
    """
    looked_at_twice = select(ITEMS.earlier).where(ITEMS.cause == "second", ITEMS.state == "done")
    query = (
        standing()
        .where(VERDICTS.time >= stamp(since))
        .where(or_(ITEMS.cause.in_(("gold", "second", "appeal")), ITEMS.id.in_(looked_at_twice)))
        .order_by(VERDICTS.number)
    )
    with store.begin() as connection:
        return [Verdict(**row) for row in connection.execute(query).mappings()]


def golds(store: Store) -> int:
    """How many items of gold are hidden in the queue."""
    query = select(func.count()).select_from(items_table).where(ITEMS.cause == "gold", ITEMS.state == "open")
    with store.begin() as connection:
        return int(connection.execute(query).scalar_one())


def rates(found: Mapping[str, Errors], names: Mapping[str, str] | None = None) -> list[Rate]:
    """Errors as shares with the interval of Clopper and Pearson, the surest high ones first."""
    made = [
        Rate((names or {}).get(name, name), errors, estimate_of(errors))
        for name, errors in found.items()
        if errors.rows
    ]
    return sorted(made, key=lambda one: (-one.estimate.low, -one.estimate.value, one.name))


def estimate_of(errors: Errors) -> Estimate:
    """A share with its interval: of an audit that has read all there is, see `miss_rate`."""
    found = miss_rate([Stratum(errors.rows, errors.rows, errors.wrong)])
    return Estimate(found.rate, found.low, found.high)


def overall(found: Mapping[str, Errors]) -> Estimate:
    """The errors of all together."""
    return estimate_of(Errors(sum(one.rows for one in found.values()), sum(one.wrong for one in found.values())))


def bars(visit: Visit, what: str, found: list[Rate]) -> str:
    """Errors as a chart."""
    return charts.bars(visit.words(f"quality_{what}"), [(one.name, one.estimate, 1) for one in found])


def _texts(visit: Visit, said: list[Verdict]) -> list[str]:
    ids = [one.item for one in said]
    query = select(items_table).where(ITEMS.id.in_(ids))
    with visit.store.begin() as connection:
        found = {row["id"]: reviews.Item(**row) for row in connection.execute(query).mappings()}
    shown = {one.item.id: one.text for one in read(visit, list(found.values()))}
    return [shown.get(name, "") for name in ids]
