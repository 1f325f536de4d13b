from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tamis.config import ReportConfig
from tamis.judge.update.report import needed, verdict, write_succession
from tamis.judge.update.result import Change, Missed, Passed, Succession, Suite
from tamis.judge.words import load_words
from tamis.policy import Language, load_policy

EVIL = "<script>alert('x')</script> | `x`"
CHANGE = Change(40, 0.9, 0.7, -0.31, -0.12, 0.07, "fell")


@pytest.fixture
def found() -> Succession:
    """Every outcome, every piece of advice."""
    changes = {
        "fraud": CHANGE,
        "gambling": replace(CHANGE, outcome="open", low=-0.04, high=0.02, after=0.89),
        "normal": replace(CHANGE, outcome="held", low=0.0, high=0.0, unseen=0.009, after=0.9, rows=400),
        "abuse": replace(CHANGE, outcome="new", before=0.0, after=0.83),
        "violence": replace(CHANGE, outcome="short", before=0.0, after=0.4),
    }
    missed = {
        "fraud": Missed(20, 9, 6, 2, 3, 1, "teacher"),
        "gambling": Missed(20, 9, 2, 6, 3, 2, "student"),
        "normal": Missed(20, 4, 0, 0, 0, 0, "unasked"),
        "abuse": Missed(20, 20, 0, 0, 4, 4, "new"),
        "violence": Missed(20, 20, 5, 15, 4, 0, "new"),
        "spam_ad": Missed(5, 0, 0, 0, 0, 0, "unasked"),
    }
    policy = load_policy("default")
    return Succession(
        policy="default 1.1",
        old="0ld",
        new="n3w",
        added=("abuse", "violence", "self_harm"),
        names={one.id: {str(lang): text for lang, text in one.short.items()} for one in policy.categories},
        tolerance=0.01,
        confidence=0.95,
        strict=False,
        new_f1=0.8,
        bootstrap=2000,
        suites=(Suite("reviewed", "reviewed", 300, changes), Suite(EVIL, "frozen", 90, {"fraud": CHANGE})),
        tests={"easy": Passed("fraud", {"en": "easy income", "zh": "轻松高薪"}, 6, 5, 3)},
        missed=missed,
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_tells_all_of_it_in_both_languages(found: Succession, language: Language, tmp_path: Path) -> None:
    page = write_succession(found, "june", {"out": "runs/update"}, tmp_path, ReportConfig(language=language))
    html, markdown = page.read_text(encoding="utf-8"), (tmp_path / "report.md").read_text(encoding="utf-8")
    words = load_words(language)
    for text in (html, markdown):
        assert "<script>alert" not in text
        for outcome in ("fell", "open", "held", "new", "short"):
            assert words(f"update_outcome_{outcome}") in text
        assert "0.310" in text, "the fall that is not ruled out"
        assert "0.120" in text, "the fall that is shown"
        assert found.tests["easy"].about[language] in text
    figures = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert figures["suites"][0]["changes"]["fraud"]["outcome"] == "fell"


@pytest.mark.parametrize(
    ("language", "teacher", "student", "open_", "untested"),
    [
        (
            "en",
            "the teacher missed 6 of 8 as well",
            "the teacher saw 6 of 8",
            "gambling (reviewed",
            "suicide has no text",
        ),
        ("zh", "教师也漏判了 6 条", "教师判对了 6 条", "赌博（未参与训练", "没有新类别“自杀”"),
    ],
)
def test_the_diagnosis_and_the_limits_are_in_words(
    found: Succession, tmp_path: Path, language: Language, teacher: str, student: str, open_: str, untested: str
) -> None:
    write_succession(found, "june", {}, tmp_path, ReportConfig(language=language))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    for said in (teacher, student, open_, untested, "299", "`lora.rank`", "`new_adapters`", "`objective.beta`"):
        assert said in markdown
    spam = found.names["spam_ad"][language]
    assert f"{spam}:" not in markdown, "a category without a miss gets no advice"
    assert f"{spam}：" not in markdown


def test_the_headline_follows_from_the_refusals(found: Succession) -> None:
    words = load_words("en")
    assert verdict(found, words).tone == "bad"
    kept = replace(found, suites=(replace(found.suites[0], changes={"fraud": replace(CHANGE, outcome="open")}),))
    assert verdict(kept, words).headline.startswith("No class is shown to lose more than 0.010")
    assert verdict(replace(kept, strict=True), words).tone == "bad"
    said = [finding.text for finding in verdict(replace(kept, strict=True), words).findings]
    assert any("a fall of up to 0.310 is not ruled out by its 40 texts" in text for text in said)


def test_without_misses_and_tests_it_says_so(found: Succession, tmp_path: Path) -> None:
    words = load_words("en")
    write_succession(replace(found, missed={}, tests={}), "june", {}, tmp_path, ReportConfig())
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert words("update_diagnosis_empty") in markdown
    assert words("update_tests_empty") in markdown


def test_how_many_texts_would_settle_it_by_hand() -> None:
    # 0.99^298 = 0.0500, 0.99^299 = 0.0495.
    assert needed(0.01, 0.95) == "299"
    assert needed(0.5, 0.75) == "2"
    assert needed(0.0, 0.95) == "∞"
