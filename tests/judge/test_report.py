from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from tamis import charts
from tamis.charts import Axis, Series
from tamis.config import EvaluateConfig, ReportConfig
from tamis.estimates import Estimate, Point
from tamis.judge.baselines import NAMES
from tamis.judge.evaluate import evaluate
from tamis.judge.report import ReportContext, markdown_cell, write_report
from tamis.judge.result import Comparison, Evaluation
from tamis.judge.verdict import linear_models, verdict
from tamis.judge.words import load_words
from tamis.policy import Language, Policy
from tamis.records import Example, Scorer, Scores, TestSplit

LANGUAGES: tuple[Language, ...] = ("en", "zh")
EVIL = "<script>alert('x')</script> | `code` <img src=https://example.org/x.png onerror=alert(1)>"
QUICK = EvaluateConfig(bootstrap=100)


class Page(HTMLParser):
    """Collects elements, their attributes, and the text of headings, table heads, captions and summaries."""

    NAMED = ("title", "h1", "h2", "h3", "th", "figcaption", "summary")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.NAMED:
            self._open.append("")

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in self.NAMED:
            self.headings.append(self._open.pop())


@pytest.fixture(scope="module")
def context(evaluation: Evaluation, examples: tuple[Example, ...]) -> ReportContext:
    counts = {name: 48 for name in evaluation.categories}
    split = {
        "rows": 144,
        "gold": 144,
        "class": counts,
        "source": {EVIL: 144},
        "language": {"zh": 144},
        "length": {"1-10": 9},
    }
    return ReportContext(
        name="r1",
        data_card={
            "splits": {"train": split, "test": split},
            "counts": {"read": 300, "exact_duplicates": 12},
            "rejected": {EVIL: 2},
            "classes_without_verdict": ["fraud"],
        },
        audit={
            "rows": 40,
            "macro_f1": 0.8,
            "linear_macro_f1": None,
            "agreement": {"same": None},
            "outcomes": {"ok": 38, "refused": 2},
            "methods": {"logprobs": 40},
            "per_class": {"fraud": {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "rows": 10, "refused": 2}},
            "warnings": [EVIL],
        },
        training_log=[
            {"step": step, "epoch": step / 10, "kl": 1 / step, "macro_f1": 0.5 + step / 100, "worst_recall": 0.4}
            for step in (10, 20, 30)
        ],
        settings={"student": {"model": "qwen", "lora": {"rank": 8}}, "evil": EVIL},
        try_it="tamis try 'x'",
        texts={example.id: f"{example.text} {EVIL}" for example in examples},
    )


def written(evaluation: Evaluation, context: ReportContext, out: Path, **config: Any) -> tuple[str, str]:
    page = write_report(evaluation, context, out, ReportConfig(**config))
    return page.read_text(encoding="utf-8"), (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_in_a_text_becomes_markup(
    language: Language, evaluation: Evaluation, context: ReportContext, tmp_path: Path
) -> None:
    html, markdown = written(evaluation, context, tmp_path, language=language, show_texts=True)
    tags = {tag for tag, _ in Page(html).tags}
    assert tags.isdisjoint({"script", "img"})
    assert html.count("&lt;script&gt;") > 3
    assert "<script" not in markdown
    assert "<img" not in markdown


def test_the_text_can_be_read_as_it_is(evaluation: Evaluation, context: ReportContext, tmp_path: Path) -> None:
    quoted = replace(context, name='the "first" one', try_it='tamis moderate --bundle "runs/a&b" "<text>"')
    html, markdown = written(evaluation, quoted, tmp_path, language="en", show_texts=True)
    for escaped in ("&#39;", "&#34;"):
        assert escaped in html
        assert escaped not in markdown
    assert f"    {quoted.try_it}" in markdown.splitlines()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_needs_nothing_else(
    language: Language, evaluation: Evaluation, context: ReportContext, tmp_path: Path
) -> None:
    html, _ = written(evaluation, context, tmp_path, language=language)
    page = Page(html)
    assert len(page.tags) > 200
    for tag, attributes in page.tags:
        assert tag not in ("link", "script", "iframe", "img", "object", "use")
        assert not {"src", "href", "srcset", "xlink:href"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\(|@import|@font-face", html)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_teachers_of_an_ensemble_are_told_apart(
    language: Language, evaluation: Evaluation, context: ReportContext, tmp_path: Path
) -> None:
    first = {"name": "openai:big@1", "rows": 40, "macro_f1": 0.6125, "outcomes": {"refused": 10}, "reliability": 0.51}
    members = [first | {"tokens": 1234, "cost": 0.25}, {"name": "gguf:small@2", "rows": 0, "reliability": 0.0}]
    members[1] |= {"tokens": 0, "cost": 0.0}
    pair = {"members": ["openai:big@1", "gguf:small@2"], "kappa": None, "rows": 0}
    added = {"combine": "fallback", "disagreement": 0.125, "members": members, "kappa": [pair]}
    context = replace(context, audit={**(context.audit or {}), **added})
    _, markdown = written(evaluation, context, tmp_path, language=language)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    assert ["openai:big@1", "40", "0.613", "25.0 %", "0.510", "1,234", "0.25"] in lines
    assert ["gguf:small@2", "0", "–", "–", "0.000", "0", "0"] in lines
    assert ["openai:big@1", "gguf:small@2", "–", "0"] in lines
    assert [load_words(language)("audit_combine"), load_words(language)("combine_fallback")] in lines


def test_both_languages_have_the_same_strings() -> None:
    english, chinese = (load_words(language).texts for language in LANGUAGES)
    assert len(english) > 150
    assert list(english) == list(chinese)
    for key in english:
        fields = [{name for _, name, _, _ in Formatter().parse(t[key]) if name} for t in (english, chinese)]
        assert fields[0] == fields[1], key


def test_chinese_strings_are_chinese() -> None:
    english, chinese = (load_words(language).texts for language in LANGUAGES)
    same = {key for key in english if english[key] == chinese[key]}
    assert same <= {"dash", "metric_auroc", "metric_f1"}


def test_every_heading_of_a_chinese_report_is_chinese(
    evaluation: Evaluation, context: ReportContext, tmp_path: Path
) -> None:
    plain = replace(context, settings={}, data_card={**context.data_card, "rejected": {}, "splits": {}}, audit=None)
    html, markdown = written(evaluation, plain, tmp_path, language="zh")
    headings = [*Page(html).headings, *re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)]
    assert len(headings) > 60
    terms = re.compile(r"^(AUROC|AP|F1|[0-9a-f]{16})$")
    untranslated = [one for one in headings if not re.search(r"[\u4e00-\u9fff]", one) and not terms.match(one.strip())]
    assert untranslated == []
    known = {value for key, value in load_words("en").texts.items() if key.startswith(("section", "metric", "compare"))}
    assert not known & {one.strip() for one in headings} - {"AUROC", "F1"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_sections_come_in_order(
    language: Language, evaluation: Evaluation, context: ReportContext, tmp_path: Path
) -> None:
    html, markdown = written(evaluation, context, tmp_path, language=language)
    order = (
        "verdict models classes confusion risk fixed_rate calibration training speed audit card mistakes try settings"
    )
    titles = [load_words(language)(f"section_{name}") for name in order.split()]
    assert re.findall(r"<h2>(.+?)</h2>", html) == titles
    # The text leaves out what is nothing but charts.
    drawn = [load_words(language)(f"section_{name}") for name in ("confusion", "risk", "training")]
    assert re.findall(r"^## (.+)$", markdown, re.MULTILINE) == [one for one in titles if one not in drawn]


def test_texts_are_shown_only_on_demand(
    evaluation: Evaluation, context: ReportContext, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    wrong = {mistake.id for mistake in evaluation.models["student"].mistakes}
    shown = [example.text for example in examples if example.id in wrong]
    assert len(shown) > 5
    for page in written(evaluation, context, tmp_path):
        assert not any(text in page for text in shown)
    assert any(text in page for text in shown for page in written(evaluation, context, tmp_path, show_texts=True))


def test_metrics_are_written_as_json(evaluation: Evaluation, context: ReportContext, tmp_path: Path) -> None:
    write_report(evaluation, context, tmp_path, ReportConfig())
    tree = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert Evaluation.from_json(tree).to_json() == evaluation.to_json()


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_empty_context_is_told_in_words(language: Language, evaluation: Evaluation, tmp_path: Path) -> None:
    html, _ = written(evaluation, ReportContext("bare"), tmp_path, language=language)
    words = load_words(language)
    for key in ("training_empty", "audit_empty", "card_empty", "try_empty", "settings_empty"):
        assert words(key) in html


def test_tables_of_markdown_are_whole(evaluation: Evaluation, context: ReportContext, tmp_path: Path) -> None:
    _, markdown = written(evaluation, context, tmp_path, show_texts=True)
    tables = re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE)
    assert len(tables) > 10
    for table in tables:
        lines = table.splitlines()
        assert re.fullmatch(r"\|( -{3}:? \|| -{3} \|)+", lines[1])
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_a_markdown_cell_stays_one_cell() -> None:
    assert markdown_cell("a|b\n*c*") == r"a\|b \*c\*"


def test_the_best_figure_is_bold(evaluation: Evaluation, context: ReportContext, tmp_path: Path) -> None:
    _, markdown = written(evaluation, context, tmp_path)
    best = max(model.metrics["macro_f1"].value for model in evaluation.models.values())
    assert f"**{best:.3f} (" in next(line for line in markdown.splitlines() if line.startswith("| macro-F1"))


def changed(evaluation: Evaluation, name: str, kept: float, difference: tuple[float, float, float]) -> Evaluation:
    """The evaluation with another outcome of one comparison."""
    one = Comparison("macro_f1", Estimate(kept, kept, kept), Estimate(*difference), 0.5, 0.5)
    return replace(evaluation, comparisons={**evaluation.comparisons, name: one})


@pytest.mark.parametrize(
    ("kept", "phrase"),
    [(0.899, "under 90 %"), (0.9, "between 90 and 95 %"), (0.95, "95 % or more"), (1.02, "95 % or more")],
)
def test_the_verdict_names_what_was_kept(kept: float, phrase: str, evaluation: Evaluation) -> None:
    found = verdict(changed(evaluation, "teacher", kept, (0, -0.1, 0.1)), load_words("en"))
    assert any(phrase in finding.text for finding in found.findings)


@pytest.mark.parametrize(
    ("difference", "headline", "phrase"),
    [
        ((0.05, 0.01, 0.09), "headline_earned", "It beats the linear model"),
        ((0.02, -0.01, 0.05), "headline_unproven", "this may be noise"),
        ((-0.02, -0.05, 0.01), "headline_not_earned", "as good"),
        ((-0.05, -0.09, -0.01), "headline_not_earned", "It loses to the linear model"),
    ],
)
def test_the_verdict_says_whether_the_cost_is_earned(
    difference: tuple[float, float, float], headline: str, phrase: str, evaluation: Evaluation
) -> None:
    words = load_words("en")
    found = verdict(changed(evaluation, "svm", 1.0, difference), words)
    assert found.headline == words(headline)
    assert any(phrase in finding.text for finding in found.findings)


def test_the_verdict_names_the_best_linear_model(
    scorers: dict[str, Scorer], make_scorer: Callable[..., Scorer], examples: tuple[Example, ...], small_policy: Policy
) -> None:
    more = scorers | {"svm_teacher": make_scorer(0.8, seed=5), "nb": make_scorer(0.85, seed=6)}
    found = evaluate(more, TestSplit(examples), small_policy, QUICK)
    assert linear_models(found) == ["svm_teacher", "svm"]
    told = {language: verdict(found, load_words(language)).findings for language in LANGUAGES}
    assert any("It beats the linear model (teacher's labels), which reaches 0." in one.text for one in told["en"])
    assert any("线性模型（教师标注）达到 0." in one.text and "学生模型比它高" in one.text for one in told["zh"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_baseline_has_a_name(language: Language) -> None:
    words = load_words(language)
    names = [words.model(name) for name in NAMES]
    assert len(set(names)) == len(NAMES) >= 6
    assert not set(names) & set(NAMES)
    assert [words("labels_teacher") in name for name in names] == [name.endswith("_teacher") for name in NAMES]


@pytest.mark.parametrize(
    ("left_out", "key"),
    [("teacher", "verdict_no_teacher"), ("svm", "verdict_no_linear"), ("student", "verdict_no_student")],
)
def test_the_verdict_says_who_is_missing(
    left_out: str, key: str, scorers: dict[str, Scorer], examples: tuple[Example, ...], small_policy: Policy
) -> None:
    fewer = {name: scorer for name, scorer in scorers.items() if name != left_out}
    words = load_words("en")
    found = verdict(evaluate(fewer, TestSplit(examples), small_policy, QUICK), words)
    assert words(key) in [finding.text for finding in found.findings]


def test_the_verdict_warns_of_another_split_and_of_few_rows(evaluation: Evaluation) -> None:
    found = verdict(replace(evaluation, split="ValidationSplit", rows=50), load_words("en"))
    told = " ".join(finding.text for finding in found.findings)
    assert "validation split" in told
    assert "Only 50 rows" in told


@pytest.mark.parametrize("language", LANGUAGES)
def test_risk_scores_and_several_labels_have_a_report(language: Language, small_policy: Policy, tmp_path: Path) -> None:
    def scorer(texts: Sequence[str]) -> list[Scores]:
        return [small_policy.scores({"normal": 0.4, "gambling": 0.6, "fraud": len(t) / 20}) for t in texts]

    scored = [Example(str(i), "x" * i, "en", "made", score=i / 10) for i in range(1, 11)]
    several = [Example(str(i), "x" * i, "en", "made", labels=("fraud", "gambling")[: i % 3]) for i in range(1, 11)]
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    for rows in (scored, several):
        found = evaluate({"student": scorer, "svm": scorer}, TestSplit(tuple(rows)), policy, QUICK)
        html, _ = written(found, ReportContext("other"), tmp_path, language=language)
        assert load_words(language)("section_verdict") in html


def test_a_timeline_draws_stretches_where_they_were() -> None:
    svg = charts.timeline("when", [("a<b", [(0, 0.5)]), ("c", [(0.25, 0.25)])], ("1", "2"))
    assert "a&lt;b" in svg
    # 196 wide from 110 on: half of it, and what is too short to be seen.
    assert 'x="110.0" y="6" width="98.0"' in svg
    assert 'x="159.0" y="28" width="2.0"' in svg
    # At the right end of 320 a date ends where its line stands, instead of beyond the picture.
    dated = charts.timeline("when", [("a", [(0, 1)])], ("11-21", "11-28"))
    assert 'x="110.0" y="42.0" text-anchor="middle">11-21<' in dated
    assert 'x="306.0" y="42.0" text-anchor="end">11-28<' in dated


def test_charts_escape_names_and_draw_by_hand_places() -> None:
    series = [Series("a", [Point(0, 0), Point(1, 1)], 0)]
    svg = charts.plot("<b>", series, Axis("x<y"), Axis("y"))
    assert "<b>" not in svg
    assert "x&lt;y" in svg
    assert 'd="M46.0 210.0L310.0 10.0"' in svg


def test_curves_may_have_named_ticks_and_intervals() -> None:
    points, spans = [Point(0, 0.5), Point(2, 1)], [Estimate(0.5, 0.25, 0.75), Estimate(1, 1, 1)]
    svg = charts.plot("", [Series("a", points, 0, spans=spans)], Axis("", 0, 2, ("2", "<8", "64")), Axis(""))
    assert 'x="178.0" y="224.0" text-anchor="middle">&lt;8<' in svg
    assert 'd="M46.0 160.0V60.0M43.0 160.0h6M43.0 60.0h6"' in svg


def test_a_matrix_shows_means_with_a_decimal_where_there_is_room() -> None:
    svg = charts.heatmap("", [[218.33, 7.33], [0, 5]], ["a", "b"], ["a", "b"])
    assert re.findall(r">([\d.]+)</text>", svg) == ["218", "7.3", "5"]


@pytest.mark.parametrize(("value", "expected"), [(0.98, 1), (170, 200), (1.0, 1), (0.33, 0.4), (0, 1), (9, 10)])
def test_axes_end_on_round_numbers(value: float, expected: float) -> None:
    assert charts.rounded_up(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"), [("spam", "spam"), ("a long name", "a lon…"), ("违规广告", "违规…"), ("违规广", "违规广")]
)
def test_labels_of_charts_fit(text: str, expected: str) -> None:
    assert charts.shortened(text, 6) == expected
