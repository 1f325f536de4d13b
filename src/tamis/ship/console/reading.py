"""What stands beside an item or a decision: the text as far as it is kept, and what the model said of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio
from sqlalchemy import RowMapping, select

from tamis.decisions import decisions_table
from tamis.errors import ServiceError
from tamis.records import NO_ANSWER, Scores
from tamis.reviews import Item
from tamis.ship.console.page import Visit


@dataclass(frozen=True)
class Shown:
    """A text with its scores. `whole` says whether it is the text or the preview that the log keeps of it."""

    item: Item
    text: str
    whole: bool
    scores: Scores

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """Categories by probability, the likeliest first."""
        return sorted(self.scores.probabilities.items(), key=lambda one: -one[1])


def score(visit: Visit, texts: Sequence[str]) -> list[Scores]:
    """What the live bundle says of texts now; no answer where it is too busy. To be called from a worker thread."""
    engine, timeout = visit.service.fleet.engine, visit.service.config.timeout

    async def ask() -> list[Scores]:
        return await engine.score(texts, anyio.current_time() + timeout)

    try:
        return anyio.from_thread.run(ask)
    except ServiceError:
        return [NO_ANSWER] * len(texts)


def read(visit: Visit, items: Sequence[Item]) -> list[Shown]:
    """Items with their texts and scores, in their order.

    The scores are those of the decision. An item that has none is gold: it is scored now, so that it looks like others.
    """
    rows = decisions(visit, [item.decision for item in items if item.decision])
    gold = {item.id: item.text for item in items if item.decision not in rows and item.text}
    told = dict(zip(gold, score(visit, list(gold.values())), strict=True)) if gold else {}
    found: list[Shown] = []
    for item in items:
        row = rows.get(item.decision or "")
        if row:
            found.append(Shown(item, *text_of(row), scores_of(row)))
        else:
            found.append(Shown(item, item.text or "", item.text is not None, told.get(item.id, NO_ANSWER)))
    return found


def decisions(visit: Visit, ids: Sequence[str]) -> dict[str, RowMapping]:
    """Rows of the decision log by their ids."""
    with visit.store.begin() as connection:
        rows = connection.execute(select(decisions_table).where(decisions_table.c.id.in_(ids))).mappings().all()
    return {row["id"]: row for row in rows}


def text_of(row: RowMapping) -> tuple[str, bool]:
    """What the log keeps of a text, and whether that is all of it; the empty string where it was forgotten."""
    kept: dict[str, Any] = json.loads(row["kept"] or "{}")
    return (kept["text"], True) if "text" in kept else (kept.get("preview", ""), False)


def scores_of(row: RowMapping) -> Scores:
    """Scores of a decision, as the log has them."""
    told = json.loads(row["scores"])
    return Scores(told["probabilities"], math.nan if told["risk"] is None else told["risk"], told["uncertainty"])
