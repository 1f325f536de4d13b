"""Write the report: one page of HTML that needs nothing else, the same in Markdown, and every figure as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tamis.charts import STYLE
from tamis.config import ReportConfig
from tamis.errors import need
from tamis.judge.result import Evaluation
from tamis.judge.sections import Page, comparison_table, sections
from tamis.judge.tables import ReportContext
from tamis.judge.verdict import verdict
from tamis.judge.words import load_words

__all__ = ["ReportContext", "write_report"]


def write_report(evaluation: Evaluation, context: ReportContext, out: Path, config: ReportConfig) -> Path:
    """Write `report.html`, `report.md` and `metrics.json` to the folder `out`; returns the page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    words = load_words(config.language)
    page = Page(evaluation, context, config, words)
    told = {"rows": f"{evaluation.rows:,}", "policy": evaluation.policy, "bootstrap": f"{evaluation.bootstrap:,}"}
    values = {
        "words": words,
        "title": words("title", run=context.name),
        "subtitle": words("subtitle", split=words(f"split_{evaluation.split}"), **told),
        "verdict": verdict(evaluation, words),
        "comparison": comparison_table(page),
        "sections": sections(page),
    }
    return write_pages(values, evaluation.to_json(), out)


def write_pages(values: Mapping[str, Any], figures: Mapping[str, Any], out: Path) -> Path:
    """Fill both templates with `values`, and write them and the figures to the folder `out`; returns the page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "report.md"):
        (out / name).write_text(_rendered(f"{name}.j2", values), encoding="utf-8")
    written = json.dumps(figures, ensure_ascii=False, indent=1, allow_nan=False)
    (out / "metrics.json").write_text(written + "\n", encoding="utf-8")
    return out / "report.html"


def _rendered(template: str, values: Mapping[str, Any]) -> str:
    jinja = need("jinja2", "train")
    environment = jinja.Environment(
        loader=jinja.PackageLoader("tamis.judge"),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = markdown_cell
    text: str = environment.get_template(template).render({"chart_style": STYLE} | dict(values))
    # Markdown needs no escaped quotes, and is read as it is in a terminal.
    return text.replace("&#39;", "'").replace("&#34;", '"') if template.endswith(".md.j2") else text


def markdown_cell(text: str) -> str:
    """A text that stays inside one cell of a Markdown table and is no markup; HTML is escaped by the template."""
    flat = " ".join(text.split())
    for mark in "\\|`*_[]":
        flat = flat.replace(mark, f"\\{mark}")
    return flat
