"""Whose word decides, and what becomes of it: SQLite always, PostgreSQL where TAMIS_TEST_POSTGRES names one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tamis import reviews
from tamis.config import SourceConfig
from tamis.data.sources import read
from tamis.decisions import DecisionLog, stamp, verify
from tamis.feedback import FORMATS, Feedback, Said, forget_text, gather, take, truths, write_feedback
from tamis.policy import Policy
from tamis.records import AUDIT, Decision, Example, Scores, TeacherSignal, content_id
from tamis.reviews import Judgement, Wanted
from tamis.store import Store

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def log(store: Store, *texts: str, keep_days: int | None = 30) -> list[str]:
    with DecisionLog(store, keep_days, now=lambda: NOW) as opened:
        found = []
        for text in texts:
            scores = Scores({"normal": 0.4, "fraud": 0.6}, 0.6, 0.9)
            one = Decision(content_id(text), "review", "fraud", scores, {"policy": "default 1.0"}, (), (AUDIT,))
            found.append(opened.add(one, text, content_id(text)).result(30).id)
        return found


def judge(store: Store, who: str, verdict: str, cause: str = "review", **how: object) -> None:
    items = [one.id for one in reviews.listing(store, Wanted(cause=cause))]
    assert reviews.judge(store, items, Judgement(who, verdict, outcome=how.get("outcome")), NOW, how.get("second", 0.0))


def said(kind: str, verdict: str, time: str = "1") -> Said:
    return Said("x", kind, verdict, time)


RULES = [
    ("fraud", [said("teacher", "normal", "9"), said("review", "fraud")]),
    ("normal", [said("review", "fraud", "9"), said("second", "normal", "1")]),
    ("fraud", [said("second", "normal", "9"), said("appeal", "fraud", "1")]),
    ("normal", [said("review", "fraud", "1"), said("audit", "normal", "2")]),
    ("normal", [said("teacher", "normal", "")]),
]


@pytest.mark.parametrize(("wanted", "every"), RULES)
def test_whose_word_decides(wanted: str, every: list[Said]) -> None:
    for order in (every, every[::-1]):
        one = Feedback("1", "t", "en", tuple(order))
        assert one.decides.verdict == wanted
        assert one.by_person == (one.decides.kind != "teacher")


def test_examples_say_where_their_label_comes_from(small_policy: Policy) -> None:
    one = Feedback("1", "t", "en", (said("teacher", "normal"), said("second", "fraud")))
    assert one.example(small_policy) == Example("1", "t", "en", "feedback second", label="fraud")
    alone = replace(one, said=one.said[:1]).example(small_policy)
    assert (alone.is_gold, alone.source) == (False, "feedback teacher")
    several = small_policy.model_copy(update={"kind": "multi_label"})
    both = replace(one, said=(said("review", "fraud gambling"),)).example(several)
    assert (both.label, both.labels) == (None, ("fraud", "gambling"))


def test_what_was_said_is_gathered_with_its_text(url: str, small_policy: Policy) -> None:
    with Store.open(url) as store:
        (first, _) = log(store, "加我带你赚钱", "b")
        store.add(
            TeacherSignal(
                content_id("加我带你赚钱"),
                "t@1",
                small_policy.label_space,
                "votes",
                "ok",
                {"normal": 0.7, "fraud": 0.3},
            )
        )
        reviews.fill(store, NOW)
        judge(store, "ann", "normal", second=1.0)
        judge(store, "bob", "fraud", "second")
        found = gather(store, small_policy)
        assert found.without_text == 0
        one = next(each for each in found.feedback if each.id == content_id("加我带你赚钱"))
        assert (one.text, one.lang, one.decision, one.category) == ("加我带你赚钱", "zh", first, "fraud")
        assert [(each.by, each.kind, each.verdict) for each in one.said] == [
            ("t@1", "teacher", "normal"),
            ("ann", "review", "normal"),
            ("bob", "second", "fraud"),
        ]
        assert one.decides.by == "bob"
        known = truths(store, small_policy)
        assert known.people[one.id].verdict == "fraud"
        assert known.teachers[one.id].teacher == "t@1"
        assert gather(store, small_policy, since=LATER).feedback == ()


def test_what_a_teacher_alone_said_is_no_label(url: str, small_policy: Policy) -> None:
    with Store.open(url) as store:
        log(store, "a")
        for text in ("a", "never decided about"):
            answer = {"normal": 0.2, "fraud": 0.8}
            store.add(TeacherSignal(content_id(text), "t", small_policy.label_space, "votes", "ok", answer))
        found = gather(store, small_policy)
        (one,) = found.feedback
        assert (one.text, one.by_person, one.decides.probability, found.without_text) == ("a", False, 0.8, 0)


def test_texts_that_are_not_kept_come_from_the_platform(url: str, small_policy: Policy) -> None:
    with Store.open(url) as store:
        log(store, "a", "b", keep_days=None)
        reviews.fill(store, NOW)
        judge(store, "ann", "fraud")
        assert gather(store, small_policy).without_text == 2
        found = gather(store, small_policy, ["A ", "z"])
        assert [(one.id, one.text) for one in found.feedback] == [(content_id("a"), "A ")]
        assert found.without_text == 1


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_verdicts_travel_from_one_store_to_another(tmp_path: Path, small_policy: Policy, form: str) -> None:
    with Store.open(tmp_path / "a.db") as one, Store.open(tmp_path / "b.db") as other:
        (decision, _) = log(one, "a\u2028b", "\ud83d lone")
        reviews.fill(one, NOW)
        judge(one, "ann", "normal", second=1.0)
        judge(one, "bob", "fraud", "second")
        reviews.appeal(one, decision, NOW)
        judge(one, "cat", "gambling", "appeal", outcome="overturn")
        gone = gather(one, small_policy)
        write_feedback(tmp_path / "f", gone.feedback, form)
        came = FORMATS[form].read((tmp_path / "f").read_text(encoding="utf-8"))
        assert tuple(came) == gone.feedback
        assert take(other, came, LATER) == 5
        assert take(other, came, LATER) == 0
        there = gather(other, small_policy).feedback
        assert {each.id: (each.text, each.said) for each in there} == {
            each.id: (each.text, each.said) for each in gone.feedback
        }
        assert reviews.count(other) == 0


def test_a_line_is_a_row_of_a_source(tmp_path: Path, small_policy: Policy) -> None:
    one = Feedback(content_id("加我"), "加我", "zh", (said("review", "fraud"),))
    alone = Feedback(content_id("b"), "b", "en", (said("teacher", "fraud"),))
    write_feedback(tmp_path / "f.jsonl", [one, alone], "jsonl")
    rows = list(read(SourceConfig(path=str(tmp_path / "f.jsonl"), lang="lang"), small_policy))
    assert [(row.text, row.label, row.lang) for row in rows] == [("加我", "fraud", "zh"), ("b", None, "en")]


def test_a_text_that_is_forgotten_is_nowhere(url: str, small_policy: Policy) -> None:
    with Store.open(url) as store:
        (decision,) = log(store, "a")
        reviews.fill(store, NOW)
        judge(store, "ann", "fraud")
        assert (
            take(store, [Feedback(content_id("a"), "a", "en", (Said("bob", "imported", "normal", stamp(NOW)),))]) == 1
        )
        assert forget_text(store, content_id("a")) == 1
        assert gather(store, small_policy).without_text == 1
        assert forget_text(store, decision) == 0
        assert verify(store).broken is None
