"""What a page gets and gives: the visit of a person who is signed in, and answers that no browser takes further.

A page is a function of a visit. Everything that must not be forgotten happens before it is called: who it is, whether
they may, and for a POST that it comes from a form of ours.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from tamis import charts
from tamis.policy import Policy
from tamis.ship.console.sessions import COOKIE, Session, say, session_of
from tamis.ship.console.users import Role, User, user_of
from tamis.ship.console.words import LANGUAGES, Words, best, load_words
from tamis.ship.service.answers import Service
from tamis.ship.service.limits import read_body
from tamis.store import Store

ROOT = "/console"
STATIC = Path(__file__).parent / "static"
CHARTS = Path(charts.__file__).with_name("charts.css")
"""Stands with the charts, which reports draw too; it is served as if it were static."""


class Stop(Exception):
    """A page that is not given; `key` names the text that says why.

    Args:
        status: of HTTP.
        key: of a text.
        elsewhere: where the browser is to go instead.
    """

    def __init__(self, status: int, key: str, elsewhere: str | None = None, **values: Any) -> None:
        super().__init__(key)
        self.status, self.key, self.elsewhere, self.values = status, key, elsewhere, values


@dataclass(frozen=True)
class Visit:
    """One request of a person who is signed in."""

    request: Request
    service: Service
    session: Session
    user: User
    words: Words
    form: Mapping[str, list[str]]
    """Fields of a POST, empty ones included."""

    @property
    def store(self) -> Store:
        """The database."""
        return self.service.store

    @property
    def policy(self) -> Policy:
        """The policy of the live bundle."""
        return self.service.fleet.policy

    @property
    def names(self) -> dict[str, str]:
        """What each category of the policy is called in the person's language, by id."""
        return {one.id: one.name.get(self.words.language, one.id) for one in self.policy.categories}

    @property
    def shorts(self) -> dict[str, str]:
        """The same in few letters, for lists."""
        return {one.id: one.short.get(self.words.language, one.id) for one in self.policy.categories}

    def field(self, name: str, default: str = "") -> str:
        """The last value of a field of the form, without spaces around it."""
        return self.form.get(name, [default])[-1].strip()

    def query(self, name: str, default: str = "") -> str:
        """A value of the address."""
        return self.request.query_params.get(name, default)

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A whole page, of templates/; it tells what the session has to say."""
        said = self.session.said
        if said:
            say(self.store, self.session, None)
        told = self.words(said[0], **said[1]) if said else ""
        here = {"visit": self, "user": self.user, "csrf": self.session.csrf, "said": told}
        return render(self.request, self.words, template, status, **here, **values)

    def part(self, template: str, **values: Any) -> Response:
        """A part of a page, which a script puts where it belongs."""
        return render(self.request, self.words, template, visit=self, user=self.user, **values)

    def go(self, path: str, said: str = "", **values: Any) -> Response:
        """Send the browser to another page of the console, which then tells the text with the key `said`."""
        if said:
            say(self.store, self.session, (said, values))
        return RedirectResponse(ROOT + path, 303)


def visits(role: Role) -> Callable[[Request], Coroutine[Any, Any, Visit]]:
    """What a page depends on that is for people of this role, and of those above it."""

    async def enter(request: Request) -> Visit:
        service: Service = request.app.state.service
        form = await form_of(request)
        visit = await run_in_threadpool(_signed_in, request, service, form)
        if request.method != "GET" and not hmac.compare_digest(visit.field("csrf"), visit.session.csrf):
            raise Stop(403, "stop_csrf")
        if not visit.user.may(role):
            raise Stop(403, "stop_role", role=visit.words(f"role_{role}"))
        return visit

    return enter


Reviewer = Annotated[Visit, Depends(visits("reviewer"))]
Lead = Annotated[Visit, Depends(visits("lead"))]
Admin = Annotated[Visit, Depends(visits("admin"))]


def _signed_in(request: Request, service: Service, form: Mapping[str, list[str]]) -> Visit:
    session = session_of(service.store, request.cookies.get(COOKIE, ""))
    user = session and user_of(service.store, session.user)
    if not session or not user:
        back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        raise Stop(303, "stop_signed_out", f"{ROOT}/sign-in?back={quote(back if request.method == 'GET' else '')}")
    request.state.user = user
    return Visit(request, service, session, user, words_of(request), form)


def words_of(request: Request) -> Words:
    """The language a person chose, else one their browser asks for."""
    user: User | None = getattr(request.state, "user", None)
    chosen = user.language if user else request.query_params.get("language", "")
    found = next((one for one in LANGUAGES if one == chosen), None)
    return load_words(found or best(request.headers.get("accept-language", "")))


async def form_of(request: Request) -> Mapping[str, list[str]]:
    """The fields of a POST that comes from a page of ours; nothing of a GET.

    Raises:
        Stop: another site sent it.
    """
    if request.method == "GET":
        return {}
    # Before there is a session there is no token of one; a browser says by itself where a form comes from.
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise Stop(403, "stop_csrf")
    body = await read_body(request, request.app.state.service.config.limits)
    return parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)


def render(request: Request, words: Words, template: str, status: int = 200, **values: Any) -> Response:
    """A template filled in; `values` are escaped."""
    always = {"t": words, "request": request, "root": ROOT, "pages": request.app.state.pages, "asset": asset}
    page = _environment().get_template(template)
    return HTMLResponse(page.render({"visit": None, "user": None, "said": ""} | always | values), status)


@cache
def asset(name: str) -> str:
    """The address of a static file, which changes with what is in it."""
    file = CHARTS if name == CHARTS.name else STATIC / name
    stamp = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return f"{ROOT}/static/{name}?{stamp}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("tamis.ship.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
