from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tamis.config import EvaluateConfig, ReportConfig
from tamis.estimates import Estimate
from tamis.judge.contest.measure import Candidate, contest
from tamis.judge.contest.report import ContestContext, write_contest
from tamis.judge.contest.result import Change, Contest, Ranks
from tamis.judge.contest.sections import duration
from tamis.judge.contest.verdict import verdict
from tamis.judge.words import load_words
from tamis.policy import Language, Policy
from tamis.records import Example, TestSplit

LANGUAGES: tuple[Language, ...] = ("en", "zh")
EVIL = "<script>alert(1)</script>|<img src=x>"
QUICK = EvaluateConfig(bootstrap=100)


@pytest.fixture(scope="module")
def context(examples: tuple[Example, ...]) -> ContestContext:
    texts = {example.id: f"{example.text} {EVIL}" for example in examples}
    return ContestContext("c1", {"student": {"model": EVIL}}, texts, 3600.0, 9000.0)


def written(found: Contest, context: ContestContext, out: Path, **config: Any) -> tuple[str, str]:
    page = write_contest(found, context, out, ReportConfig(**config))
    return page.read_text(encoding="utf-8"), (out / "report.md").read_text(encoding="utf-8")


def told(found: Contest, language: Language = "en") -> list[str]:
    return [finding.text for finding in verdict(found, load_words(language)).findings]


def changed(found: Contest, first: str, second: str, *difference: float, p: float = 0.01) -> Contest:
    """The contest with another outcome of one comparison."""
    kept = Estimate(1 + difference[0], 1 + difference[1], 1 + difference[2])
    new = Change("macro_f1", kept, Estimate(*difference), p, p, first, second, p, p)
    changes = tuple(new if (one.first, one.second) == (first, second) else one for one in found.changes)
    return replace(found, changes=changes)


@pytest.mark.parametrize("language", LANGUAGES)
def test_sections_come_in_order_and_names_are_escaped(
    language: Language,
    candidates: list[Candidate],
    context: ContestContext,
    examples: tuple[Example, ...],
    small_policy: Policy,
    tmp_path: Path,
) -> None:
    named = [replace(candidates[1], name=EVIL, group=EVIL, failed={9: EVIL}), *candidates]
    found = contest(named, TestSplit(examples), small_policy, QUICK, against=EVIL, best="D5")
    html, markdown = written(found, context, tmp_path, language=language, show_texts=True)
    words = load_words(language)
    keys = "section_models section_classes section_risk section_confusion contest_ranks contest_cost section_speed"
    order = f"section_verdict {keys} contest_wrong_title contest_sharing section_settings".split()
    assert re.findall(r"<h2>(.+?)</h2>", html) == [words(key) for key in order]
    # The text leaves out what is nothing but charts.
    written_out = [words(key) for key in order if key not in ("section_classes", "section_risk")]
    assert re.findall(r"^## (.+)$", markdown, re.MULTILINE) == written_out
    for page in (html, markdown):
        assert "<script" not in page
        assert "<img" not in page
    assert html.count("&lt;script&gt;") > 20


def test_a_chinese_report_has_chinese_heads(found: Contest, context: ContestContext, tmp_path: Path) -> None:
    html, _ = written(found, context, tmp_path, language="zh")
    heads = re.findall(r"<(?:h1|h2|h3|summary|th scope=\"col\"[^>]*)>(.+?)</", html)
    assert len(heads) > 80
    assert [one for one in heads if not re.search(r"[\u4e00-\u9fff]", one)] == []


def test_every_candidate_has_a_row_and_failures_their_sentence(
    found: Contest, context: ContestContext, tmp_path: Path
) -> None:
    _, markdown = written(found, context, tmp_path)
    for name in (
        "A-lora",
        "D1",
        "D2",
        "D5",
        "rank-2",
        "teacher",
        "linear model",
        "linear model (teacher's labels)",
        "C",
    ):
        assert re.search(rf"^\| (\*\*)?{re.escape(name)}(\*\*)? \|", markdown, re.MULTILINE), name
    assert "| C | 0 | no hidden states |" in markdown
    assert "| D2 | 1 | the loss was not finite |" in markdown
    assert "| **D5** |" in markdown
    best = max(found.value(name).value for name in found.ran)
    assert f"| **{best:.3f} (" in markdown


def test_texts_are_shown_only_on_demand(
    found: Contest, context: ContestContext, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    wrong = {one.id for one in found.disagreements}
    shown = [example.text for example in examples if example.id in wrong]
    assert len(shown) > 5
    for page in written(found, context, tmp_path):
        assert not any(text in page for text in shown)
        assert found.disagreements[0].id in page
    assert any(text in page for text in shown for page in written(found, context, tmp_path, show_texts=True))


def test_metrics_are_written_as_json(found: Contest, context: ContestContext, tmp_path: Path) -> None:
    written(found, context, tmp_path)
    tree = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert Contest.from_json(tree).to_json() == found.to_json()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_contest_of_one_is_told_in_words(
    language: Language,
    candidates: list[Candidate],
    examples: tuple[Example, ...],
    small_policy: Policy,
    tmp_path: Path,
) -> None:
    alone = [replace(candidates[1], facts={})]
    found = contest(alone, TestSplit(examples), small_policy, QUICK, against="D1")
    html, _ = written(found, ContestContext("bare"), tmp_path, language=language)
    words = load_words(language)
    for key in ("headline_open", "no_best", "ranks_empty", "cost_empty", "wrong_empty", "sharing_empty"):
        assert words(f"contest_{key}") in html


@pytest.mark.parametrize("language", LANGUAGES)
def test_several_labels_have_a_report(language: Language, small_policy: Policy, tmp_path: Path) -> None:
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    rows = [Example(str(i), f"text {i}", "en", "made", labels=("fraud", "gambling")[: i % 3]) for i in range(9)]
    scores = [policy.scores({"normal": 0.4, "gambling": 0.6, "fraud": i / 9}) for i in range(9)]
    both = [Candidate("A-lora", "A", {0: scores}), Candidate("D5", "D", {0: scores[::-1]})]
    found = contest(both, TestSplit(tuple(rows)), policy, QUICK, best="D5")
    html, _ = written(found, ContestContext("several"), tmp_path, language=language)
    assert load_words(language)("confusion_empty") in html


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("difference", "p", "headline"),
    [
        ((0.1, 0.05, 0.15), 0.01, "above"),
        ((0.1, 0.05, 0.15), 0.2, "noise"),
        ((0.1, -0.05, 0.15), 0.01, "noise"),
        ((-0.1, -0.15, -0.05), 0.01, "below"),
    ],
)
def test_a_gain_counts_with_interval_and_corrected_p(
    language: Language, difference: tuple[float, ...], p: float, headline: str, found: Contest
) -> None:
    words = load_words(language)
    made = verdict(changed(found, "D5", "A-lora", *difference, p=p), words)
    assert made.headline == words(f"contest_headline_{headline}", best="D5", against="A-lora")
    assert made.tone == {"above": "good", "noise": "fair", "below": "bad"}[headline]


def test_losing_to_a_linear_model_is_the_headline(found: Contest) -> None:
    made = verdict(changed(found, "D5", "svm", -0.1, -0.15, -0.05), load_words("en"))
    assert (made.tone, made.headline) == ("bad", "D5 loses to a linear model.")


@pytest.mark.parametrize(
    ("difference", "phrases"),
    [
        ((0.05, 0.01, 0.09), ["95 % or more", "It passes the teacher: +0.050"]),
        ((-0.02, -0.06, 0.01), ["95 % or more", "Whether it passes the teacher is not shown: −0.020"]),
        ((-0.08, -0.09, -0.06), ["between 90 and 95 %", "It does not pass the teacher: −0.080"]),
        ((-0.2, -0.3, -0.15), ["under 90 %", "It does not pass the teacher: −0.200"]),
    ],
)
def test_the_teacher_is_kept_or_passed(difference: tuple[float, ...], phrases: list[str], found: Contest) -> None:
    text = " ".join(told(changed(found, "D5", "teacher", *difference)))
    assert all(phrase in text for phrase in phrases)


def test_knowledge_that_helps_is_named_and_noise_is_called_noise(found: Contest) -> None:
    helped = changed(found, "D5", "D1", 0.05, 0.01, 0.09)
    noise = changed(helped, "D2", "D1", 0.01, -0.03, 0.05, p=1.0)
    findings = told(noise)
    assert "Knowledge that adds to the teacher's answers alone (D1) by more than noise: D5." in findings
    assert any(re.search(r"D2 against D1 .*\+0\.010 .* may be noise", one) for one in findings)
    none = changed(noise, "D5", "D1", -0.05, -0.09, -0.01)
    assert "No further knowledge of the teacher is shown to add to its answers alone (D1)." in told(none)


def test_the_verdict_says_who_failed_and_that_rows_are_few(found: Contest) -> None:
    findings = told(found)
    assert "No run succeeded of: C. The reasons are below the table." in findings
    assert "Some runs failed of: D2. Their figures rest on the runs that are left." in findings
    assert any(one.startswith("Only 144 rows") for one in findings)
    assert any("validation split" in one for one in told(replace(found, split="ValidationSplit"))[-2:])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_knee_is_described(language: Language, found: Contest, context: ContestContext, tmp_path: Path) -> None:
    words = load_words(language)
    html, _ = written(found, context, tmp_path, language=language)
    assert words("contest_knee", knee="8", peak="16") in html
    first = replace(found, ranks=Ranks(("rank-2", "rank-8"), "rank-8", "rank-2"))
    html, _ = written(first, context, tmp_path, language=language)
    assert words("contest_knee_first", knee="2", peak="8") in html


@pytest.mark.parametrize(("seconds", "text"), [(90, "90 s"), (150, "2.5 min"), (7199, "120 min"), (9000, "2.5 h")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds, load_words("en")) == text
