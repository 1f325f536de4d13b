"""Everything that is watched, measured between a reference and the traffic of now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tamis.calibration import Bools, Floats, expected_calibration_error
from tamis.feedback import Truths
from tamis.policy import Policy
from tamis.ship.monitor.drift import mix, psi, psi_limit, rise, told_apart
from tamis.ship.monitor.misses import Misses, Stratum, miss_rate
from tamis.ship.monitor.traffic import Traffic

LEAST = 100
"""Rows a group needs on both sides before anything is said of it."""

JUDGED = 30
"""Judged texts before their calibration is told."""

ALPHA = 0.001
"""Chance of a false alarm of each kind of measure at one look, divided among its groups."""

EVASION_RISE, DISAGREEMENT_RISE, MISS_RISE, ECE_LIMIT = 0.01, 0.05, 0.005, 0.05
DRAWS = 1000
BLOCK = 2_000_000


@dataclass(frozen=True)
class Measure:
    """One figure of one group, and what decides whether it is an alarm.

    `value` is what is shown, between `low` and `high` where there is an interval. `tested` is what is held against
    `limit`: the value itself, or its growth; without a limit nothing is.
    """

    name: str
    value: float
    rows: int
    group: Mapping[str, str] = field(default_factory=dict)
    tested: float = 0.0
    limit: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def key(self) -> str:
        """Name and group, as one word of the alarms that stand."""
        return " ".join([self.name, *(f"{name}={value}" for name, value in sorted(self.group.items()))])


def measure(reference: Traffic, current: Traffic, truths: Truths, policy: Policy) -> list[Measure]:
    """All measures that have enough rows; see `MEASURES`."""
    return [one for make in MEASURES for one in make(reference, current, truths, policy)]


def scores(reference: Traffic, current: Traffic, truths: Truths, policy: Policy) -> Iterator[Measure]:
    """PSI of the calibrated probability of each category, and of the uncertainty, by language."""
    languages = _languages(reference, current)
    for name in (*policy.ids, None):
        before, now = (reference.uncertainty, current.uncertainty) if name is None else _told(reference, current, name)
        for language in languages:
            group = {"language": language} | ({} if name is None else {"category": name})
            what = "uncertainty_drift" if name is None else "score_drift"
            sides = before[reference.language == language], now[current.language == language]
            yield from _stability(what, *sides, group, ALPHA / (len(languages) * (len(policy.ids) + 1)))


def actions(reference: Traffic, current: Traffic, truths: Truths, policy: Policy) -> Iterator[Measure]:
    """How passes, reviews and blocks are divided, by language."""
    languages = _languages(reference, current)
    for language in languages:
        before, now = (side.action[side.language == language].tolist() for side in (reference, current))
        value, limit = mix(before, now, ALPHA / len(languages))
        yield Measure("action_mix", value, len(now), {"language": language}, value, limit)


def inputs(reference: Traffic, current: Traffic, truths: Truths, policy: Policy) -> Iterator[Measure]:
    """Languages, lengths by language, and the share of texts with each mark of evasion."""
    counted = [np.isfinite(side.length) for side in (reference, current)]
    if min(int(where.sum()) for where in counted) < LEAST:
        return
    sides = list(zip((reference, current), counted, strict=True))
    value, limit = mix(reference.language[counted[0]].tolist(), current.language[counted[1]].tolist(), ALPHA)
    rows = int(counted[1].sum())
    yield Measure("language_mix", value, rows, {}, value, limit)
    languages = _languages(reference, current)
    for language in languages:
        before, now = (side.length[side.language == language] for side in (reference, current))
        yield from _stability("length_drift", before, now, {"language": language}, ALPHA / len(languages))
    for mark in current.evasion:
        before_, now_ = ((int(side.evasion[mark][where].sum()), int(where.sum())) for side, where in sides)
        grown, limit = rise(before_, now_, ALPHA / len(current.evasion), EVASION_RISE)
        yield Measure("evasion", now_[0] / now_[1], rows, {"mark": mark}, grown, limit)


def disagreement(reference: Traffic, current: Traffic, truths: Truths, policy: Policy) -> Iterator[Measure]:
    """Share of audited texts that the student alone decided and the teacher puts into another category."""
    before, now = (_against_teacher(side, truths) for side in (reference, current))
    if not now[1]:
        return
    value = now[0] / now[1]
    if min(before[1], now[1]) < LEAST:
        yield Measure("teacher_disagreement", value, now[1])
    else:
        grown, limit = rise(before, now, ALPHA, DISAGREEMENT_RISE)
        yield Measure("teacher_disagreement", value, now[1], {}, grown, limit)


def misses(reference: Traffic, current: Traffic, truths: Truths, policy: Policy) -> Iterator[Measure]:
    """Share of passed texts that break the policy; an alarm where it has surely grown by half a point."""
    before, now = (missed(side, truths, policy) for side in (reference, current))
    if now.judged:
        grown = now.low - (before.high if before.judged else 0.0)
        yield Measure("miss_rate", now.rate, now.judged, {}, grown, MISS_RISE, now.low, now.high)


def calibration(reference: Traffic, current: Traffic, truths: Truths, policy: Policy) -> Iterator[Measure]:
    """ECE of the risk on judged texts; its limit is what a model whose risks are right exceeds once in a thousand."""
    risk, harmful, weights = judged_risks(current, truths, policy)
    if len(risk) < JUDGED:
        return
    value = float(expected_calibration_error(risk, harmful, weights[None])[0])
    yield Measure("calibration_error", value, len(risk), {}, value, max(ECE_LIMIT, _by_chance(risk, weights)))


def missed(side: Traffic, truths: Truths, policy: Policy) -> Misses:
    """The estimate of `miss_rate` with a week as a stratum, in case the share that is audited was changed.

    A text that comes again belongs to the week it came in first: it was chosen or not once and for all, so counted
    every week it would look like as many texts.
    """
    strata = []
    for week in side.only(side.first(side.action == "pass")).weeks():
        seen = [content for content in week.content[week.audited] if content in truths.people]
        bad = sum(_harmful(truths, content, policy) for content in seen)
        strata.append(Stratum(len(week), len(seen), bad))
    return miss_rate(strata)


def judged_risks(side: Traffic, truths: Truths, policy: Policy) -> tuple[Floats, Bools, Floats]:
    """Risk, whether it was harmful, and weight of judged texts: those reviewed, and of the passed those audited.

    A weight is how many distinct texts of its action a judged one stands for. Blocked texts are judged on appeal alone,
    which are not like the others, and are left out; so is what was chosen for being unlike them.
    """
    risk, harmful, weights = [np.empty(0)], [np.empty(0, bool)], [np.empty(0)]
    for action in ("pass", "review"):
        every = side.first((side.action == action) & np.isfinite(side.risk))
        told = [(i, truths.people[side.content[i]]) for i in every if side.content[i] in truths.people]
        seen = [i for i, one in told if side.audited[i] or (action == "review" and one.cause != "selected")]
        risk.append(side.risk[seen])
        harmful.append(np.array([_harmful(truths, side.content[i], policy) for i in seen], bool))
        weights.append(np.full(len(seen), len(every) / max(len(seen), 1)))
    return np.concatenate(risk), np.concatenate(harmful), np.concatenate(weights)


def over_time(side: Traffic, truths: Truths, policy: Policy) -> list[Measure]:
    """The calibration error of each week with enough judged texts; its group names the first day."""
    return [
        replace(one, group={"week": f"{week.since:%Y-%m-%d}"})
        for week in side.weeks()
        for one in calibration(week, week, truths, policy)
    ]


def states(reference: Floats, current: Floats) -> Measure:
    """How well hidden states tell now from before, for who keeps them: the log does not. Shapes (rows, width).

    Args:
        reference: states of a thousand texts or more; fewer see only large changes.
        current: the same of now.
    """
    value, limit = told_apart(reference, current, ALPHA)
    return Measure("state_drift", value, len(current), {}, value, limit)


def _stability(name: str, before: Floats, now: Floats, group: Mapping[str, str], alpha: float) -> Iterator[Measure]:
    before, now = before[np.isfinite(before)], now[np.isfinite(now)]
    if min(len(before), len(now)) >= LEAST:
        value, bins = psi(before, now)
        yield Measure(name, value, len(now), group, value, psi_limit(len(before), len(now), bins, alpha))


def _told(reference: Traffic, current: Traffic, category: str) -> tuple[Floats, Floats]:
    return reference.probabilities[category], current.probabilities[category]


def _languages(reference: Traffic, current: Traffic) -> list[str]:
    """Languages with enough rows on both sides."""
    known = sorted(set(current.language.tolist()) - {""})
    return [name for name in known if all((side.language == name).sum() >= LEAST for side in (reference, current))]


def _against_teacher(side: Traffic, truths: Truths) -> tuple[int, int]:
    """Texts the two judge differently, and all that both judged."""
    places = side.first(side.audited & side.alone)
    both = [i for i in places if side.content[i] in truths.teachers]
    top = {i: truths.teachers[side.content[i]].probabilities for i in both}
    return sum(side.category[i] != max(top[i], key=lambda name: top[i][name]) for i in both), len(both)


def _harmful(truths: Truths, content: str, policy: Policy) -> bool:
    return policy.benign not in truths.people[content].verdict.split()


def _by_chance(risk: Floats, weights: Floats, seed: int = 0) -> float:
    """The calibration error that risks which are right exceed with probability `ALPHA`.

    Outcomes are drawn with the risks themselves (consistency resampling, Bröcker and Smith, 2007).
    """
    generator = np.random.default_rng(seed)
    size = max(1, BLOCK // len(risk))
    draws = [generator.random((min(size, DRAWS - start), len(risk))) < risk for start in range(0, DRAWS, size)]
    found = np.concatenate([expected_calibration_error(risk, drawn, weights[None]) for drawn in draws])
    return float(np.quantile(found, 1 - ALPHA))


MEASURES = (scores, actions, inputs, disagreement, misses, calibration)
"""What is measured, in the order it is shown."""
