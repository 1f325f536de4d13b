"""Which pages there are: the routes of each, and its place in the navigation.

To add one: write `NAME.py` with a `router` whose functions take a `Reviewer`, `Lead` or `Admin` (page.py) and return
`visit.page("NAME.html.j2", ...)` or, after a POST, `visit.go("/NAME", said="NAME_done")`; a template
`templates/NAME.html.j2` that extends `base.html.j2`; its texts in both languages, `nav_NAME` among them, in
`texts/NAME.yaml`; and a line in `PAGES`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter

from tamis.ship.console import bulk, dashboard, decision, models, quality, queue, settings, thresholds
from tamis.ship.console.users import Role


@dataclass(frozen=True)
class Page:
    """A page at `/console/NAME`; `role` is the least that sees it in the navigation."""

    router: APIRouter
    role: Role = "reviewer"


PAGES: dict[str, Page] = {
    "queue": Page(queue.router),
    "decisions": Page(decision.router),
    "dashboard": Page(dashboard.router),
    "quality": Page(quality.router, "lead"),
    "bulk": Page(bulk.router, "lead"),
    "thresholds": Page(thresholds.router, "lead"),
    "models": Page(models.router, "lead"),
    "settings": Page(settings.router),
}
"""By name, in the order of the navigation."""
