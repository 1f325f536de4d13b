"""decision."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from tamis.ship.console.page import Reviewer

router = APIRouter()


@router.get("")
def show(visit: Reviewer) -> Response:
    """The page."""
    return visit.page("stop.html.j2", code=200, why="soon")
