"""The bundles of the service: what they are, how the one in shadow differs, and which of them decides how much."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select
from starlette.responses import HTMLResponse, Response

from tamis import charts
from tamis.decisions import decisions_table
from tamis.estimates import Estimate
from tamis.records import Action
from tamis.reviews.quality import Errors
from tamis.ship.bundle import BundleSpec
from tamis.ship.console.acts import What, acts, write_act
from tamis.ship.console.page import Admin, Lead, Stop, Visit
from tamis.ship.console.quality import estimate_of
from tamis.ship.console.reading import text_of
from tamis.ship.service import admin, shadow
from tamis.ship.service.members import Slot
from tamis.ship.service.shadow import Difference
from tamis.store import Store

ACTIONS: tuple[Action, ...] = ("pass", "review", "block")
SHOWN = 20
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'"
"""A report brings its own style and runs nothing."""

router = APIRouter()


@dataclass(frozen=True)
class Model:
    """A bundle of the fleet and what it says of itself; `report` is the page of its run, if it is there."""

    slot: Slot
    spec: BundleSpec
    figures: Mapping[str, float]
    report: Path | None

    @property
    def promises(self) -> list[Mapping[str, Any]]:
        """What its thresholds promise."""
        return list(self.spec.thresholds.get("promises", ()))


@router.get("")
def show(visit: Lead) -> Response:
    """All bundles, and the shadow's answers beside the live one's."""
    models = [model_of(slot) for slot in visit.service.fleet.slots]
    models.sort(key=lambda one: list(PLACES).index(one.slot.place))
    live = next(one.slot for one in models if one.slot.place == "live")
    other = next((one.slot for one in models if one.slot.place == "shadow"), None)
    return visit.page(
        "models.html.j2",
        models=models,
        places=PLACES,
        shadow=_comparison(visit, live, other) if other else None,
        done=acts(visit.store, "load", "shadow", "canary", "promote", "rollback", "unload", "thresholds", limit=SHOWN),
    )


@router.get("/{name}/report")
def report(visit: Lead, name: str) -> Response:
    """The report of the run that made a bundle, cut off from the console."""
    page = next((model_of(slot).report for slot in visit.service.fleet.slots if slot.name == name), None)
    if page is None:
        raise Stop(404, "models_no_report")
    return HTMLResponse(page.read_text(encoding="utf-8"), headers={"content-security-policy": REPORT_POLICY})


@router.post("/load")
async def load(visit: Admin) -> Response:
    """Load a bundle beside the live one."""
    folder = visit.field("folder")
    return await _change(visit, "load", lambda: visit.service.fleet.load(folder), folder=folder)


@router.post("/rollback")
async def rollback(visit: Admin) -> Response:
    """Let the bundle before the live one decide again."""
    return await _change(visit, "rollback", visit.service.fleet.rollback)


@router.post("/{name}/shadow")
async def cast_shadow(visit: Admin, name: str) -> Response:
    """Let a bundle judge a copy of the traffic; asked again, end that."""
    at_work = any(slot.name == name and slot.place == "shadow" for slot in visit.service.fleet.slots)
    return await _change(visit, "shadow", lambda: visit.service.fleet.shadow(None if at_work else name), name=name)


@router.post("/{name}/canary")
async def cast_canary(visit: Admin, name: str) -> Response:
    """Let a bundle decide a share of the traffic, in percent; 0 ends that."""
    try:
        share = float(visit.field("percent")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise Stop(400, "models_no_share")
    return await _change(visit, "canary", lambda: visit.service.fleet.canary(name, share), name=name, share=share)


@router.post("/{name}/promote")
async def promote(visit: Admin, name: str) -> Response:
    """Let a bundle decide from now on."""
    return await _change(visit, "promote", lambda: visit.service.fleet.promote(name), name=name)


@router.post("/{name}/unload")
async def unload(visit: Admin, name: str) -> Response:
    """Take a bundle out of memory."""
    return await _change(visit, "unload", lambda: visit.service.fleet.unload(name), name=name)


async def _change(visit: Visit, what: What, work: Callable[[], Awaitable[object]], **about: Any) -> Response:
    await admin.change(visit.service, work)
    live = next(slot.name for slot in visit.service.fleet.slots if slot.place == "live")
    await run_in_threadpool(write_act, visit.store, visit.user.name, what, **about, live=live)
    return await run_in_threadpool(visit.go, "/models", f"models_{what}_done")


def model_of(slot: Slot) -> Model:
    """What a bundle's folder says of it."""
    folder = Path(slot.folder)
    spec = BundleSpec(**json.loads((folder / "bundle.json").read_text()))
    page = folder.parent / "report" / "report.html"
    return Model(slot, spec, _figures(page.with_name("metrics.json")), page if page.is_file() else None)


def agreed(counted: Mapping[tuple[Action, Action], int]) -> Estimate:
    """The share of texts about which two bundles do the same, with its interval."""
    rows = sum(counted.values())
    return estimate_of(Errors(rows, sum(n for (live, other), n in counted.items() if live == other)))


def _figures(path: Path) -> dict[str, float]:
    """The student's figures of a report; none where there is no report."""
    if not path.is_file():
        return {}
    told = json.loads(path.read_text(encoding="utf-8")).get("models", {}).get("student", {}).get("metrics", {})
    return {name: told[name]["value"] for name in FIGURES if name in told and told[name]["value"] is not None}


def _comparison(visit: Visit, live: Slot, other: Slot) -> dict[str, Any]:
    counted = shadow.agreement(visit.store, live.name, other.name)
    names = [visit.words(f"action_{name}") for name in ACTIONS]
    table = [[counted.get((a, b), 0) for b in ACTIONS] for a in ACTIONS]
    chosen = tuple(visit.query("cell").split("-"))
    cell = (chosen[0], chosen[1]) if len(chosen) == 2 else None
    found = shadow.differences(visit.store, live.name, other.name, cell, SHOWN)
    return {
        "live": live,
        "other": other,
        "rows": sum(counted.values()),
        "agreed": agreed(counted),
        "table": list(zip(ACTIONS, table, strict=True)),
        "chart": charts.heatmap(visit.words("models_heatmap"), table, names, names),
        "cell": cell,
        "examples": _with_texts(visit.store, found),
    }


def _with_texts(store: Store, found: list[Difference]) -> list[tuple[Difference, str]]:
    """Differences, each with what the decision log keeps of its text."""
    columns = decisions_table.c
    query = select(columns.content, columns.kept).where(columns.content.in_([one.content for one in found]))
    with store.begin() as connection:
        texts = {row["content"]: text_of(row)[0] for row in connection.execute(query).mappings() if row["kept"]}
    return [(one, texts.get(one.content, "")) for one in found]


PLACES = {"live": "pass", "canary": "review", "shadow": "review", "previous": "", "loaded": ""}
"""Where a bundle may be, in the order of the page, and the colour of its badge."""

FIGURES = ("macro_f1", "risk_auroc", "recall_at_fpr_0.01", "ece")
"""Figures of a report that stand beside a bundle."""
