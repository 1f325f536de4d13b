"""The sections of a contest's report in their order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tamis import charts
from tamis.charts import Axis, Series
from tamis.config import ReportConfig
from tamis.estimates import Point
from tamis.judge.contest.result import METRIC, Contest, confusion_changes
from tamis.judge.contest.tables import (
    confused_table,
    cost_table,
    disagreements_table,
    failed_table,
    figures_table,
    others_table,
    ranks_table,
    size_table,
    standings_table,
    wrong_table,
)
from tamis.judge.sections import MISTAKES, Chart, Section, risk_charts, settings_section
from tamis.judge.tables import quantity
from tamis.judge.verdict import is_linear
from tamis.judge.words import Words

CONFUSED = 10
BEST, TEACHER, AGAINST, LINEAR, OTHER = 0, 1, 2, 3, 5
"""Colours by part."""


@dataclass(frozen=True)
class ContestContext:
    """What a report tells besides the contest; everything but the name may be empty.

    Args:
        name: of the experiment.
        settings: the recipe, nested.
        texts: by example id, for the rows that are wrong; shown only with `report.show_texts`.
        spent_seconds: that all runs took together, sharing what they could.
        alone_seconds: that the same runs would have taken one by one.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    spent_seconds: float | None = None
    alone_seconds: float | None = None


@dataclass(frozen=True)
class ContestPage:
    """What a section is made from."""

    contest: Contest
    context: ContestContext
    config: ReportConfig
    words: Words

    @property
    def drawn(self) -> list[str]:
        """The models of the matrices: the common rival, the best variant, the teacher, as far as they ran."""
        contest = self.contest
        names = dict.fromkeys((contest.against, contest.best, contest.teacher))
        return [name for name in names if name is not None and name in contest.ran]

    def category(self, name: str) -> str:
        """A category's name in the report's language."""
        return self.words.category(self.contest.names, name)

    def colour(self, name: str) -> int:
        """The colour of a model's part; variants without one are grey."""
        parts = {self.contest.against: AGAINST, self.contest.teacher: TEACHER, self.contest.best: BEST}
        return parts.get(name, LINEAR if is_linear(name) else OTHER)


def sections(page: ContestPage) -> list[Section]:
    """All sections after the verdict, in the order of the report."""
    return [build(page) for build in SECTIONS]


def _models(page: ContestPage) -> Section:
    contest, words = page.contest, page.words
    found = (
        standings_table(contest, words),
        failed_table(contest, words),
        others_table(contest, words),
        figures_table(contest, words),
    )
    notes = (words("contest_models_note"), words("contest_tests_note", resamples=f"{contest.resamples:,}"))
    return Section("models", words("section_models"), notes, tables=tuple(table for table in found if table))


def _classes(page: ContestPage) -> Section:
    contest, words = page.contest, page.words
    drawn = []
    for name in (one for one in contest.categories if contest.support.get(one)):
        rows = [(words.model(n), one.per_class[name]["f1"], page.colour(n)) for n, one in contest.ran.items()]
        label = f"{page.category(name)} ({contest.support[name]:,})"
        drawn.append(Chart(label, charts.bars(label, rows)))
    notes = (words("classes_note"), words("contest_colours"))
    return Section("classes", words("section_classes"), notes, tuple(drawn))


def _risk(page: ContestPage) -> Section:
    contest, words = page.contest, page.words
    title = words("section_risk")
    names = [name for name in page.drawn if any(contest.standings[name].roc)]
    if not names:
        return Section("risk", title, (words("risk_empty"),))
    shown = [(name, contest.standings[name], page.colour(name)) for name in names]
    roc = [Series(name, curve, colour) for name, one, colour in shown for curve in one.roc]
    curves = [Series(name, curve, colour) for name, one, colour in shown for curve in one.precision_recall]
    legend = tuple((words.model(name), colour) for name, _, colour in shown)
    notes = (words("risk_note"), words("contest_risk_note"))
    return Section("risk", title, notes, risk_charts(roc, curves, words), legend)


def _confusion(page: ContestPage) -> Section:
    contest, words = page.contest, page.words
    title, names = words("section_confusion"), [page.category(name) for name in contest.categories]
    if contest.kind == "multi_label":
        return Section("confusion", title, (words("confusion_empty"),))
    drawn = []
    for name in page.drawn:
        svg = charts.heatmap(words.model(name), contest.standings[name].mean_confusion, names, [*names, words("none")])
        drawn.append(Chart(words.model(name), svg))
    notes = (words("confusion_note", none=words("none")), words("contest_confusion_note"))
    return replace(_confused(page), title=title, notes=notes, charts=tuple(drawn))


def _confused(page: ContestPage) -> Section:
    """The mistakes that the best variant makes more or less often than the common rival."""
    contest, words = page.contest, page.words
    section = Section("confusion", "")
    if contest.best in (None, contest.against) or contest.against not in contest.ran:
        return section
    standings = contest.standings
    changes = confusion_changes(standings[contest.against], standings[str(contest.best)], contest.categories)[:CONFUSED]
    told = {"against": words.model(contest.against), "best": words.model(str(contest.best))}
    table = replace(confused_table(changes, words, page.category), title=words("contest_confused", **told))
    return replace(section, tables=(table,)) if changes else section


def _ranks(page: ContestPage) -> Section:
    contest, words, ranks = page.contest, page.words, page.contest.ranks
    title = words("contest_ranks")
    if ranks is None:
        return Section("ranks", title, (words("contest_ranks_empty"),))
    found = [contest.value(name) for name in ranks.names]
    points = [Point(i, one.value) for i, one in enumerate(found)]
    shown = {name: quantity(float(contest.standings[name].facts["rank"])) for name in ranks.names}
    low = max(0.0, math.floor(min(one.low for one in found) * 5) / 5)
    x = Axis(words("fact_rank"), 0, len(points) - 1, tuple(shown.values()))
    y = Axis(words(f"metric_{METRIC}"), low)
    curve = Series(title, points, BEST, dots=[float(name == ranks.knee) for name in ranks.names], spans=found)
    chart = Chart(words("contest_ranks_chart"), charts.plot(title, [curve], x, y))
    key = "contest_knee_first" if ranks.knee == ranks.names[0] else "contest_knee"
    notes = (words(key, knee=shown[ranks.knee], peak=shown[ranks.peak]), words("contest_ranks_note"))
    return Section("ranks", title, notes, (chart,), tables=(ranks_table(contest, ranks.names, words),))


def _cost(page: ContestPage) -> Section:
    table = cost_table(page.contest, page.words)
    tables = (table,) if table.rows else ()
    return Section(
        "cost", page.words("contest_cost"), () if tables else (page.words("contest_cost_empty"),), tables=tables
    )


def _size(page: ContestPage) -> Section:
    table = size_table(page.contest, page.words)
    note = page.words("speed_note" if table.rows else "speed_empty")
    return Section("speed", page.words("section_speed"), (note,), tables=(table,) if table.rows else ())


def _wrong(page: ContestPage) -> Section:
    contest, words, config = page.contest, page.words, page.config
    title = words("contest_wrong_title")
    if contest.best is None or contest.teacher in (None, contest.best):
        return Section("wrong", title, (words("contest_wrong_empty"),))
    heads = [words("contest_said", name=words.model(name)) for name in (contest.best, str(contest.teacher))]
    texts = page.context.texts if config.show_texts else None
    tables = []
    for key in ("both", "student", "teacher"):
        rows = [one for one in contest.disagreements if one.wrong == key][:MISTAKES]
        table = disagreements_table(rows, [words("mistake_truth"), *heads], words, page.category, texts)
        if rows:
            tables.append(replace(table, title=words(f"contest_wrong_{key}"), folded=True))
    notes = (words("contest_wrong_note", shown=MISTAKES), *(() if config.show_texts else (words("mistakes_hidden"),)))
    return Section("wrong", title, notes, tables=(wrong_table(contest, words), *tables))


def _sharing(page: ContestPage) -> Section:
    words, context = page.words, page.context
    title, spent, alone = words("contest_sharing"), context.spent_seconds, context.alone_seconds
    if not spent or not alone:
        return Section("sharing", title, (words("contest_sharing_empty"),))
    told = {"spent": duration(spent, words), "alone": duration(alone, words), "times": f"{alone / spent:.1f}"}
    return Section("sharing", title, (words("contest_sharing_note", **told),))


def duration(seconds: float, words: Words) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    unit, size = next((one for one in _UNITS if seconds >= 2 * one[1]), _UNITS[-1])
    return words(f"contest_{unit}", count=quantity(seconds / size))


def _settings(page: ContestPage) -> Section:
    return settings_section(page.context.settings, page.words)


_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))

SECTIONS: tuple[Callable[[ContestPage], Section], ...] = (
    _models,
    _classes,
    _risk,
    _confusion,
    _ranks,
    _cost,
    _size,
    _wrong,
    _sharing,
    _settings,
)
