"""The report's sections in their order: what both templates show, ready to print."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tamis import charts
from tamis.calibration import BINS
from tamis.charts import Axis, Series, Zone
from tamis.config import ReportConfig
from tamis.estimates import Estimate, Point
from tamis.judge.evaluate import STUDENT
from tamis.judge.metrics import FALSE_POSITIVE_RATES
from tamis.judge.result import Evaluation, ModelResult
from tamis.judge.tables import (
    ReportContext,
    Table,
    audit_tables,
    card_tables,
    mistakes_table,
    settings_table,
    speed_table,
)
from tamis.judge.verdict import chance, number, percent, signed, span
from tamis.judge.words import Words

LOWER_IS_BETTER = frozenset({"ece", "mae", "fpr_at_recall_0.95"})
ALL = (
    "macro_f1",
    "accuracy",
    "macro_precision",
    "macro_recall",
    "micro_f1",
    "worst_recall",
    "macro_auroc",
    "macro_average_precision",
    "risk_auroc",
    "risk_average_precision",
    "spearman",
    "kendall",
    "mae",
    "ece",
    "answered",
)
FIXED = [*(f"recall_at_fpr_{rate:g}" for rate in FALSE_POSITIVE_RATES), "fpr_at_recall_0.95"]
"""Rows of the tables; those an evaluation lacks are left out."""
QUALITY = ("macro_f1", "worst_recall", "score")
NOT_LOSSES = {*QUALITY, "step", "epoch", "above_floor", "rows", "seconds", "loss", "learning_rate"}
MISTAKES = 20
HIGH_RECALL = 0.9


@dataclass(frozen=True)
class Chart:
    """An SVG and what stands above it."""

    title: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A heading, sentences, charts with one legend (name, colour), tables, and text to copy."""

    key: str
    title: str
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    legend: tuple[tuple[str, int], ...] = ()
    tables: tuple[Table, ...] = ()
    code: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """What a section is made from."""

    evaluation: Evaluation
    context: ReportContext
    config: ReportConfig
    words: Words

    @property
    def legend(self) -> tuple[tuple[str, int], ...]:
        """Models and their colours."""
        return tuple((self.words.model(name), i) for i, name in enumerate(self.evaluation.models))

    def category(self, name: str) -> str:
        """A category's name in the report's language."""
        return self.words.category(self.evaluation.names, name)


def sections(page: Page) -> list[Section]:
    """All sections after the verdict, in the order of the report."""
    return [build(page) for build in SECTIONS]


def comparison_table(page: Page) -> Table | None:
    """The student against each other model; None without a comparison."""
    words, evaluation = page.words, page.evaluation
    if not evaluation.comparisons:
        return None
    rows = []
    for name, one in evaluation.comparisons.items():
        difference = f"{signed(one.difference.value)} ({span(one.difference, words, signed)})"
        kept = f"{percent(one.retention.value)} ({span(one.retention, words, percent)})"
        rows.append([words.model(name), difference, kept, chance(one.p_holm), words("no" if one.is_noise else "yes")])
    head = [words(f"compare_{key}") for key in ("against", "difference", "ratio", "p", "sure")]
    return Table(head, rows, note=words("compare_note", metric=words(f"metric_{evaluation.metric}")))


def _models(page: Page) -> Section:
    return Section("models", page.words("section_models"), (page.words("models_note"),), tables=(_figures(page, ALL),))


def _figures(page: Page, names: Sequence[str]) -> Table:
    """Figures by model, the best of each line bold."""
    words, models = page.words, page.evaluation.models
    rows: list[list[str]] = []
    best: set[tuple[int, int]] = set()
    for name in names:
        found = [model.metrics.get(name) for model in models.values()]
        if not any(found):
            continue
        best |= {(len(rows), j + 1) for j in best_of(name, found)}
        rows.append([words(f"metric_{name}"), *(estimate_cell(one, words) for one in found)])
    return Table([words("figure"), *(words.model(name) for name in models)], rows, bold=frozenset(best))


def best_of(figure: str, found: Sequence[Estimate | None]) -> set[int]:
    """Places of the best estimates of a figure, ties included."""
    known = [one.value for one in found if one and math.isfinite(one.value)]
    top = (min if figure in LOWER_IS_BETTER else max)(known, default=math.nan)
    return {i for i, one in enumerate(found) if one and _same(one.value, top)}


def _same(value: float, best: float) -> bool:
    """Equal as far as the table shows."""
    return abs(value - best) < 0.0005


def estimate_cell(one: Estimate | None, words: Words) -> str:
    """An estimate with its interval; a dash without one."""
    if one is None or math.isnan(one.value):
        return words("dash")
    return f"{number(one.value)} ({span(one, words)})"


def _classes(page: Page) -> Section:
    words, evaluation = page.words, page.evaluation
    title = words("section_classes")
    present = [name for name in evaluation.categories if evaluation.support.get(name)]
    if not present:
        return Section("classes", title, (words("no_figures"),))
    drawn = []
    for name in present:
        models = evaluation.models.items()
        rows = [(words.model(key), model.per_class[name]["f1"], i) for i, (key, model) in enumerate(models)]
        label = f"{page.category(name)} ({evaluation.support[name]:,})"
        drawn.append(Chart(label, charts.bars(label, rows)))
    tables = tuple(_class_table(page, name, present) for name in evaluation.models)
    return Section("classes", title, (words("classes_note"),), tuple(drawn), tables=tables)


def _class_table(page: Page, model: str, present: Sequence[str]) -> Table:
    words, result = page.words, page.evaluation.models[model]
    figures = ("precision", "recall", "f1", "auroc", "average_precision")
    rows = [
        [page.category(name), f"{page.evaluation.support[name]:,}"]
        + [estimate_cell(result.per_class[name][figure], words) for figure in figures]
        for name in present
    ]
    head = [words("class"), words("rows"), *(words(f"metric_{figure}") for figure in figures)]
    return Table(head, rows, title=words("classes_table", name=words.model(model)), folded=True)


def _confusion(page: Page) -> Section:
    words, evaluation = page.words, page.evaluation
    title, names = words("section_confusion"), [page.category(name) for name in evaluation.categories]
    drawn = []
    for key, model in evaluation.models.items():
        if model.confusion:
            svg = charts.heatmap(words.model(key), model.confusion, names, [*names, words("none")])
            drawn.append(Chart(words.model(key), svg))
    note = words("confusion_note", none=words("none")) if drawn else words("confusion_empty")
    return Section("confusion", title, (note if evaluation.support else words("no_figures"),), tuple(drawn))


def _risk(page: Page) -> Section:
    words, models = page.words, page.evaluation.models
    title = words("section_risk")
    if not any(model.roc for model in models.values()):
        return Section("risk", title, (words("risk_empty"),))
    roc = [Series(name, model.roc, i) for i, (name, model) in enumerate(models.items())]
    curve = [Series(name, model.precision_recall, i) for i, (name, model) in enumerate(models.items())]
    return Section("risk", title, (words("risk_note"),), risk_charts(roc, curve, words), page.legend)


def risk_charts(roc: Sequence[Series], precision_recall: Sequence[Series], words: Words) -> tuple[Chart, Chart]:
    """The two curves of finding harm, the zone of high recall shaded."""
    fpr, recall, precision = (Axis(words(f"axis_{key}")) for key in ("fpr", "recall", "precision"))
    return (
        _chart(words("roc"), roc, fpr, recall, Zone(bottom=HIGH_RECALL)),
        _chart(words("precision_recall"), precision_recall, recall, precision, Zone(left=HIGH_RECALL)),
    )


def _chart(title: str, series: Sequence[Series], x: Axis, y: Axis, zone: Zone | None = None, **more: bool) -> Chart:
    return Chart(title, charts.plot(title, series, x, y, zone, **more))


def _fixed_rate(page: Page) -> Section:
    words, evaluation = page.words, page.evaluation
    title = words("section_fixed_rate")
    table = _figures(page, FIXED)
    if not table.rows:
        return Section("fixed", title, (words("no_figures"),))
    notes, harmless = [words("fixed_note")], evaluation.support.get(evaluation.benign, 0)
    if harmless and 1 / harmless > min(FALSE_POSITIVE_RATES):
        notes.append(words("fixed_few", rows=f"{harmless:,}", step=percent(1 / harmless)))
    return Section("fixed", title, tuple(notes), tables=(table,))


def _calibration(page: Page) -> Section:
    words, models = page.words, page.evaluation.models
    title = words("section_calibration")
    series = [
        Series(name, [Point(b.confidence, b.accuracy) for b in model.reliability], i, _shares(model))
        for i, (name, model) in enumerate(models.items())
    ]
    if not any(one.points for one in series):
        return Section("calibration", title, (words("no_figures"),))
    x, y = Axis(words("axis_confidence")), Axis(words("axis_accuracy"))
    drawn = (_chart(title, series, x, y, diagonal=True),)
    note = words("calibration_note", bins=BINS)
    return Section("calibration", title, (note,), drawn, page.legend, (_figures(page, ["ece"]),))


def _shares(model: ModelResult) -> list[float]:
    """Share of the rows in each bin."""
    total = sum(one.rows for one in model.reliability)
    return [one.rows / total for one in model.reliability]


def _training(page: Page) -> Section:
    words, log = page.words, page.context.training_log
    title = words("section_training")
    if not log:
        return Section("training", title, (words("training_empty"),))
    losses = [key for key in dict.fromkeys(k for row in log for k in row) if key not in NOT_LOSSES]
    quality = [key for key in QUALITY if any(key in row for row in log)]
    steps = Axis(words("axis_step"), 0, charts.rounded_up(max(float(row["step"]) for row in log)))
    drawn = []
    if losses:
        curves = _curves(log, losses, 0)
        top = max((point.y for one in curves for point in one.points), default=1.0)
        drawn.append(_chart(words("training_loss"), curves, steps, Axis("", 0, charts.rounded_up(top))))
    if quality:
        curves = _curves(log, quality, len(losses))
        drawn.append(_chart(words("training_quality"), curves, steps, Axis("")))
    names = [*losses, *(words(f"training_{key}") for key in quality)]
    return Section("training", title, (), tuple(drawn), tuple((name, i) for i, name in enumerate(names)))


def _curves(log: Sequence[Mapping[str, Any]], keys: Sequence[str], first: int) -> list[Series]:
    made = []
    for i, key in enumerate(keys):
        points = [Point(float(row["step"]), float(row[key])) for row in log if _finite(row.get(key))]
        made.append(Series(key, points, first + i, dots=[0.02] * len(points)))
    return made


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _speed(page: Page) -> Section:
    table = speed_table(page.evaluation, page.words)
    note = page.words("speed_note" if table.rows else "speed_empty")
    return Section("speed", page.words("section_speed"), (note,), tables=(table,) if table.rows else ())


def _audit(page: Page) -> Section:
    words, audit = page.words, page.context.audit
    if not audit:
        return Section("audit", words("section_audit"), (words("audit_empty"),))
    notes = tuple(audit.get("warnings", ()))
    tables = tuple(audit_tables(audit, words, page.category))
    return Section("audit", words("section_audit"), notes, tables=tables)


def _card(page: Page) -> Section:
    words, card = page.words, page.context.data_card
    if not card:
        return Section("card", words("section_card"), (words("card_empty"),))
    absent = words("comma").join(map(page.category, card.get("classes_without_verdict", ())))
    notes = (words("card_absent", classes=absent),) if absent else ()
    tables = tuple(card_tables(card, words, page.category))
    return Section("card", words("section_card"), notes, tables=tables)


def _mistakes(page: Page) -> Section:
    words, models = page.words, page.evaluation.models
    title, name = words("section_mistakes"), STUDENT if STUDENT in models else next(iter(models), "")
    if not page.evaluation.support:
        return Section("mistakes", title, (words("no_figures"),))
    mistakes = models[name].mistakes
    if not mistakes:
        return Section("mistakes", title, (words("mistakes_none"),))
    shown = mistakes[:MISTAKES]
    told = {"count": len(mistakes), "rows": page.evaluation.rows, "name": words.model(name), "shown": len(shown)}
    hidden = () if page.config.show_texts else (words("mistakes_hidden"),)
    texts = page.context.texts if page.config.show_texts else None
    table = mistakes_table(shown, words, page.category, texts)
    return Section("mistakes", title, (words("mistakes_note", **told), *hidden), tables=(table,))


def _try(page: Page) -> Section:
    words, code = page.words, page.context.try_it
    return Section("try", words("section_try"), () if code else (words("try_empty"),), code=code)


def _settings(page: Page) -> Section:
    return settings_section(page.context.settings, page.words)


def settings_section(settings: Mapping[str, Any], words: Words) -> Section:
    """The settings, folded."""
    title = words("section_settings")
    if not settings:
        return Section("settings", title, (words("settings_empty"),))
    return Section("settings", title, tables=(settings_table(settings, words),), folded=True)


SECTIONS: tuple[Callable[[Page], Section], ...] = (
    _models,
    _classes,
    _confusion,
    _risk,
    _fixed_rate,
    _calibration,
    _training,
    _speed,
    _audit,
    _card,
    _mistakes,
    _try,
    _settings,
)
