"""What of recent traffic people should see next: the criteria of `feedback.selection` over the decision log.

Shown can be what the log keeps the whole text of; asked about is what nobody was asked about before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from sqlalchemy import ColumnElement, func, select

from tamis.calibration import Floats
from tamis.decisions import decisions_table, stamp
from tamis.errors import ConfigError, DataError
from tamis.feedback import choose, disagreement, gather, novelty, shifted
from tamis.policy import Policy
from tamis.reviews import settle, verdicts
from tamis.reviews.tables import ITEMS
from tamis.ship.bundle import Moderator
from tamis.ship.monitor import pinned
from tamis.store import Store

BATCH = 64


@dataclass(frozen=True)
class Decided:
    """One text and the last decision about it; `id` is the decision's."""

    id: str
    content: str
    text: str
    category: str
    probabilities: Mapping[str, float]
    uncertainty: float


@dataclass(frozen=True)
class Picked:
    """Ids of the chosen decisions, what the model took each for, and how many could have been chosen."""

    ids: tuple[str, ...]
    categories: tuple[str, ...]
    candidates: int


@dataclass(frozen=True)
class Wish:
    """What is wanted: `count` decisions from `since` on and before `until`, by the names of some `CRITERIA`.

    `rare` is the share for the categories of which the fewest were judged, see `choose`. At most `among` texts, drawn
    at random, are candidates; `now` compares them with as many of the reference, `new` with as many of the last judged.
    """

    since: datetime
    until: datetime
    by: Sequence[str]
    count: int
    rare: float = 0.3
    among: int = 5000


@dataclass(frozen=True)
class Asking:
    """What the criteria are computed from: the log and the reviews, the candidates, and a model that shows states."""

    store: Store
    policy: Policy
    wish: Wish
    rows: Sequence[Decided]
    model: Moderator | None

    @cached_property
    def own(self) -> Floats:
        """Hidden states of the candidates."""
        return self.states([row.text for row in self.rows], "recent texts")

    def states(self, texts: Sequence[str], about: str) -> Floats:
        """Their last hidden states, (texts, width).

        Raises:
            ConfigError: there is no model.
            BundleError: one that shows no states.
        """
        if self.model is None:
            raise ConfigError("what is `new` or of `now` is told by hidden states: name the --bundle that has them")
        parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        shown = track(parts, about, console=Console(stderr=True), transient=True)
        found = [self.model.scores_and_states(part, [-1])[1][:, 0] for part in shown]
        return np.concatenate(found).astype(np.float64) if found else np.empty((0, 0))

    def uncertain(self) -> Floats:
        """How unsure the model was when it decided."""
        return np.array([row.uncertainty for row in self.rows])

    def disputed(self) -> Floats:
        """How far a teacher was from it, category by category; 0 where none was asked."""
        answers = self.store.answers(self.policy.label_space)
        found = np.zeros(len(self.rows))
        asked = [place for place, row in enumerate(self.rows) if row.content in answers]
        if asked:
            told = [answers[self.rows[place].content].probabilities for place in asked]
            pair = [self._yes_or_no(one) for one in ([self.rows[place].probabilities for place in asked], told)]
            found[asked] = disagreement(*pair).reshape(len(asked), -1).mean(1)
        return found

    def _yes_or_no(self, told: Sequence[Mapping[str, float]]) -> Floats:
        """Each category apart, (rows * categories, 2): so it means the same where several may hold."""
        held = np.array([[one.get(name, 0.0) for name in self.policy.ids] for one in told]).reshape(-1, 1)
        return np.hstack([held, 1 - held])

    def new(self) -> Floats:
        """How far it is from every text that people have judged."""
        known = [one.text for one in gather(self.store, self.policy).feedback if one.by_person]
        return novelty(self.own, self.states(known[-self.wish.among :], "judged texts"))

    def now(self) -> Floats:
        """How typical it is of this traffic rather than of what was pinned as the reference.

        Raises:
            DataError: no traffic is pinned, or none of its texts is kept any more.
        """
        since, until = pinned(self.store)
        reference = decided(self.store, self.policy, since, until, self.wish.among)
        if not reference:
            raise DataError(
                f"of the pinned traffic, {stamp(since)[:16]} to {stamp(until)[:16]}, no whole text is kept any more:"
                " pin a later normal week with `tamis monitor --pin`, and raise keep_days"
            )
        return shifted(self.own, self.states([row.text for row in reference], "pinned texts"))


CRITERIA: Mapping[str, Callable[[Asking], Floats]] = {
    "uncertain": Asking.uncertain,
    "disputed": Asking.disputed,
    "new": Asking.new,
    "now": Asking.now,
}


def pick(store: Store, policy: Policy, wish: Wish, model: Moderator | None = None) -> Picked:
    """Choose decisions to be reviewed; `reviews.queue` queues them.

    Args:
        store: with the decision log and the reviews.
        policy: whose categories were decided about.
        wish: how many, of when, by what.
        model: shows the hidden states that `new` and `now` are told by.

    Raises:
        ConfigError: a criterion that is none, or one that needs a model, without one.
        DataError: there is no candidate; for `now`, nothing is pinned, or nothing of it is kept.
        BundleError: a model that shows no hidden states.
    """
    for name in wish.by:
        if name not in CRITERIA:
            raise ConfigError(f"nothing is chosen by {name!r}: take some of {', '.join(CRITERIA)}")
    rows = decided(store, policy, wish.since, wish.until, wish.among, ITEMS.content)
    if not rows:
        raise DataError(
            f"of what was decided from {stamp(wish.since)[:16]} to {stamp(wish.until)[:16]} no whole text is kept that"
            " nobody was asked about: serve with keep_days, or look at more --days"
        )
    asking = Asking(store, policy, wish, rows, model)
    worth = {name: CRITERIA[name](asking) for name in wish.by}
    judged = Counter(str(one.verdict).partition(" ")[0] for one in settle(verdicts(store)).values())
    found = [rows[place] for place in choose(worth, [row.category for row in rows], judged, wish.count, wish.rare)]
    return Picked(tuple(row.id for row in found), tuple(row.category for row in found), len(rows))


def decided(
    store: Store,
    policy: Policy,
    since: datetime,
    until: datetime,
    most: int,
    without: ColumnElement[str] | None = None,
) -> list[Decided]:
    """At most so many of the texts decided about in a stretch of time, drawn at random, each with its last decision.

    Those the log keeps no whole text of, and those of a tenant with other categories, are left out; so are those with
    a content of `without`.
    """
    columns = decisions_table.c
    last = select(func.max(columns.number)).group_by(columns.content)
    last = last.where(columns.time >= stamp(since), columns.time < stamp(until), columns.kept.is_not(None))
    if without is not None:
        last = last.where(columns.content.not_in(select(without)))
    wanted = (columns.id, columns.content, columns.category, columns.scores, columns.kept)
    # A content is a hash: in its order texts come as if they were shuffled.
    query = select(*wanted).where(columns.number.in_(last)).order_by(columns.content)
    with store.begin() as connection, closing(connection.execute(query.execution_options(yield_per=1000))) as found:
        return list(islice(filter(None, (_whole(row, policy) for row in found)), most))


def _whole(row: Any, policy: Policy) -> Decided | None:
    kept, said = json.loads(row.kept), json.loads(row.scores)
    if "text" not in kept or not policy.benign in said["probabilities"].keys() <= set(policy.ids):
        return None
    return Decided(row.id, row.content, kept["text"], row.category, said["probabilities"], said["uncertainty"])
