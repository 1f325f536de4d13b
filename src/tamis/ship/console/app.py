"""The console's application, mounted into the service under /console: its routes, its headers, its errors."""

from __future__ import annotations

import asyncio
import logging

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tamis import reviews
from tamis.errors import TamisError
from tamis.ship.console import sign_in
from tamis.ship.console.hours import fold
from tamis.ship.console.page import CHARTS, ROOT, STATIC, Stop, render, words_of
from tamis.ship.console.pages import PAGES
from tamis.ship.console.sign_in import Tries
from tamis.ship.console.similar import Cases
from tamis.ship.service.answers import Service
from tamis.ship.service.refusal import STATUS, Refusal
from tamis.ship.service.traces import OFF

log = logging.getLogger(__name__)
FILLS = 2.0
"""Seconds between two looks at what was decided."""


def create_console() -> FastAPI:
    """The application; `state.service` is to be set before the first request."""
    # Its requests have the spans of the application it is part of, and no telemetry beside them.
    app = FastAPI(title="console", openapi_url=None, docs_url=None, redoc_url=None, telemetry=OFF)
    app.state.pages, app.state.tries = PAGES, Tries()
    app.state.cases = Cases()
    app.include_router(sign_in.router)
    for name, page in PAGES.items():
        app.include_router(page.router, prefix=f"/{name}")
    app.add_api_route(f"/static/{CHARTS.name}", chart_style)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_api_route("/", start, include_in_schema=False)
    for kind, handler in ((Stop, _stopped), (TamisError, _mendable), (Refusal, _refused), (Exception, _bug)):
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(HTTPException, _missing)
    app.add_middleware(Guarded)
    return app


async def keep_filled(service: Service) -> None:
    """Queue what needs a person and count what was decided, again and again; what goes wrong is tried again."""
    while True:
        try:
            await run_in_threadpool(reviews.fill, service.store)
            await run_in_threadpool(fold, service.store)
        except TamisError as error:
            log.warning("%s", error)
        await asyncio.sleep(FILLS)


async def chart_style() -> Response:
    """How charts look."""
    return FileResponse(CHARTS)


async def start() -> Response:
    """The first page of the navigation."""
    return RedirectResponse(f"{ROOT}/{next(iter(PAGES))}", 303)


class Guarded:
    """Headers that let a browser run and show nothing but what comes from here, and keep none of it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                static = scope["path"].startswith(f"{ROOT}/static/") and message["status"] == 200
                keep = b"public, max-age=31536000, immutable" if static else b"no-store"
                # A page that is cut off from the others, as a report is, has a policy of its own.
                own = {name for name, _ in message["headers"]}
                added = [(name, value) for name, value in HEADERS if name not in own]
                message["headers"] = [*message["headers"], *added, (b"cache-control", keep)]
            await send(message)

        try:
            await self.app(scope, receive, tell)
        finally:
            scope["counted_as"] = _counted_as(scope)


def _counted_as(scope: Scope) -> str:
    """The route of a request for the metrics, with the part of its path that stands where its router is included."""
    route, page = scope.get("route"), scope["path"].removeprefix(f"{ROOT}/").partition("/")[0]
    if not isinstance(route, APIRoute):
        return "other"
    return f"{ROOT}/{page}{route.path}" if page in PAGES else f"{ROOT}{route.path}"


async def _stopped(request: Request, error: Exception) -> Response:
    assert isinstance(error, Stop)  # noqa: S101
    if error.elsewhere is None:
        return _told(request, error.status, words_of(request)(error.key, **error.values))
    if request.headers.get("sec-fetch-site") == "cross-site":
        # The strict cookie does not come along from another site: from this page of ours it does.
        return HTMLResponse(f'<!doctype html><title>tamis</title><meta http-equiv="refresh" content="0">{AGAIN}')
    return RedirectResponse(error.elsewhere, error.status)


async def _mendable(request: Request, error: Exception) -> Response:
    return _told(request, 400, str(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101
    return _told(request, STATUS[error.reason], error.message)


async def _missing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    return _told(request, error.status_code, words_of(request)("stop_missing"))


async def _bug(request: Request, error: Exception) -> Response:
    return _told(request, 500, words_of(request)("stop_bug"))


def _told(request: Request, status: int, why: str) -> Response:
    return render(request, words_of(request), "stop.html.j2", status, code=status, why=why)


AGAIN = '<p><a href="">tamis</a></p>'
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
