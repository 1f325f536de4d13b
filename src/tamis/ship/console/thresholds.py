"""The thresholds explorer: try others on what people have judged, and save them as a new version of the policy."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from tamis import charts
from tamis.charts import Axis, Series
from tamis.deciding import Thresholds
from tamis.estimates import Point
from tamis.policy import Policy
from tamis.ship.bundle import reissue
from tamis.ship.console.acts import acts, write_act
from tamis.ship.console.explorer import Cell, Figures, Sample, cells, curve, figures, newest, read_sample, with_cells
from tamis.ship.console.hours import counts, totals
from tamis.ship.console.page import Lead, Stop, Visit
from tamis.ship.console.queue import REASON
from tamis.ship.service import admin

GRID = tuple(i / 20 for i in range(1, 20))
"""Values of the threshold in hand at which the chart shows what would happen."""

VERSION = re.compile(r"[\w.-]{1,32}", re.ASCII)
DIGITS = 4

router = APIRouter()


@dataclass(frozen=True)
class Tried:
    """Thresholds on the page: those that decide now, and those that are tried."""

    now: dict[Cell, float]
    then: dict[Cell, float]
    sample: Sample
    thresholds: Thresholds
    policy: Policy

    @property
    def changes(self) -> dict[Cell, tuple[float, float]]:
        """What would be different, from what to what."""
        return {cell: (value, self.then[cell]) for cell, value in self.now.items() if value != self.then[cell]}


@router.get("")
def show(visit: Lead) -> Response:
    """The page."""
    tried = tried_of(visit)
    saved = acts(visit.store, "thresholds")
    return visit.page("thresholds.html.j2", saved=saved, **_values(visit, tried))


@router.get("/figures")
def recount(visit: Lead) -> Response:
    """The part of the page that follows the thresholds."""
    return visit.part("thresholds_figures.html.j2", **_values(visit, tried_of(visit)))


@router.get("/diff")
def compare(visit: Lead) -> Response:
    """What would be saved, beside what decides now."""
    tried = tried_of(visit)
    if not tried.changes:
        return visit.go("/thresholds", "thresholds_same")
    known = {slot.policy for slot in visit.service.fleet.slots}
    fresh = next_version(visit.policy.version)
    while f"{visit.policy.name} {fresh}" in known:
        fresh = next_version(fresh)
    return visit.page("thresholds_diff.html.j2", version=fresh, reason_length=REASON, **_values(visit, tried))


@router.post("/save")
async def save(visit: Lead) -> Response:
    """Write a bundle with these thresholds beside the live one and load it; an admin promotes it."""
    tried = await run_in_threadpool(tried_of, visit)
    version, reason = visit.field("version"), visit.field("reason")[:REASON]
    if not VERSION.fullmatch(version) or version == visit.policy.version:
        raise Stop(400, "thresholds_no_version")
    if not reason or not tried.changes:
        raise Stop(400, "quality_no_reason" if not reason else "thresholds_same")
    live = Path(next(slot.folder for slot in visit.service.fleet.slots if slot.place == "live"))
    policy = tried.policy.model_copy(update={"version": version})
    out = live.with_name(f"{live.name}-{version}")
    await run_in_threadpool(reissue, live, policy, tried.thresholds, out)
    await admin.change(visit.service, lambda: visit.service.fleet.load(out))
    told = [[*cell, *values] for cell, values in tried.changes.items()]
    about = {"policy": f"{policy.name} {version}", "folder": str(out), "reason": reason, "changes": told}
    await run_in_threadpool(write_act, visit.store, visit.user.name, "thresholds", **about)
    return await run_in_threadpool(visit.go, "/models", "thresholds_saved", version=version)


def tried_of(visit: Visit) -> Tried:
    """The thresholds of the address or the form; one that is missing or cannot be is as it is now."""
    moderator = visit.service.fleet.engine.moderator
    now = cells(moderator.thresholds, moderator.policy)
    given = {cell: visit.field(name_of(cell)) or visit.query(name_of(cell)) for cell in now}
    told = {cell: _number(given[cell], value) for cell, value in now.items()}
    changed = with_cells(moderator.thresholds, moderator.policy, told)
    then = told if changed else now
    # Untouched thresholds keep their method and what it promises.
    made = changed if changed and told != now else (moderator.thresholds, moderator.policy)
    return Tried(now, then, _sample(visit, moderator.thresholds), *made)


def name_of(cell: Cell) -> str:
    """The name of a threshold's field."""
    return ".".join(cell)


def next_version(version: str) -> str:
    """A version with its last number one up; with `.1` behind it where it ends in none."""
    found = re.search(r"\d+$", version)
    return f"{version[: found.start()]}{int(found[0]) + 1}" if found else f"{version}.1"


def _number(told: str, default: float) -> float:
    try:
        value = float(told)
    except ValueError:
        return default
    return value if 0 <= value <= 1 else default


def _sample(visit: Visit, thresholds: Thresholds) -> Sample:
    """The sample, read again when something was judged since, and each minute for what was decided."""
    state = visit.request.app.state
    stamp = (newest(visit.store), visit.service.fleet.engine.moderator.versions["model"], time.time() // 60)
    kept: tuple[Any, Sample] | None = getattr(state, "explored", None)
    if kept is None or kept[0] != stamp:
        state.explored = kept = (stamp, read_sample(visit.store, visit.policy, thresholds))
    return kept[1]


def _values(visit: Visit, tried: Tried) -> dict[str, Any]:
    moderator = visit.service.fleet.engine.moderator
    before = figures(tried.sample, moderator.thresholds, moderator.policy)
    after = figures(tried.sample, tried.thresholds, tried.policy)
    hand = visit.query("hand") or visit.field("hand")
    cell = next((one for one in tried.now if name_of(one) == hand), next(iter(tried.now)))
    points = curve(tried.sample, tried.thresholds, tried.policy, cell, GRID)
    return {
        "tried": tried,
        "before": before,
        "after": after,
        "cell": cell,
        "name_of": name_of,
        "points": points,
        "chart": _chart(visit, cell, tried.then[cell], points),
        "a_day": a_day(visit),
        "languages": len({language for _, _, language in tried.now}) > 1,
    }


def _chart(visit: Visit, cell: Cell, value: float, points: list[tuple[float, Figures]]) -> str:
    t = visit.words
    lines = {"recall": [f.recall.value for _, f in points], "stopped": [f.stopped for _, f in points]}
    lines["load"] = [f.load for _, f in points]
    series = [
        Series(
            t(f"thresholds_{name}"), [Point(x, y) for (x, _), y in zip(points, ys, strict=True) if not math.isnan(y)], i
        )
        for i, (name, ys) in enumerate(lines.items())
    ]
    here = Series("", [Point(value, 0), Point(value, 1)], 5)
    x = Axis(t("thresholds_axis", kind=t(f"thresholds_{cell[0]}"), name=visit.names.get(cell[1], t("thresholds_risk"))))
    return charts.plot(t("thresholds_chart"), [*series, here], x, Axis(t("thresholds_share")))


def a_day(visit: Visit) -> float:
    """Decisions a day, over the last week in which there were any."""
    until = datetime.now(UTC)
    found = counts(visit.store, "action", until - timedelta(days=7), until, "day")
    days = {day for slots in found.values() for day in slots}
    return sum(totals(found).values()) / max(1, len(days))
