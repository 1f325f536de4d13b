"""What the command line prints."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from tamis.config import RunConfig, UpdateConfig
from tamis.errors import DataError
from tamis.judge.result import Evaluation
from tamis.judge.words import load_words
from tamis.models import CATALOGUE, fetch
from tamis.policy import Language
from tamis.records import Decision

if TYPE_CHECKING:
    from tamis.decisions import Verified
    from tamis.judge.update.result import Succession
    from tamis.ship.monitor import Measure, Watched, Window
    from tamis.ship.next_reviews import Picked

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


def show_pinned(window: Window) -> None:
    """Say what is the reference now."""
    Console(soft_wrap=True).print(
        f"pinned as the reference: {window.rows} decisions from {_day(window.since)} to {_day(window.until)}"
    )


def show_watched(found: Watched, language: Language) -> None:
    """Print what a look found: a table of measures, then the alarms and what to do about each."""
    from tamis.ship.monitor import words

    told, console = words(language), Console()
    table, names = told["table"], told["names"]
    title = table["title"].format(
        since=_day(found.current.since),
        until=_day(found.current.until),
        rows=found.current.rows,
        reference_rows=found.reference.rows,
        reference_since=_day(found.reference.since),
        reference_until=_day(found.reference.until),
    )
    grid = Table(*(table[name] for name in ("measure", "group", "value", "rows", "limit")), title=title)
    standing = {alarm.key for alarm in found.alarms}
    for one in found.measures:
        style = "red" if one.key in standing else None
        grid.add_row(
            names[one.name], _group(one, told), _value(one, table), str(one.rows), _limit(one, table), style=style
        )
    console.print(grid)
    for week in found.weeks:
        told_week = table["week"].format(week=week.group["week"], value=f"{week.value:.3f}", rows=week.rows)
        console.print(told_week, soft_wrap=True)
    measured = {one.key: one for one in found.measures}
    for alarm in found.alarms:
        key = "alarm" if alarm.key in measured else "gone"
        what = f"{names[alarm.name]}: {_group(measured[alarm.key], told)}" if key == "alarm" else alarm.key
        console.print(table[key].format(since=alarm.since[:16], what=what), style="red", soft_wrap=True)
        console.print(table["next"].format(step=told["steps"][alarm.name]), soft_wrap=True)
    if not found.alarms:
        console.print(table["calm"])


def _group(one: Measure, told: Mapping[str, Any]) -> str:
    return ", ".join(told["marks"].get(value, value) for value in one.group.values()) or told["table"]["all"]


def _value(one: Measure, table: Mapping[str, str]) -> str:
    if one.low is None or one.high is None:
        return f"{one.value:.3f}"
    return table["interval"].format(value=f"{one.value:.4f}", low=f"{one.low:.4f}", high=f"{one.high:.4f}")


def _limit(one: Measure, table: Mapping[str, str]) -> str:
    """What the value is held against; a growth where it is one."""
    if one.limit is None:
        return ""
    return f"{one.limit:.3f}" if one.tested == one.value else table["growth"].format(limit=f"{one.limit:.3f}")


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def show_picked(found: Picked, queued: int) -> None:
    """Print how many texts were queued, chosen of how many, and what the model takes them for."""
    counts = ", ".join(f"{name} {count}" for name, count in Counter(found.categories).most_common())
    told = f"{queued} texts queued, chosen of {found.candidates:,}; the model takes them for: {counts}"
    Console().print(told, soft_wrap=True, highlight=False)


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
