"""The queue: what waits for a person, a few leased items at a time, and their verdicts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter
from starlette.responses import Response

from tamis import reviews
from tamis.reviews import Item, Judgement, Wanted
from tamis.reviews.queue import RISK_HOURS, RISKS
from tamis.reviews.tables import Outcome
from tamis.ship.console.highlight import LONGEST, evidence
from tamis.ship.console.page import Reviewer, Stop, Visit
from tamis.ship.console.reading import read, score

AGES = {"1": 1, "8": 8, "24": 24, "168": 168}
"""Hours that the filter of age offers."""

KEYS = 9
REASON = 1000
"""Characters of a reason."""

router = APIRouter()


@router.get("")
def show(visit: Reviewer) -> Response:
    """The reviewer's desk, and one item of it; `item` in the address takes that one, if nobody holds it."""
    config = visit.service.config.console
    wanted, lease = wanted_of(visit), timedelta(minutes=config.lease_minutes)
    asked = visit.query("item")
    if asked and reviews.take(visit.store, visit.user.name, asked, lease=lease) is None:
        return visit.go(f"/queue{_address(visit)}", "queue_gone")
    held = reviews.desk(visit.store, visit.user.name, wanted, config.desk, lease=lease)
    shown = read(visit, held)
    place = next((place for place, one in enumerate(held) if one.id == asked), 0)
    return visit.page(
        "queue.html.j2",
        desk=shown,
        waiting={item.id: waiting(item) for item in held},
        place=place,
        chosen=shown[place] if shown else None,
        policy=visit.policy,
        left=reviews.count(visit.store, wanted),
        seen=reviews.exposure(visit.store, visit.user.name, visit.policy.benign, midnight()),
        undoable=reviews.last(visit.store, visit.user.name),
        appealed=appealed(visit, held[place]) if held else None,
        address=_address(visit),
        ages=[(hours, visit.words("queue_older", span=visit.words.span(3600 * n))) for hours, n in AGES.items()],
        keys=KEYS,
        reason_length=REASON,
    )


@router.post("/filter")
def choose(visit: Reviewer) -> Response:
    """Give back what is on the desk, and take what is wanted now."""
    reviews.leave(visit.store, visit.user.name)
    chosen = {name: visit.field(name) for name in ("category", "language", "action", "age") if visit.field(name)}
    return visit.go("/queue" + (f"?{urlencode(chosen)}" if chosen else ""))


@router.post("/{item}/verdict")
def judge(visit: Reviewer, item: str) -> Response:
    """Write what the reviewer says, and go on with the next item of the desk."""
    said = [name for name in visit.policy.ids if name in visit.form.get("verdict", [])]
    if not said or (len(said) > 1 and visit.policy.kind != "multi_label"):
        raise Stop(400, "queue_no_verdict")
    verdict = " ".join(said)
    found = reviews.take(visit.store, visit.user.name, item)
    if found is None:
        return visit.go(f"/queue{_address(visit)}", "queue_gone")
    outcome: Outcome | None = None
    if found.cause == "appeal":
        outcome = "uphold" if verdict == appealed(visit, found) else "overturn"
    judgement = Judgement(visit.user.name, verdict, visit.field("reason")[:REASON], outcome)
    share = visit.service.config.console.second_share
    if not reviews.judge(visit.store, [item], judgement, second_share=share):
        return visit.go(f"/queue{_address(visit)}", "queue_gone")
    return visit.go(f"/queue{_address(visit, visit.field('next'))}", "queue_said", what=names(visit, verdict))


@router.post("/{item}/skip")
def skip(visit: Reviewer, item: str) -> Response:
    """Leave an item to the others."""
    reviews.skip(visit.store, item, visit.user.name)
    return visit.go(f"/queue{_address(visit, visit.field('next'))}", "queue_skipped")


@router.post("/undo")
def undo(visit: Reviewer) -> Response:
    """Take back what the reviewer said last, and show that item again."""
    verdict = reviews.last(visit.store, visit.user.name)
    if verdict is None or not reviews.undo(visit.store, [verdict.number], visit.user.name):
        return visit.go(f"/queue{_address(visit)}", "queue_nothing_to_undo")
    return visit.go(f"/queue{_address(visit, verdict.item)}", "queue_undone", what=names(visit, verdict.verdict))


@router.get("/{item}/evidence")
def marked(visit: Reviewer, item: str) -> Response:
    """The text of an item on the reviewer's desk, with what speaks for its risk marked."""
    shown = read(visit, [_mine(visit, item)])[0]
    found = evidence(shown.text, lambda texts: score(visit, texts)) if shown.whole else []
    return visit.part("evidence.html.j2", found=found, shown=shown, longest=LONGEST)


@router.get("/{item}/similar")
def similar(visit: Reviewer, item: str) -> Response:
    """What people said of texts like one on the reviewer's desk."""
    shown = read(visit, [_mine(visit, item)])[0]
    cases = visit.request.app.state.cases.like(visit.store, shown.item, shown.text) if shown.whole else []
    return visit.part("similar.html.j2", cases=cases, shown=shown, policy=visit.policy)


def wanted_of(visit: Visit) -> Wanted:
    """Which items the address asks for; what is no value of a filter is no filter."""
    category, language, action = (visit.query(name) or None for name in ("category", "language", "action"))
    hours = AGES.get(visit.query("age"))
    return Wanted(
        category=category,
        language=language,
        action=next((one for one in ("pass", "review", "block") if one == action), None),
        before=datetime.now(UTC) - timedelta(hours=hours) if hours else None,
    )


def waiting(item: Item) -> float:
    """Seconds that an item has waited as its priority has it: for gold, which is always there, as for others."""
    arrived = 3600 * (RISK_HOURS * RISKS.get(item.cause, item.risk) - item.priority)
    return max(0.0, time.time() - arrived)


def midnight() -> datetime:
    """When today began here."""
    return datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)


def names(visit: Visit, verdict: str) -> str:
    """Categories of a verdict as people call them."""
    return visit.words("comma").join(visit.names.get(name, name) for name in verdict.split())


def _mine(visit: Visit, item: str) -> Item:
    found: Sequence[Item] = reviews.held(visit.store, visit.user.name)
    for one in found:
        if one.id == item:
            return one
    raise Stop(404, "queue_gone")


def appealed(visit: Visit, item: Item) -> str | None:
    """What is appealed against: what a person said of the text, else what was decided; None of what is no appeal."""
    if item.cause != "appeal":
        return None
    before = [one for one in reviews.about(visit.store, item.content) if one.item == item.earlier]
    return before[-1].verdict if before else item.category


def _address(visit: Visit, item: str = "") -> str:
    """The filters of the address, or of the form, and the item to show."""
    kept = visit.field("filters") if visit.form else visit.request.url.query
    pairs = [(name, value) for name, value in parse_qsl(kept) if name != "item"] + ([("item", item)] if item else [])
    return f"?{urlencode(pairs)}" if pairs else ""
