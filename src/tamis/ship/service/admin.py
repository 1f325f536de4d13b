"""`/admin/bundles`: load, shadow, canary, promote, roll back, list.

What an admin call changes in the worker it comes to, it notes in the store under the folder the service was started
with; every other worker sees the note within `watch` seconds and does the same. So a promotion outlives a restart, and
a service that is started with another folder begins anew. A worker that cannot follow (the folder is gone, a file was
changed) says so in its log, goes on with what it has, and `tamis_bundle_workers` shows it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tamis.errors import BundleError, TamisError
from tamis.ship.service import metrics
from tamis.ship.service import shadow as shadow_of
from tamis.ship.service.answers import Service, bearer, respond, service_of
from tamis.ship.service.fleet import Fleet
from tamis.ship.service.keys import list_keys
from tamis.ship.service.limits import parse, read_body
from tamis.ship.service.members import Place
from tamis.ship.service.native import ErrorResponse
from tamis.ship.service.refusal import Refusal
from tamis.ship.service.schema import documented

log = logging.getLogger(__name__)
PATH = "/admin/bundles"
Wanted = Sequence[Sequence[Any]]
"""Name, folder and place of each bundle, and of a canary its share."""

REFUSALS = (400, 401, 403, 409, 413, 422, 429)
BUNDLE: dict[str, Any] = {
    "name": "3f0c9a7be201",
    "folder": "/srv/bundles/june",
    "place": "live",
    "policy": "default 1.0",
    "share": 1.0,
}


class LoadRequest(BaseModel):
    """The folder of a bundle, on the machine that serves."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"folder": "/srv/bundles/june"}]})

    folder: str = Field(min_length=1, max_length=4096)


class NameRequest(BaseModel):
    """The name of a loaded bundle."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "3f0c9a7be201"}]})

    name: str = Field(min_length=1, max_length=64)


class CanaryRequest(NameRequest):
    """The name of a loaded bundle, and the share of the traffic it is to decide; 0 ends that."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "3f0c9a7be201", "share": 0.05}]})

    share: float = Field(ge=0, le=1)


class BundleOut(BaseModel):
    """A loaded bundle; it is live, a canary beside it, in its shadow, the one before it, or just loaded."""

    name: str
    folder: str
    place: Place
    policy: str
    share: float = Field(ge=0, le=1)


class BundlesResponse(BaseModel):
    """The bundles of the worker that answers, and how its live one and the one in shadow agree."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"bundles": [BUNDLE], "agreement": {"pass/pass": 812}}]})

    bundles: list[BundleOut]
    agreement: dict[str, int]


router = APIRouter()
REFUSED = documented(NameRequest, BundlesResponse, ErrorResponse, REFUSALS)


@router.get(
    PATH, response_model=BundlesResponse, responses={401: {"model": ErrorResponse}, 403: {"model": ErrorResponse}}
)
async def list_bundles(request: Request) -> Response:
    """The bundles of the worker that answers."""
    service = service_of(request)
    with service.keyring.admit(bearer(request), "admin"):
        return respond(await asyncio.to_thread(_told, service))


@router.post(f"{PATH}/load", **documented(LoadRequest, BundlesResponse, ErrorResponse, REFUSALS))
async def load(request: Request) -> Response:
    """Check, load and warm a bundle beside the live one."""
    return await _change(request, LoadRequest, lambda service, asked: service.fleet.load(asked.folder))


@router.post(f"{PATH}/shadow", **REFUSED)
async def shadow(request: Request) -> Response:
    """Let a loaded bundle judge a copy of the traffic, without a say."""
    return await _change(request, NameRequest, lambda service, asked: service.fleet.shadow(asked.name))


@router.post(f"{PATH}/canary", **documented(CanaryRequest, BundlesResponse, ErrorResponse, REFUSALS))
async def canary(request: Request) -> Response:
    """Let a loaded bundle decide a share of the traffic beside the live one; a share of 0 ends that."""
    return await _change(request, CanaryRequest, lambda service, asked: service.fleet.canary(asked.name, asked.share))


@router.post(f"{PATH}/promote", **REFUSED)
async def promote(request: Request) -> Response:
    """Let a loaded bundle decide from now on; requests that are under way are answered by the one before."""
    return await _change(request, NameRequest, lambda service, asked: service.fleet.promote(asked.name))


@router.post(f"{PATH}/unload", **REFUSED)
async def unload(request: Request) -> Response:
    """Take a bundle out of memory that is not live."""
    return await _change(request, NameRequest, lambda service, asked: service.fleet.unload(asked.name))


@router.post(
    f"{PATH}/rollback",
    response_model=BundlesResponse,
    responses={status: {"model": ErrorResponse} for status in (401, 403, 409, 429)},
)
async def rollback(request: Request) -> Response:
    """Let the bundle before the live one decide again."""
    return await _change(request, None, lambda service, _: service.fleet.rollback())


async def _change(
    request: Request, model: type[BaseModel] | None, work: Callable[[Service, Any], Awaitable[object]]
) -> Response:
    async def done(service: Service, asked: Any) -> dict[str, Any]:
        await change(service, lambda: work(service, asked))
        return await asyncio.to_thread(_told, service)

    return await administered(request, model, done)


async def administered(
    request: Request, model: type[BaseModel] | None, work: Callable[[Service, Any], Awaitable[dict[str, Any]]]
) -> Response:
    """Do what an admin call asks for, and answer with what `work` returns.

    Raises:
        Refusal: a key, a body or a change that is refused.
    """
    service = service_of(request)
    with service.keyring.admit(bearer(request), "admin"):
        limits = service.config.limits
        asked = parse(model, await read_body(request, limits), limits) if model else None
        try:
            return respond(await work(service, asked))
        except TamisError as error:
            raise Refusal("refused", str(error)) from None


async def change(service: Service, work: Callable[[], Awaitable[object]]) -> None:
    """Change this worker's bundles, one change at a time, and note it for the others.

    Raises:
        TamisError: it cannot be done; nothing has changed.
    """
    async with service.changing:
        # What was asked of another worker a moment ago comes first.
        await _catch_up(service)
        await work()
        service.followed = _wanted(service)
        await asyncio.to_thread(service.store.set_note, service.note, service.followed)


def _told(service: Service) -> dict[str, Any]:
    """The bundles of this worker, and what all workers have compared of the live one and its shadow."""
    slots = service.fleet.slots
    bundles = [{name: getattr(slot, name) for name in BundleOut.model_fields} for slot in slots]
    named = {slot.place: slot.name for slot in slots}
    pair = (named["live"], named["shadow"]) if {"live", "shadow"} <= set(named) else None
    counted = shadow_of.agreement(service.store, *pair) if pair else {}
    return {"bundles": bundles, "agreement": {f"{live}/{other}": n for (live, other), n in counted.items()}}


def _wanted(service: Service) -> Wanted:
    return [
        [slot.name, slot.folder, slot.place, *([slot.share] if slot.place == "canary" else [])]
        for slot in service.fleet.slots
    ]


async def watch(service: Service) -> None:
    """Look again and again; what goes wrong is said, and the service goes on with what it knows."""
    while True:
        await asyncio.sleep(service.config.watch)
        await look(service)
        measure(service)
        await _keep_compared(service)


async def _keep_compared(service: Service) -> None:
    try:
        await asyncio.to_thread(shadow_of.keep, service.store, service.fleet.compared())
    except TamisError as error:
        log.warning("%s", error)


async def look(service: Service) -> None:
    """See which keys there are, and which bundles another worker was told to have."""
    try:
        service.keyring.know(await asyncio.to_thread(list_keys, service.store))
        async with service.changing:
            await _catch_up(service)
            await service.tenants.catch_up(service.store)
    except TamisError as error:
        log.warning("%s", error)


async def _catch_up(service: Service) -> None:
    wanted = await asyncio.to_thread(service.store.note, service.note)
    if wanted and wanted != service.followed:
        # Once, be it possible or not: a folder that is gone would be tried each second.
        service.followed = wanted
        await follow(service.fleet, wanted)


async def follow(fleet: Fleet, wanted: Wanted) -> None:
    """Make a fleet hold exactly the bundles that are wanted, each in its place.

    Raises:
        BundleError: one of them must not be served, or its folder holds another one; what was live stays so.
    """
    held = {slot.name for slot in fleet.slots}
    for name, folder, *_ in wanted:
        if name not in held and (await fleet.load(folder)).name != name:
            raise BundleError(f"{folder} no longer holds bundle {name}: load what it holds, and promote that")
    named = {place: (name, *share) for name, _, place, *share in wanted}
    # The bundle before the live one is the one that was live before it.
    for place in ("previous", "live"):
        if place in named:
            await fleet.promote(*named[place])
    await fleet.shadow(*named.get("shadow", (None,)))
    for slot in fleet.slots:
        if slot.place == "canary" and "canary" not in named:
            await fleet.canary(slot.name, 0.0)
        if slot.name not in {name for name, *_ in wanted}:
            await fleet.unload(slot.name)
    if "canary" in named:
        await fleet.canary(*named["canary"])


def measure(service: Service) -> None:
    """Set the gauges of this worker."""
    fleet = service.fleet
    tenants = service.tenants.fleets
    lines = {one.engine.line for one in (fleet, *tenants.values())}
    metrics.QUEUE.set(sum(line.depth for line in lines))
    metrics.SPEED.set(sum(line.tokens_per_second for line in lines))
    metrics.READY.set(service.ready)
    held: set[tuple[str, str]] = {(slot.name, slot.place) for slot in fleet.slots}
    held |= {(one.slots[0].name, f"tenant {name}") for name, one in tenants.items()}
    # What is held no more must be said, or the last number stays.
    for name, place in service.shown | held:
        metrics.BUNDLES.labels(name, place).set((name, place) in held)
    service.shown = held
    for slot in fleet.slots:
        for (live, other), number in slot.agreement.items():
            metrics.SHADOW.labels(live, other).set(number)
