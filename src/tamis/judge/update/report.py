"""Tell the comparison: may the candidate follow, what the rows can and cannot show, and what was missed and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tamis.config import ReportConfig
from tamis.judge.report import write_pages
from tamis.judge.sections import Section, settings_section
from tamis.judge.tables import Table
from tamis.judge.update.result import Change, Missed, Outcome, Succession, Suite
from tamis.judge.verdict import Finding, Verdict, number, percent, signed
from tamis.judge.words import Words, load_words


def write_succession(
    found: Succession, name: str, settings: Mapping[str, Any], out: Path, config: ReportConfig
) -> Path:
    """Write `report.html`, `report.md` and `metrics.json` to the folder `out`; returns the page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    words = load_words(config.language)
    told = {"policy": found.policy, "old": found.old, "new": found.new, "bootstrap": f"{found.bootstrap:,}"}
    values = {
        "words": words,
        "title": words("update_title", run=name),
        "subtitle": words("update_subtitle", confidence=percent(found.confidence), **told),
        "verdict": verdict(found, words),
        "comparison": None,
        "sections": [
            _suites(found, words),
            _tests(found, words),
            _diagnosis(found, words),
            settings_section(settings, words),
        ],
    }
    return write_pages(values, found.to_json(), out)


def verdict(found: Succession, words: Words) -> Verdict:
    """Promote or refuse, every reason, and how far the rows reach."""
    refused = bool(found.refusals)
    key = "refuse" if refused else "promote"
    headline = words(f"update_headline_{key}", tolerance=number(found.tolerance))
    findings = (*_refusals(found, words), *_new(found, words), *_reach(found, words))
    return Verdict("bad" if refused else "good", headline, findings)


def _refusals(found: Succession, words: Words) -> Iterator[Finding]:
    keys = {"fell": "update_fell", "short": "update_short", "open": "update_refused_open"}
    for suite, name, change in found.refusals:
        told = {
            "suite": _called(suite, words),
            "category": words.category(found.names, name),
            "rows": change.rows,
            "before": number(change.before),
            "after": number(change.after),
            "least": number(-change.high),
            "fall": number(change.possible_fall),
            "wanted": number(found.new_f1 if found.new_f1 is not None else math.nan),
            "tolerance": number(found.tolerance),
        }
        yield Finding("bad", words(keys[change.outcome], **told))


def _new(found: Succession, words: Words) -> Iterator[Finding]:
    for suite, name, change in found.having("new"):
        told = {"suite": _called(suite, words), "category": words.category(found.names, name), "rows": change.rows}
        yield Finding("plain", words("update_new", **told, after=number(change.after)))
    measured = {name for suite, name, _ in found.having("new", "short") if suite.kind == "reviewed"}
    for name in found.added:
        if name not in measured:
            yield Finding("fair", words("update_new_untested", category=words.category(found.names, name)))


def _reach(found: Succession, words: Words) -> Iterator[Finding]:
    """What the rows show, and what they cannot."""
    told = {"tolerance": number(found.tolerance), "needed": needed(found.tolerance, found.confidence)}
    held, unsure = _named(found, "held", words), _named(found, "open", words)
    yield (
        Finding("good", words("update_held", classes=held, **told))
        if held
        else Finding("fair", words("update_held_none", **told))
    )
    if unsure and not found.strict:
        yield Finding("fair", words("update_open", classes=unsure, **told))


def needed(tolerance: float, confidence: float) -> str:
    """Texts of a class from which an unchanged one is shown to have held: log(1 - confidence) / log(1 - tolerance)."""
    return f"{math.ceil(math.log(1 - confidence) / math.log1p(-tolerance)):,}" if tolerance else "∞"


def _named(found: Succession, outcome: Outcome, words: Words) -> str:
    names = [
        words("update_in_suite", category=words.category(found.names, name), suite=_called(suite, words))
        for suite, name, _ in found.having(outcome)
    ]
    return words("comma").join(names)


def _called(suite: Suite, words: Words) -> str:
    return suite.name if suite.kind == "frozen" else words(f"update_suite_{suite.kind}")


def _suites(found: Succession, words: Words) -> Section:
    note = words("update_suites_note", tolerance=number(found.tolerance))
    tables = tuple(suite_table(suite, found, words) for suite in found.suites)
    return Section("suites", words("update_suites"), notes=(note,), tables=tables)


def suite_table(suite: Suite, found: Succession, words: Words) -> Table:
    """One set by class."""
    figure = words("update_figure_recall" if suite.kind == "functional" else "metric_f1")
    head = ["class", "rows", *(f"update_{key}" for key in ("before", "after", "change", "possible", "outcome"))]
    return Table(
        [words(key) for key in head],
        [_row(words.category(found.names, name), change, words) for name, change in suite.changes.items()],
        title=words("update_suite", name=_called(suite, words), rows=f"{suite.rows:,}", figure=figure),
        bold=frozenset((row, 6) for row, one in enumerate(suite.changes.values()) if one.outcome in ("fell", "short")),
    )


def _row(name: str, change: Change, words: Words) -> list[str]:
    span = {"low": signed(change.low), "high": signed(change.high)}
    is_new = change.outcome in ("new", "short")
    return [
        name,
        f"{change.rows:,}",
        words("dash") if is_new else number(change.before),
        number(change.after),
        words("dash") if is_new else words("update_change_cell", change=signed(change.after - change.before), **span),
        words("dash") if is_new else number(change.possible_fall),
        words(f"update_outcome_{change.outcome}"),
    ]


def _tests(found: Succession, words: Words) -> Section:
    if not found.tests:
        return Section("tests", words("update_tests"), notes=(words("update_tests_empty"),))
    rows = [
        [
            one.about.get(words.language, name),
            words.category(found.names, one.category),
            str(one.cases),
            str(one.before),
            str(one.after),
        ]
        for name, one in found.tests.items()
    ]
    head = [words(key) for key in ("update_test", "class", "update_cases", "update_before", "update_after")]
    worse = {(row, 4) for row, one in enumerate(found.tests.values()) if one.after < one.before}
    return Section(
        "tests", words("update_tests"), tables=(Table(head, rows, bold=frozenset(worse), prose=frozenset({1})),)
    )


def _diagnosis(found: Succession, words: Words) -> Section:
    missed = {name: one for name, one in found.missed.items() if one.missed}
    if not missed:
        return Section("diagnosis", words("update_diagnosis"), notes=(words("update_diagnosis_empty"),))
    notes = ("update_diagnosis_note", "update_diagnosis_selected")
    advice = tuple(advised(words.category(found.names, name), one, words) for name, one in missed.items())
    rows = [_missed_row(words.category(found.names, name), one, words) for name, one in missed.items()]
    head = ["class", "rows", *(f"update_{key}" for key in ("missed", "shared", "alone", "mended"))]
    table = Table([words(key) for key in head], rows)
    return Section("diagnosis", words("update_diagnosis"), notes=(*map(words, notes), *advice), tables=(table,))


def advised(category: str, missed: Missed, words: Words) -> str:
    """What to do about the misses of a category, in a sentence."""
    answered = missed.shared + missed.alone
    key = "new_teacher" if missed.advice == "new" and missed.shared else missed.advice
    told = {"rows": missed.rows, "missed": missed.missed, "shared": missed.shared, "alone": missed.alone}
    return words(f"update_advice_{key}", category=category, answered=answered, **told)


def _missed_row(name: str, one: Missed, words: Words) -> list[str]:
    answered = one.shared + one.alone
    cells = (one.missed, one.rows), (one.shared, answered), (one.alone, answered), (one.mended, one.tested)
    told = (words("update_share_of", part=part, whole=whole) if whole else words("dash") for part, whole in cells)
    return [name, f"{one.rows:,}", *told]
