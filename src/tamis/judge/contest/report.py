"""Write the report of a contest: the page, the same in Markdown, and every figure as JSON."""

from __future__ import annotations

from pathlib import Path

from tamis.config import ReportConfig
from tamis.judge.contest.result import Contest
from tamis.judge.contest.sections import ContestContext, ContestPage, sections
from tamis.judge.contest.verdict import verdict
from tamis.judge.report import write_pages
from tamis.judge.words import load_words

__all__ = ["ContestContext", "write_contest"]


def write_contest(contest: Contest, context: ContestContext, out: Path, config: ReportConfig) -> Path:
    """Write `report.html`, `report.md` and `metrics.json` to the folder `out`; returns the page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    words = load_words(config.language)
    told = {"rows": f"{contest.rows:,}", "policy": contest.policy, "bootstrap": f"{contest.bootstrap:,}"}
    values = {
        "words": words,
        "title": words("contest_title", run=context.name),
        "subtitle": words("contest_subtitle", split=words(f"split_{contest.split}"), **told),
        "verdict": verdict(contest, words),
        "comparison": None,
        "sections": sections(ContestPage(contest, context, config, words)),
    }
    return write_pages(values, contest.to_json(), out)
