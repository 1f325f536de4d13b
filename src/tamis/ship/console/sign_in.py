"""Signing in and out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from tamis.ship.console.page import ROOT, Reviewer, Stop, form_of, render, words_of
from tamis.ship.console.sessions import COOKIE, close_session, open_session
from tamis.ship.console.users import check_password
from tamis.ship.guards import MINUTE, Bucket
from tamis.ship.service.answers import Service

TRIES = 10
"""Attempts to sign in a minute, at one worker: for one name, and ten times as many for all names together."""

router = APIRouter()


class Tries:
    """Attempts that failed at a worker lately."""

    def __init__(self) -> None:
        self._by_name: dict[str, Bucket] = {}
        self._all = Bucket(10 * TRIES, MINUTE)

    def forget(self, name: str) -> None:
        """Count nothing against who got in."""
        self._by_name.pop(name, None)

    def take(self, name: str, now: float) -> bool:
        """Whether one more may be made."""
        every = self._all.take(now)
        mine = self._by_name.get(name, Bucket(TRIES, MINUTE, at=now)).take(now)
        if every is None or mine is None:
            return False
        self._all = every
        # Names that were not tried for a minute are as good as new.
        self._by_name = {one: bucket for one, bucket in self._by_name.items() if now - bucket.at < MINUTE}
        self._by_name[name] = mine
        return True


@router.get("/sign-in")
def ask(request: Request) -> Response:
    """The form."""
    return _form(request, "", request.query_params.get("back", ""))


@router.post("/sign-in")
def sign_in(request: Request, form: Annotated[Mapping[str, list[str]], Depends(form_of)]) -> Response:
    """Check name and password, and go where the person was going."""
    service: Service = request.app.state.service
    name, password, back = (form.get(field, [""])[-1] for field in ("name", "password", "back"))
    tries: Tries = request.app.state.tries
    if not tries.take(name, time.monotonic()):
        raise Stop(429, "stop_tries")
    user = check_password(service.store, name, password)
    if user is None:
        return _form(request, words_of(request)("sign_in_wrong"), back, 403, name)
    tries.forget(user.name)
    secret = open_session(service.store, user.name, service.config.console.session_hours)
    # Nowhere but to pages of ours.
    response = RedirectResponse(back if back.startswith(f"{ROOT}/") else f"{ROOT}/", 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, secret, path=ROOT, secure=secure, httponly=True, samesite="strict")
    return response


@router.post("/sign-out")
def sign_out(visit: Reviewer) -> Response:
    """End the session."""
    close_session(visit.store, visit.session)
    response = visit.go("/sign-in")
    response.delete_cookie(COOKIE, path=ROOT, httponly=True, samesite="strict")
    return response


def _form(request: Request, wrong: str, back: str, status: int = 200, name: str = "") -> Response:
    return render(request, words_of(request), "sign_in.html.j2", status, wrong=wrong, back=back, name=name)
