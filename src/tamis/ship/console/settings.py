"""How a person likes to work: language, colours, covered texts, shortcuts, password."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from tamis.ship.console.page import ROOT, Reviewer
from tamis.ship.console.users import SHORTEST, check_password, prefer, set_password
from tamis.ship.console.words import LANGUAGES

THEMES = ("light", "dark")
router = APIRouter()


@router.get("")
def show(visit: Reviewer) -> Response:
    """The settings of who is signed in."""
    return visit.page("settings.html.j2", languages=LANGUAGES, themes=THEMES, shortest=SHORTEST)


@router.post("")
def change(visit: Reviewer) -> Response:
    """Change those that the form has, and go back to where it stood."""
    changed: dict[str, str | bool] = {}
    if visit.field("language") in ("", *LANGUAGES) and "language" in visit.form:
        changed["language"] = visit.field("language")
    if visit.field("theme") in ("", *THEMES) and "theme" in visit.form:
        changed["theme"] = visit.field("theme")
    changed |= {name: visit.field(name) == "on" for name in ("blur", "shortcuts") if name in visit.form}
    if changed:
        prefer(visit.store, visit.user.name, **changed)
    back = visit.field("back")
    return visit.go(back.removeprefix(ROOT) if back.startswith(f"{ROOT}/") else "/settings", "settings_saved")


@router.post("/password")
def password(visit: Reviewer) -> Response:
    """Change the password; all sessions of the person end, this one too."""
    if check_password(visit.store, visit.user.name, visit.field("old")) is None:
        return visit.go("/settings", "settings_wrong_password")
    set_password(visit.store, visit.user.name, visit.field("new"))
    return visit.go("/sign-in")
