"""The FastAPI application of one worker: routes, errors in each API's shape, and its life from warm-up to drain."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import secrets
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import multiprocess
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import tamis
from tamis.config import ServeConfig
from tamis.decisions import DecisionLog
from tamis.ship.console.app import create_console, keep_filled
from tamis.ship.console.page import ROOT
from tamis.ship.monitor import Looking
from tamis.ship.service import admin, metrics, native, openai, perspective, tenancy, traces
from tamis.ship.service.answers import Service, respond, service_of
from tamis.ship.service.bases import Bases
from tamis.ship.service.drain import drain_on_sigterm
from tamis.ship.service.fleet import Fleet, StoredTeachers
from tamis.ship.service.keys import Keyring
from tamis.ship.service.looks import keep_looking
from tamis.ship.service.refusal import Refusal
from tamis.ship.service.schema import install
from tamis.ship.service.tenants import Tenants
from tamis.store import Store

log = logging.getLogger(__name__)

ABOUT = "Judges texts with a distilled model. Every request is answered after its decisions are in the log."
SALT = "salt of the audit"


@dataclass(frozen=True)
class Settings:
    """What a worker is started with; `listening` is the port where it is the worker that ends it."""

    bundle: Path
    config: ServeConfig
    teachers: StoredTeachers
    workers: int = 1
    listening: socket.socket | None = None


def create_app(settings: Settings) -> FastAPI:
    """The application; it loads the bundle when it is started."""
    sender = traces.provider()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings) as service:
            app.state.service = console.state.service = service
            yield
        await asyncio.to_thread(traces.end, sender)

    app = FastAPI(
        title="tamis",
        version=tamis.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=traces.telemetry(sender, PROBES),
    )
    for module in (openai, native, perspective, admin, tenancy):
        app.include_router(module.router)
    for path, answer in PROBES.items():
        app.add_api_route(path, answer, response_class=Response, operation_id=path.strip("/"))
    console = create_console()
    app.mount(ROOT, console)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_middleware(Front)
    install(app, REQUESTS, ABOUT)
    return app


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    """One worker's parts: opened in order, and closed so that what was accepted is answered and logged."""
    config = settings.config
    metrics.forget_the_dead()
    with Store.open(config.store) as store:
        log_of = DecisionLog(store, config.keep_days) if config.log == "durable" else nullcontext()
        with log_of as decision_log:
            salt, bases = audit_salt(store), Bases(config.batch)
            teachers = functools.partial(settings.teachers, store=store)
            fleet = await Fleet.start(settings.bundle, config, teachers, salt, bases)
            tenants = Tenants(settings.bundle, config, bases, salt)
            keyring = Keyring(open_to_all=not config.require_key, workers=settings.workers)
            note, looking = f"bundles of {settings.bundle}"[-300:], Looking(config.store, config.monitor.days)
            service = Service(note, fleet, tenants, store, decision_log, config, keyring, looking)
            await admin.look(service)
            watchers = [asyncio.create_task(work(service)) for work in (admin.watch, keep_filled, keep_looking)]
            drain_on_sigterm(service.begin_drain, config.drain, settings.listening)
            try:
                yield service
            finally:
                for watcher in watchers:
                    watcher.cancel()
                await tenants.drain()
                looking.end()
                await fleet.drain()
                metrics.READY.set(0)
    if metrics.FOLDER in os.environ:
        multiprocess.mark_process_dead(os.getpid())


def audit_salt(store: Store) -> bytes:
    """What chooses the passed texts that are audited, the same for all workers of a store."""
    salt = store.note(SALT)
    if salt is None:
        store.set_note(SALT, salt := secrets.token_hex(16))
    return bytes.fromhex(str(salt))


class Front:
    """Around every request: its id, its time, and no word of it in the log should it fail."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        # Unlike random numbers, these cost no system call a request.
        self.names = (f"{prefix}-{number:x}".encode() for prefix in [secrets.token_hex(6)] for number in count())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        service: Service = scope["app"].state.service

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", next(self.names))]
                # Who keeps the connection would send the next request to a worker that is gone.
                message["headers"] = [*headers, (b"connection", b"close")] if service.draining else headers
            await send(message)

        try:
            await self.app(scope, receive, tell)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            # The kind and the place alone: a message may hold the text.
            log.error("%s at %s:%s", type(error).__name__, place.filename, place.lineno)
            if not status:
                refusal = Refusal("bug", "something went wrong here; the log says where")
                await _shaped(scope["path"], refusal)(scope, receive, tell)
        finally:
            # What is mounted says itself what it is counted as.
            route = scope.get("counted_as") or getattr(scope.get("route"), "path", "other")
            metrics.REQUESTS.labels(route, status).inc()
            metrics.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - began)


def _shaped(path: str, refusal: Refusal) -> Response:
    status, body = SHAPES.get(path, native.error)(refusal)
    return respond(body, status, refusal.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101
    return _shaped(request.url.path, error)


async def _not_found(request: Request, error: Exception) -> Response:
    gone = getattr(error, "status_code", 404) == 404
    refusal = (
        Refusal("missing", "there is nothing here: see /openapi.json")
        if gone
        else Refusal("method", "use another method")
    )
    response = _shaped(request.url.path, refusal)
    response.headers.update(getattr(error, "headers", None) or {})
    return response


async def livez() -> Response:
    """The process is there."""
    return Response("ok\n", media_type="text/plain")


async def readyz(request: Request) -> Response:
    """New requests may come here: 200, or 503 while it drains."""
    ready = service_of(request).ready
    return Response("ready\n" if ready else "draining\n", 200 if ready else 503, media_type="text/plain")


async def exposed(request: Request) -> Response:
    """Metrics of all workers, and of the last look at the traffic, in Prometheus' text format."""
    admin.measure(service_of(request))
    return Response(metrics.exposition(service_of(request).look), media_type="text/plain; version=0.0.4")


PROBES: dict[str, Callable[..., Any]] = {"/livez": livez, "/readyz": readyz, "/metrics": exposed}
SHAPES = {openai.PATH: openai.error, perspective.PATH: perspective.error}
REQUESTS = (
    openai.ModerationsRequest,
    native.DecisionsRequest,
    perspective.AnalyzeRequest,
    admin.LoadRequest,
    admin.CanaryRequest,
    admin.NameRequest,
    tenancy.AddRequest,
    tenancy.RemoveRequest,
)
