"""What the command line prints."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from tamis.config import RunConfig, UpdateConfig
from tamis.errors import DataError
from tamis.judge.result import Evaluation
from tamis.judge.words import load_words
from tamis.models import CATALOGUE, fetch
from tamis.records import Decision

if TYPE_CHECKING:
    from tamis.decisions import Verified
    from tamis.judge.update.result import Succession

TRY = "日入上千，有手机就能做，私我带你"
COLOURS = {"pass": "green", "review": "yellow", "block": "red"}
log = logging.getLogger(__name__)


def announce(config: RunConfig, until: str) -> None:
    """Say what a run will do before it does it."""
    named = config.teacher.members if config.teacher.kind == "ensemble" else (config.teacher,)
    teacher = " and ".join("none" if one.kind == "none" else f"{one.kind} {one.model}" for one in named)
    log.info(
        "%s up to %s: teacher %s, student %s, folder %s", config.name, until, teacher, config.student.model, config.out
    )
    if config.about:
        log.info("%s", config.about)


def conclude(config: RunConfig, made: Path) -> None:
    """Say what came of a run, where its report is and how to try the model."""
    out = Path(config.out)
    metrics = out / "evaluate" / "evaluation.json"
    if made.name in {"evaluate", "report", "bundle"} and metrics.is_file():
        _show_models(Evaluation.from_json(json.loads(metrics.read_text(encoding="utf-8"))))
    if made.name in {"report", "bundle"}:
        log.info("report: %s", out / "report" / "report.html")
    if made.name == "bundle":
        log.info('try it: tamis moderate --bundle %s "%s"', out / "bundle", TRY)
    log.info("done: %s", made)


def announce_update(config: UpdateConfig) -> None:
    """Say what an update will do before it does it."""
    log.info("%s: the model after %s, folder %s", config.name, config.bundle, config.out)
    if config.about:
        log.info("%s", config.about)


def conclude_update(config: UpdateConfig, found: Succession) -> None:
    """Say class by class what became of the running model's judgement, and how the candidate is put in its place.

    Raises:
        PromotionError: the candidate may not follow.
    """
    from tamis.judge.update.report import suite_table, verdict
    from tamis.judge.update.result import require

    words = load_words("en")
    for suite in found.suites:
        told = suite_table(suite, found, words)
        table = Table(*told.head, title=told.title)
        for row in told.rows:
            table.add_row(*row)
        Console().print(table)
    for finding in verdict(found, words).findings:
        log.info("%s", finding.text)
    candidate = Path(config.out) / "bundle"
    require(found, candidate)
    log.info("promote it: tamis promote %s --to LINK", candidate)


def _show_models(evaluation: Evaluation) -> None:
    metric = load_words("en")(f"metric_{evaluation.metric}")
    table = Table("model", metric, "95 % interval", title=f"{evaluation.rows} test rows judged by people")
    for name, model in evaluation.models.items():
        figure = model.metrics[evaluation.metric]
        table.add_row(name, f"{figure.value:.3f}", f"{figure.low:.3f} to {figure.high:.3f}")
    Console().print(table)
    against = evaluation.comparisons.get("teacher")
    if against:
        kept = against.retention
        told = (100 * share for share in (kept.value, kept.low, kept.high))
        log.info("the student keeps %.1f %% of the teacher (%.1f to %.1f)", *told)


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


def show_verified(found: Verified) -> None:
    """Say that the decision log holds, with what to write down; or where it does not.

    Raises:
        DataError: it does not.
    """
    if found.broken:
        raise DataError(
            f"the decision log does not hold, {found.rows} rows before do; {found.broken}:"
            " keep this database as evidence and restore a backup"
        )
    Console(soft_wrap=True).print(
        f"{found.rows} decisions hold, {found.forgotten} of them forgotten; head {found.head}"
    )


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
        "reasons": list(decision.reasons),
        "versions": dict(decision.versions),
    }
