"""Decisions as the log has them: found by id or content hash, and shown with what people said of them."""

from __future__ import annotations

import json

from fastapi import APIRouter
from sqlalchemy import or_, select
from starlette.responses import Response

from tamis import reviews
from tamis.decisions import decisions_table
from tamis.ship.console.page import Lead, Reviewer, Stop, Visit
from tamis.ship.console.reading import decisions, scores_of, text_of

NEWEST = 30
LISTS = ("reasons", "tiers", "versions")

router = APIRouter()


@router.get("")
def find(visit: Reviewer) -> Response:
    """The newest decisions, or those of an id or a content hash."""
    columns, wanted = decisions_table.c, visit.query("q").strip()
    query = select(columns.id, columns.time, columns.action, columns.category, columns.scores, columns.content)
    query = query.where(or_(columns.id == wanted, columns.content == wanted)) if wanted else query
    with visit.store.begin() as connection:
        rows = connection.execute(query.order_by(columns.number.desc()).limit(NEWEST)).mappings().all()
    if wanted and len(rows) == 1:
        return visit.go(f"/decisions/{rows[0]['id']}")
    found = [(row, scores_of(row).risk) for row in rows]
    return visit.page("decisions.html.j2", found=found, wanted=wanted)


@router.get("/{name}")
def show(visit: Reviewer, name: str) -> Response:
    """One decision. Reviewers see their own verdicts alone: they may be asked about it without knowing the others'."""
    row = decisions(visit, [name]).get(name)
    if row is None:
        raise Stop(404, "decision_missing")
    said = reviews.about(visit.store, row["content"])
    text, whole = text_of(row)
    return visit.page(
        "decision.html.j2",
        row=row,
        told={name: json.loads(row[name]) for name in LISTS},
        text=text,
        whole=whole,
        scores=scores_of(row),
        verdicts=[one for one in said if visit.user.may("lead") or one.reviewer == visit.user.name],
        twins=_twins(visit, row["content"]),
    )


@router.post("/{name}/review")
def ask(visit: Lead, name: str) -> Response:
    """Queue a decision for a person."""
    reviews.queue(visit.store, [name])
    return visit.go(f"/decisions/{name}", "decision_queued")


@router.post("/{name}/appeal")
def appeal(visit: Lead, name: str) -> Response:
    """Queue a decision that its author disputes, for another person than the one who judged it."""
    reviews.appeal(visit.store, name)
    return visit.go(f"/decisions/{name}", "decision_appealed")


def _twins(visit: Visit, content: str) -> int:
    """How often the same text was decided about."""
    query = select(decisions_table.c.number).where(decisions_table.c.content == content)
    with visit.store.begin() as connection:
        return len(connection.execute(query).all())
