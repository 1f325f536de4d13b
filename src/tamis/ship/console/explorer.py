"""What other thresholds would have done with recent texts that people have judged.

Judged texts are not like the traffic: a person reads all that was sent to review and few of the passed. So each counts
as many times as there are texts decided like it (the inverse of its chance to be read), and only what was read whatever
it said is used: reviews, and of the passed texts the random audit. Blocked texts are read on appeal alone and are left
out of what is said of harm; how many would be reviewed or blocked is counted over recent traffic, read or not.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import RowMapping, func, select

from tamis.calibration import Bools, Floats
from tamis.deciding import ANY, Thresholds, limits
from tamis.decisions import decisions_table
from tamis.estimates import Estimate
from tamis.policy import Actions, Policy
from tamis.records import AUDIT, Action, Scores
from tamis.reviews import Verdict, settle
from tamis.reviews.tables import ITEMS, VERDICTS, parts, standing
from tamis.ship.monitor import Stratum, miss_rate
from tamis.store import Store

TRAFFIC, JUDGED = 3000, 3000
"""The latest decisions, and the latest verdicts, that are looked at."""

READ: tuple[Action, ...] = ("pass", "review")
"""Actions of which people read some texts whatever they say."""

ACTIONS: tuple[Action, ...] = ("pass", "review", "block")


@dataclass(frozen=True)
class Rows:
    """Texts and what thresholds are held against: `values` has a column for each of `names` (see `limits`)."""

    names: tuple[str, ...]
    values: Floats
    language: NDArray[np.str_]
    action: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.action)

    def only(self, where: Bools) -> Rows:
        """Some of the texts."""
        return Rows(self.names, self.values[where], self.language[where], self.action[where])


@dataclass(frozen=True)
class Sample:
    """Recent traffic, and of the judged texts whether they are harmful and how many each stands for."""

    traffic: Rows
    judged: Rows
    harmful: Bools
    weights: Floats


@dataclass(frozen=True)
class Figures:
    """What thresholds come to; shares in [0, 1], and no number where nothing was judged.

    `recall` is the share of harmful texts that are reviewed or blocked, with its 95 % interval; `stopped` that of
    harmless ones, `blocked_harmless` of these what nobody would read. `load` and `blocked` are shares of all traffic.
    """

    recall: Estimate
    stopped: float
    blocked_harmless: float
    load: float
    blocked: float


def read_sample(store: Store, policy: Policy, thresholds: Thresholds) -> Sample:
    """The latest decisions and verdicts; thresholds say only whether the risk or the categories decide.

    Raises:
        ConfigError: the database cannot be read.
    """
    columns = decisions_table.c
    wanted = (columns.content, columns.action, columns.scores, columns.signals, columns.reasons)
    with store.begin() as connection:
        recent = select(*wanted).order_by(columns.number.desc()).limit(TRAFFIC)
        traffic = list(connection.execute(recent).mappings())
        latest = standing().where(ITEMS.cause != "gold", ITEMS.decision.is_not(None))
        said = connection.execute(latest.order_by(VERDICTS.number.desc()).limit(JUDGED)).mappings().all()
        settled = settle(Verdict(**row) for row in said)
        names = [one.decision for one in settled.values() if one.decision]
        about: list[Any] = []
        for part in parts(names):
            about += connection.execute(select(*wanted).where(columns.id.in_(part))).mappings()
    return sample_of(traffic, [row for row in about if _was_read(row)], settled, policy, thresholds)


def newest(store: Store) -> int:
    """Number of the latest verdict, one that takes another back included; 0 before the first."""
    with store.begin() as connection:
        return int(connection.execute(select(func.max(VERDICTS.number))).scalar() or 0)


def sample_of(
    traffic: Sequence[RowMapping],
    judged: Sequence[RowMapping],
    settled: Mapping[str, Verdict],
    policy: Policy,
    thresholds: Thresholds,
) -> Sample:
    """A sample of rows of the decision log; `settled` says of the judged ones what people came to."""
    every, known = rows_of(traffic, policy, thresholds), rows_of(judged, policy, thresholds)
    harmful = [policy.benign not in settled[row["content"]].verdict.split() for row in judged]
    decided, read = Counter(every.action.tolist()), Counter(known.action.tolist())
    # Of the sizes only their proportion matters, so that of recent traffic will do.
    weights = [decided[action] / read[action] for action in known.action.tolist()]
    return Sample(every, known, np.array(harmful, bool), np.array(weights, float))


def rows_of(found: Iterable[RowMapping], policy: Policy, thresholds: Thresholds) -> Rows:
    """Rows of the decision log as arrays."""
    names: tuple[str, ...] = tuple(thresholds.by_category) or ("risk",)
    values, languages, actions = [], [], []
    for row in found:
        told = json.loads(row["scores"])
        risk = math.nan if told["risk"] is None else told["risk"]
        scores = Scores(told["probabilities"], risk, told["uncertainty"])
        lang = json.loads(row["signals"] or "{}").get("language", ANY)
        own = [limit.value for limit in limits(scores, lang, thresholds, policy)]
        # Without an answer a text is reviewed whatever the thresholds are.
        values.append(own if scores.probabilities else [math.nan] * len(names))
        languages.append(lang)
        actions.append(row["action"])
    table = np.array(values, float).reshape(-1, len(names))
    return Rows(names, table, np.array(languages, np.str_), np.array(actions, np.str_))


def actions_of(rows: Rows, thresholds: Thresholds, policy: Policy) -> NDArray[np.int64]:
    """Places in `ACTIONS` of what is done with each text: what `deciding.decide` says, of many at once."""
    review, block = _limits(rows, thresholds, policy)
    blocked = (rows.values >= block).any(1)
    reviewed = ~(rows.values < review).all(1)
    return np.where(blocked, 2, np.where(reviewed, 1, 0))


def figures(sample: Sample, thresholds: Thresholds, policy: Policy) -> Figures:
    """What thresholds would have done."""
    now, then = actions_of(sample.traffic, thresholds, policy), actions_of(sample.judged, thresholds, policy)
    harmless = ~sample.harmful
    return Figures(
        _recall(sample, then == 0),
        _share(then > 0, harmless, sample.weights),
        _share(then == 2, harmless, sample.weights),
        float((now == 1).mean()) if len(now) else math.nan,
        float((now == 2).mean()) if len(now) else math.nan,
    )


def curve(
    sample: Sample, thresholds: Thresholds, policy: Policy, cell: Cell, values: Sequence[float]
) -> list[tuple[float, Figures]]:
    """Figures at each value of one threshold, the others as they are; values it cannot have are left out."""
    found = []
    for value in values:
        tried = with_cells(thresholds, policy, {cell: value})
        if tried is not None:
            found.append((value, figures(sample, *tried)))
    return found


Cell = tuple[str, str, str]
"""`review` or `block`, a category or `risk`, and a language."""


def cells(thresholds: Thresholds, policy: Policy) -> dict[Cell, float]:
    """All thresholds there are: those of the categories, or the two of the risk."""
    table = thresholds.by_category or {"risk": {ANY: policy.actions}}
    return {
        (kind, name, language): value
        for name, by_language in table.items()
        for language, actions in by_language.items()
        for kind, value in (("review", actions.review), ("block", actions.block))
    }


def with_cells(
    thresholds: Thresholds, policy: Policy, changed: Mapping[Cell, float]
) -> tuple[Thresholds, Policy] | None:
    """Thresholds and policy with some cells changed; None where a text would be blocked and not reviewed."""
    merged = cells(thresholds, policy) | dict(changed)
    pairs: dict[str, dict[str, Actions]] = {}
    for _, name, language in merged:
        review, block = merged["review", name, language], merged["block", name, language]
        if not 0 <= review <= block <= 1:
            return None
        pairs.setdefault(name, {})[language] = Actions(review=review, block=block)
    if not thresholds.by_category:
        return thresholds, policy.model_copy(update={"actions": pairs["risk"][ANY]})
    return Thresholds(method="hand", by_category=pairs), policy


def _was_read(row: RowMapping) -> bool:
    """Whether a judged text was read whatever it said."""
    return row["action"] == "review" or (row["action"] == "pass" and AUDIT in json.loads(row["reasons"]))


def _limits(rows: Rows, thresholds: Thresholds, policy: Policy) -> tuple[Floats, Floats]:
    """The two thresholds of each value, of the shape of the values."""
    table = thresholds.by_category or {"risk": {ANY: policy.actions}}
    review, block = np.empty_like(rows.values), np.empty_like(rows.values)
    for language in np.unique(rows.language).tolist():
        own = rows.language == language
        for j, name in enumerate(rows.names):
            actions = table[name].get(language, table[name][ANY])
            review[own, j], block[own, j] = actions.review, actions.block
    return review, block


def _recall(sample: Sample, passed: Bools) -> Estimate:
    strata = []
    for action in READ:
        own = sample.harmful & (sample.judged.action == action)
        rows = int(own.sum())
        strata.append(Stratum(round(float(sample.weights[own].sum())), rows, int((own & passed).sum())))
    missed = miss_rate(strata)
    return Estimate(1 - missed.rate, 1 - missed.high, 1 - missed.low)


def _share(where: Bools, among: Bools, weights: Floats) -> float:
    total = float(weights[among].sum())
    return float(weights[where & among].sum()) / total if total else math.nan
