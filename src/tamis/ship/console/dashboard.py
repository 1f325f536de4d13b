"""Dashboards: what comes in and what is done with it, how fast and by whom, and whether it is still what it was."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tamis import charts
from tamis.charts import Axis, Series, rounded_up
from tamis.estimates import Estimate, Point
from tamis.ship.cascade import PERSON
from tamis.ship.console.acts import acts, write_act
from tamis.ship.console.hours import Unit, counts, quantile, totals
from tamis.ship.console.page import Lead, Reviewer, Visit
from tamis.ship.monitor import Look, Measure, last_look, pin, words
from tamis.ship.monitor.watch import REFERENCE

ACTIONS = ("pass", "review", "block")
STRETCHES = {"1": 1, "7": 7, "30": 30, "90": 90}
"""Days that the page offers."""

SHARES = (0.5, 0.95, 0.99)
NAN = math.nan

router = APIRouter()


@dataclass(frozen=True)
class Slots:
    """The hours or days that charts show, by how the counts call them."""

    unit: Unit
    names: tuple[str, ...]
    since: datetime
    until: datetime

    @classmethod
    def of(cls, days: int, until: datetime) -> Slots:
        """The last days up to a time: hours where they are few."""
        unit: Unit = "hour" if days <= 2 else "day"
        step, length = (timedelta(hours=1), 13) if unit == "hour" else (timedelta(days=1), 10)
        number = days * 24 if unit == "hour" else days
        times = [until - i * step for i in range(number)][::-1]
        return cls(unit, tuple(time.isoformat()[:length] for time in times), _start(times[0], unit), until)

    @property
    def ticks(self) -> tuple[str, ...]:
        """Labels of the time axis: at most four, at equal distances."""
        last = len(self.names) - 1
        places = sorted({round(i * last / 3) for i in range(4)})
        return tuple(self.names[i][11:] + ":00" if self.unit == "hour" else self.names[i][5:] for i in places)


@router.get("")
def show(visit: Reviewer) -> Response:
    """The page."""
    slots = Slots.of(STRETCHES.get(visit.query("days"), 7), datetime.now(UTC))
    counted = {kind: counts(visit.store, kind, slots.since, slots.until, slots.unit) for kind in KINDS}
    return visit.page(
        "dashboard.html.j2",
        days=visit.query("days") if visit.query("days") in STRETCHES else "7",
        choices=[(name, visit.words("last_days", n=n)) for name, n in STRETCHES.items()],
        **_traffic(visit, slots, counted),
        **_cascade(visit, slots, counted),
        **_versions(visit, slots, counted),
        **_health(visit),
    )


@router.post("/look")
def look_again(visit: Reviewer) -> Response:
    """Begin another look."""
    visit.service.looking.begin(visit.policy)
    return visit.go("/dashboard#health", "dashboard_looking")


@router.post("/pin")
def pin_reference(visit: Lead) -> Response:
    """Hold later traffic against that of the last days."""
    window = pin(visit.store, visit.policy, datetime.now(UTC), visit.service.config.monitor.days)
    write_act(visit.store, visit.user.name, "pin", rows=window.rows)
    visit.service.looking.begin(visit.policy)
    return visit.go("/dashboard#health", "dashboard_pinned", rows=window.rows)


def _traffic(visit: Visit, slots: Slots, counted: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, Any]:
    """Decisions by action and category over time, and how long they took."""
    actions = {name: counted["action"].get(name, {}) for name in ACTIONS}
    by_action = {name: sum(found.values()) for name, found in actions.items()}
    latency = totals(counted["latency"])
    total = sum(by_action.values())
    harmful = _categories(visit, totals(counted["category"]))
    return {
        "slots": slots.names,
        "actions": actions,
        "by_action": by_action,
        "total": total,
        "categories": harmful,
        "latency": {share: quantile(latency, share) for share in SHARES},
        "over_time": _by_slot(counted["latency"], slots),
        "charts": {
            "actions": _lines(visit, "dashboard_actions", slots, actions),
            "categories": charts.bars(
                visit.words("dashboard_categories"),
                [
                    (f"{name} · {visit.words(f'action_{action}')}", Estimate(rows / max(1, total), NAN, NAN), 0)
                    for name, action, rows in harmful[:8]
                ],
            ),
            "latency": _latency_chart(visit, slots, _by_slot(counted["latency"], slots)),
        },
    }


def _categories(visit: Visit, counted: Mapping[str, int]) -> list[tuple[str, str, int]]:
    """Category, action and rows of what was not passed."""
    split = [(*name.partition(" ")[::2], rows) for name, rows in counted.items()]
    return [(visit.names.get(name, name), action, rows) for action, name, rows in split if action != "pass"]


def _by_slot(latency: Mapping[str, Mapping[str, int]], slots: Slots) -> dict[str, list[float]]:
    """Each quantile of the latency in each slot, in milliseconds."""
    each = [{name: found[slot] for name, found in latency.items() if slot in found} for slot in slots.names]
    return {f"p{100 * share:.0f}": [quantile(one, share) for one in each] for share in SHARES}


def _lines(visit: Visit, title: str, slots: Slots, counted: Mapping[str, Mapping[str, int]]) -> str:
    values = {
        visit.words(f"action_{name}"): [found.get(slot, 0) for slot in slots.names] for name, found in counted.items()
    }
    return _chart(visit, title, slots, values, visit.words("dashboard_decisions"))


def _latency_chart(visit: Visit, slots: Slots, found: Mapping[str, Sequence[float]]) -> str:
    return _chart(visit, "dashboard_latency", slots, found, "ms")


def _chart(visit: Visit, title: str, slots: Slots, values: Mapping[str, Sequence[float]], unit: str) -> str:
    top = rounded_up(max((value for line in values.values() for value in line if not math.isnan(value)), default=0))
    series = [
        # A line needs two points, and one day alone is to be seen too.
        Series(name, points, colour, [0.0] * len(points))
        for colour, (name, line) in enumerate(values.items())
        if (points := [Point(i, value) for i, value in enumerate(line) if not math.isnan(value)])
    ]
    x = Axis(visit.words("dashboard_utc"), 0, len(slots.names) - 1, slots.ticks)
    return charts.plot(visit.words(title), series, x, Axis(unit, 0, top))


def _cascade(visit: Visit, slots: Slots, counted: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, Any]:
    """Who was asked and who decided, how often, and what the teachers among them took."""
    chains = totals(counted["tiers"])
    asked: Counter[str] = Counter()
    for chain, rows in chains.items():
        asked.update(dict.fromkeys(_tiers(chain), rows))
    last = _last_tiers(counted["tiers"])
    taken = {name: {kind: counted[kind].get(name, {}) for kind in TAKEN} for name in sorted(_teachers(counted))}
    costs = {
        name: _cost(visit, name, {kind: sum(found.values()) for kind, found in of.items()})
        for name, of in taken.items()
    }
    priced = [cost for cost in costs.values() if not math.isnan(cost)]
    total = sum(chains.values())
    beyond = sum(rows for chain, rows in chains.items() if set(_tiers(chain)) - {"student", PERSON})
    return {
        "asked": dict(asked.most_common()),
        "last": last,
        "taken": taken,
        "costs": costs,
        "cost": sum(priced) if priced else NAN,
        "beyond": beyond / total if total else NAN,
        "person": asked[PERSON] / total if total else NAN,
        "tier_charts": {
            "last": _shares(visit, slots, last),
            "tokens": _chart(
                visit, "dashboard_tokens", slots, _tokens(visit, slots, taken), visit.words("dashboard_tokens_unit")
            ),
        },
    }


def _tiers(chain: str) -> list[str]:
    """Who was asked, of a name under which decisions are counted; the student alone where the log names nobody."""
    return chain.split(" > ") if chain else ["student"]


def _last_tiers(chains: Mapping[str, Mapping[str, int]]) -> dict[str, Counter[str]]:
    """Decisions in each slot by the last who was asked, which is who decided."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for chain, rows in chains.items():
        found[_tiers(chain)[-1]].update(rows)
    return dict(sorted(found.items(), key=lambda one: -one[1].total()))


def _teachers(counted: Mapping[str, Mapping[str, object]]) -> set[str]:
    return {name for kind in TAKEN for name in counted[kind]}


def _cost(visit: Visit, teacher: str, taken: Mapping[str, int]) -> float:
    """What a teacher's tokens cost at the prices that are set now; NaN where none are set."""
    tiers = {f"teacher {tier.name}": tier.teacher.budget for tier in visit.service.config.tiers if tier.teacher}
    budget = tiers.get(teacher)
    priced = budget is not None and budget.price_prompt + budget.price_completion > 0
    return budget.cost(taken["prompt"], taken["completion"]) if budget and priced else NAN


def _shares(visit: Visit, slots: Slots, last: Mapping[str, Mapping[str, int]]) -> str:
    """The share of decisions of each tier in each slot, in percent."""
    all_of = [sum(rows.get(slot, 0) for rows in last.values()) for slot in slots.names]
    values = {
        visit.words.known("tier", tier): [
            100 * rows.get(slot, 0) / n if n else NAN for slot, n in zip(slots.names, all_of, strict=True)
        ]
        for tier, rows in last.items()
    }
    return _chart(visit, "dashboard_last", slots, values, "%")


def _tokens(visit: Visit, slots: Slots, taken: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, list[float]]:
    """Tokens in and out of all teachers in each slot."""
    return {
        visit.words(f"dashboard_{kind}"): [sum(of[kind].get(slot, 0) for of in taken.values()) for slot in slots.names]
        for kind in ("prompt", "completion")
    }


def _versions(visit: Visit, slots: Slots, counted: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, Any]:
    """When each model and policy decided, and who changed what."""
    found = {name: rows for kind in ("model", "policy") for name, rows in counted[kind].items()}
    drawn = [(name, list(stretches(rows, slots))) for name, rows in found.items()]
    ends = (slots.ticks[0], slots.ticks[-1])
    return {
        "versions": [(name, min(rows), max(rows), sum(rows.values())) for name, rows in found.items()],
        "timeline": charts.timeline(visit.words("dashboard_timeline"), drawn, ends),
        "done": acts(visit.store, "promote", "rollback", "thresholds", "pin", limit=10),
    }


def stretches(found: Mapping[str, int], slots: Slots) -> Iterator[tuple[float, float]]:
    """Runs of slots with a count, as shares of the time shown."""
    start = None
    for i, slot in enumerate((*slots.names, "")):
        if slot in found and start is None:
            start = i
        if slot not in found and start is not None:
            yield start / len(slots.names), i / len(slots.names)
            start = None


def _health(visit: Visit) -> dict[str, Any]:
    """What the last look found; an old one is replaced while the page is read."""
    found, looking = last_look(visit.store), visit.service.looking
    if found is None or found.is_old:
        looking.begin(visit.policy)
    said = words(visit.words.language)
    return {
        "look": found,
        "at_work": looking.at_work,
        "pinned": visit.store.note(REFERENCE),
        "drift": _drift(visit, found, said) if found else [],
        "calibration": _calibration(visit, found) if found else "",
    }


def _drift(visit: Visit, found: Look, said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each measure in words, the alarms first."""
    alarms = {alarm.key: alarm for alarm in found.alarms}
    rows = [
        {"name": said["names"][one.name], "step": said["steps"].get(one.name, ""), "group": _group(visit, one, said)}
        | {"measure": one, "alarm": alarms.get(one.key)}
        for one in found.measures
    ]
    return sorted(rows, key=lambda row: row["alarm"] is None)


def _group(visit: Visit, one: Measure, said: Mapping[str, Any]) -> str:
    known = {**visit.names, **{name: visit.words(f"lang_{name}") for name in ("zh", "en", "other")}, **said["marks"]}
    return visit.words("comma").join(known.get(value, value) for value in one.group.values())


def _calibration(visit: Visit, found: Look) -> str:
    t, most = visit.words, max((rows for *_, rows in found.bins), default=1)
    points = [Point(risk, harmful) for risk, harmful, _ in found.bins]
    line = Series(t("dashboard_calibration"), points, 0, [rows / most for *_, rows in found.bins])
    return charts.plot(
        t("dashboard_calibration"), [line], Axis(t("dashboard_told")), Axis(t("dashboard_found")), diagonal=True
    )


def _start(time: datetime, unit: Unit) -> datetime:
    whole = time.replace(minute=0, second=0, microsecond=0)
    return whole if unit == "hour" else whole.replace(hour=0)


TAKEN = ("asked", "kept", "prompt", "completion")
"""What is counted of a teacher, see `ledger.Kind`."""

KINDS = ("action", "category", "latency", "tiers", "model", "policy", *TAKEN)
"""Counts that the page is made of, see `hours.KINDS`."""
