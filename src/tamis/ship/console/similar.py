"""Texts like one that is before a reviewer, and what people said of them."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from threading import Lock

from sqlalchemy import select

from tamis.decisions import decisions_table
from tamis.reviews.tables import ITEMS, VERDICTS, Item, items_table, standing, verdicts_table
from tamis.store import Store

NEWEST = 5000
"""Verdicts that are looked at."""

LEAST = 0.2
"""Overlap from which two texts are alike."""

SHINGLE = 3
LETTERS = 2000
"""Characters of a text that are compared."""


@dataclass(frozen=True)
class Case:
    """A text that was judged, and how much of it is in the other: the Jaccard index of their shingles, in [0, 1]."""

    decision: str
    text: str
    overlap: float
    verdict: str
    time: str


class Cases:
    """What was judged lately, by shingles of three characters; it holds their hashes and no text."""

    def __init__(self) -> None:
        self._seen = 0
        self._size: dict[str, int] = {}
        self._with: defaultdict[int, list[str]] = defaultdict(list)
        self._lock = Lock()

    def like(self, store: Store, item: Item, text: str, most: int = 5) -> list[Case]:
        """The cases most like a text, the most alike first.

        What was said of this very item, or of the one that it looks at again, is left out: who judges blindly must
        not see it.
        """
        with self._lock:
            self._learn(store)
            wanted = shingles(text)
            shared = Counter(name for shingle in wanted for name in self._with.get(shingle, ()))
        overlap = {name: n / (len(wanted) + self._size[name] - n) for name, n in shared.items()}
        near = sorted((name for name in overlap if overlap[name] >= LEAST), key=lambda name: -overlap[name])
        told = _told(store, near[: 4 * most], {item.id, item.earlier})
        return sorted((Case(*one[:2], overlap[one[2]], *one[3:]) for one in told), key=lambda one: -one.overlap)[:most]

    def _learn(self, store: Store) -> None:
        columns = decisions_table.c
        fresh = (
            select(VERDICTS.number, columns.content, columns.kept)
            .join_from(verdicts_table, items_table, ITEMS.id == VERDICTS.item)
            .join(decisions_table, columns.id == ITEMS.decision)
            .where(VERDICTS.number > self._seen, VERDICTS.verdict.is_not(None), ITEMS.cause != "gold")
            .order_by(VERDICTS.number.desc())
            .limit(NEWEST)
        )
        with store.begin() as connection:
            rows = connection.execute(fresh).all()
        for row in rows:
            self._seen = max(self._seen, row.number)
            text = json.loads(row.kept or "{}").get("text")
            if text and row.content not in self._size:
                found = shingles(text)
                self._size[row.content] = len(found)
                for shingle in found:
                    self._with[shingle].append(row.content)


def shingles(text: str) -> set[int]:
    """Hashes of all runs of three characters, after NFKC, lower-casing and removal of white space."""
    folded = "".join(unicodedata.normalize("NFKC", text[:LETTERS]).lower().split())
    return {hash(folded[start : start + SHINGLE]) for start in range(max(1, len(folded) - SHINGLE + 1))}


def _told(store: Store, contents: list[str], hidden: set[str | None]) -> list[tuple[str, str, str, str, str]]:
    """Decision, text, content, verdict and time of the last verdict that stands on each content."""
    columns = decisions_table.c
    said = standing().where(ITEMS.content.in_(contents), ITEMS.cause != "gold", ITEMS.decision.is_not(None))
    with store.begin() as connection:
        rows = connection.execute(said.order_by(VERDICTS.number)).all()
        newest = {row.content: row for row in rows if row.item not in hidden}
        kept = select(columns.id, columns.kept).where(columns.id.in_([row.decision for row in newest.values()]))
        texts = {row.id: json.loads(row.kept or "{}").get("text") for row in connection.execute(kept)}
    return [
        (row.decision, texts[row.decision], content, row.verdict, row.time)
        for content, row in newest.items()
        if texts.get(row.decision)
    ]
