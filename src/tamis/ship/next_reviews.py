"""What of recent traffic people should see next: the criteria of `feedback.selection` over the decision log.

Candidates are texts that the log keeps whole and that nobody was asked about.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from sqlalchemy import ColumnElement, select

from tamis.calibration import Floats
from tamis.decisions import decisions_table, stamp
from tamis.errors import ConfigError, DataError
from tamis.feedback import choose, disagreement, gather, novelty, shifted
from tamis.policy import Policy
from tamis.reviews import settle, verdicts
from tamis.reviews.tables import ITEMS
from tamis.ship.bundle import Moderator
from tamis.ship.monitor import LEAST, pinned
from tamis.ship.monitor.traffic import ALONE
from tamis.store import Store

BATCH = 64


@dataclass(frozen=True)
class Decided:
    """One text and a decision about it; `id` is the decision's, `alone` says that no teacher had a part in it."""

    id: str
    content: str
    text: str
    category: str
    probabilities: Mapping[str, float]
    uncertainty: float
    alone: bool


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
    at random, are candidates. `now` compares them with as many of the reference, and `new` with as many of those judged
    last.
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
            raise ConfigError("`new` and `now` compare hidden states: name a bundle that shows them with --bundle")
        parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        shown = track(parts, about, console=Console(stderr=True), transient=True)
        found = [self.model.scores_and_states(part, [-1])[1][:, 0] for part in shown]
        return np.concatenate(found).astype(np.float64) if found else np.empty((0, 0))

    def uncertain(self) -> Floats:
        """How unsure the model was when it decided alone; 0 where a teacher was asked."""
        return np.array([row.uncertainty if row.alone else 0.0 for row in self.rows])

    def disputed(self) -> Floats:
        """How far a teacher's answer is from what the model decided alone, by category; 0 where there is none."""
        answers = self.store.answers(self.policy.label_space)
        found = np.zeros(len(self.rows))
        asked = [place for place, row in enumerate(self.rows) if row.alone and row.content in answers]
        if asked:
            own = self._yes_or_no([self.rows[place].probabilities for place in asked])
            told = self._yes_or_no([answers[self.rows[place].content].probabilities for place in asked])
            found[asked] = disagreement(own, told).reshape(len(asked), -1).mean(1)
        return found

    def _yes_or_no(self, told: Sequence[Mapping[str, float]]) -> Floats:
        """Each category apart, (rows * categories, 2): so it means the same where several may hold."""
        held = np.array([[one.get(name, 0.0) for name in self.policy.ids] for one in told])
        if self.policy.kind != "multi_label":
            # Part of what a teacher says may be no category at all.
            held = held / held.sum(1, keepdims=True)
        return np.stack([held, 1 - held], axis=-1).reshape(-1, 2)

    def new(self) -> Floats:
        """How far it is from every text that people have judged and that is kept."""
        judged = [one for one in gather(self.store, self.policy).feedback if one.by_person]
        last = sorted(judged, key=lambda one: one.decides.time)[-self.wish.among :]
        return novelty(self.own, self.states([one.text for one in last], "judged texts"))

    def now(self) -> Floats:
        """How typical it is of this traffic rather than of what was pinned as the reference.

        Raises:
            DataError: no traffic is pinned, or too few of its texts are kept.
        """
        since, until = pinned(self.store)
        reference = decided(self.store, self.policy, since, until, self.wish.among)
        if len(reference) < LEAST:
            raise DataError(
                f"of the pinned traffic, {stamp(since)[:16]} to {stamp(until)[:16]}, {len(reference)} whole texts are"
                f" kept and {LEAST} are needed: pin a later normal week with `tamis monitor --pin`, and raise keep_days"
            )
        return shifted(self.own, self.states([row.text for row in reference], "pinned texts"))


CRITERIA: Mapping[str, Callable[[Asking], Floats]] = {
    "uncertain": Asking.uncertain,
    "disputed": Asking.disputed,
    "new": Asking.new,
    "now": Asking.now,
}


SILENT: Mapping[str, str] = {
    "uncertain": "as the model is as sure of all of them",
    "disputed": "as no teacher's answer differs from what the model decided alone",
    "new": "as no text that people have judged is kept",
    "now": "as all are as typical of the reference",
}
"""Why a criterion may say nothing."""


def pick(store: Store, policy: Policy, wish: Wish, model: Moderator | None = None) -> Picked:
    """Choose decisions to be reviewed; `reviews.queue` queues them.

    Args:
        store: with the decision log and the reviews.
        policy: whose categories were decided about.
        wish: how many, of when, by what.
        model: shows the hidden states that `new` and `now` are told by.

    Raises:
        ConfigError: a criterion that is none, or one that needs a model, without one; another policy.
        DataError: there is no candidate, a criterion tells none from another, or there is no reference for `now`.
        BundleError: a model that shows no hidden states.
    """
    for name in wish.by:
        if name not in CRITERIA:
            raise ConfigError(f"nothing is chosen by {name!r}: take some of {', '.join(CRITERIA)}")
    rows = decided(store, policy, wish.since, wish.until, wish.among, ITEMS.content)
    if not rows:
        raise _nothing(store, policy, wish)
    asking = Asking(store, policy, wish, rows, model)
    worth = {name: CRITERIA[name](asking) for name in wish.by}
    for name, values in worth.items():
        if len(rows) > 1 and not np.ptp(values):
            raise DataError(f"{name!r} tells none of {len(rows)} texts from another, {SILENT[name]}: choose by another")
    said = (str(one.verdict).split() for one in settle(verdicts(store)).values())
    judged = Counter(name for names in said for name in names)
    found = [rows[place] for place in choose(worth, [row.category for row in rows], judged, wish.count, wish.rare)]
    return Picked(tuple(row.id for row in found), tuple(row.category for row in found), len(rows))


def _nothing(store: Store, policy: Policy, wish: Wish) -> ConfigError | DataError:
    """Why there is no candidate."""
    if decided(store, None, wish.since, wish.until, 1, ITEMS.content):
        return ConfigError(
            f"what was decided has other categories than policy {policy.name}: name the --policy it was decided by, or"
            " the --bundle"
        )
    return DataError(
        f"of what was decided from {stamp(wish.since)[:16]} to {stamp(wish.until)[:16]} no whole text is kept that"
        " nobody was asked about: serve with keep_days, or look at more --days"
    )


def decided(
    store: Store,
    policy: Policy | None,
    since: datetime,
    until: datetime,
    most: int,
    without: ColumnElement[str] | None = None,
) -> list[Decided]:
    """At most so many of the texts decided about in a stretch of time, drawn at random, each with one decision.

    Left out are texts the log does not keep whole, those with a content of `without`, and decisions in other
    categories than the policy's, as tenants may have them.
    """
    columns = decisions_table.c
    wanted = (columns.id, columns.content, columns.category, columns.scores, columns.tiers, columns.kept)
    within = (columns.time >= stamp(since), columns.time < stamp(until), columns.kept.is_not(None))
    # An id is drawn at random, and unlike a text's hash nobody can choose it.
    query = select(*wanted).where(*within).order_by(columns.id)
    if without is not None:
        query = query.where(columns.content.not_in(select(without)))
    found: dict[str, Decided] = {}
    with store.begin() as connection, closing(connection.execute(query.execution_options(yield_per=1000))) as rows:
        for row in rows:
            if len(found) == most:
                break
            one = None if row.content in found else _usable(row, policy)
            if one:
                found[row.content] = one
    return list(found.values())


def _usable(row: Any, policy: Policy | None) -> Decided | None:
    kept, said = json.loads(row.kept), json.loads(row.scores)
    told, unsure = said["probabilities"], said["uncertainty"]
    other = policy is not None and not policy.benign in told.keys() <= set(policy.ids)
    if "text" not in kept or other or unsure is None or None in told.values():
        return None
    return Decided(row.id, row.content, kept["text"], row.category, told, unsure, row.tiers in ALONE)
