"""What the command line prints."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from tamis.models import CATALOGUE, fetch
from tamis.records import Decision

COLOURS = {"pass": "green", "review": "yellow", "block": "red"}
log = logging.getLogger(__name__)


def show_decisions(texts: Sequence[str], decisions: Sequence[Decision], as_json: bool) -> None:
    """Print decisions as a table, or one JSON object a line without the texts."""
    if as_json:
        for decision in decisions:
            sys.stdout.write(json.dumps(_plain(decision), ensure_ascii=False) + "\n")
        return
    table = Table("action", "category", "risk", "text")
    for text, decision in zip(texts, decisions, strict=True):
        action = Text(decision.action, style=COLOURS[decision.action])
        # Text, not markup: what is judged must not be able to format the table.
        table.add_row(action, decision.category, f"{decision.risk:.3f}", Text(text[:200]))
    Console().print(table)


def fetch_with_progress(name: str) -> None:
    """Fetch a catalogue model with a bar of its parts and say where it is."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"fetching {name}", total=len(CATALOGUE[name].packages) if name in CATALOGUE else None)
        path = fetch(name, lambda done, total: bar.update(task, completed=done, total=total))
    log.info("%s: %s", name, path)


def _plain(decision: Decision) -> dict[str, object]:
    return {
        "id": decision.id,
        "action": decision.action,
        "category": decision.category,
        "risk": decision.risk,
        "probabilities": dict(decision.probabilities),
        "versions": dict(decision.versions),
    }
