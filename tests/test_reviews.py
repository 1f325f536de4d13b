"""The queue, its leases and the verdicts: SQLite always, PostgreSQL where TAMIS_TEST_POSTGRES names one."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, insert, select

from tamis import reviews
from tamis.decisions import GENESIS, DecisionLog, canonical, decisions_table, stamp
from tamis.errors import DataError
from tamis.records import AUDIT, Decision, Example, Scores, content_id
from tamis.reviews import Judgement, Wanted
from tamis.reviews.queue import item, urgency
from tamis.reviews.tables import items_table, verdicts_table
from tamis.store import Store

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def decided(text: str, risk: float = 0.6, action: str = "review", *reasons: str) -> tuple[Decision, str]:
    scores = Scores({"normal": 1 - risk, "fraud": risk}, risk, 0.5)
    return Decision(content_id(text), action, scores.category, scores, {}, (), reasons), text


def log(store: Store, *rows: tuple[Decision, str]) -> list[str]:
    with DecisionLog(store) as opened:
        futures = [opened.add(one, text, f"{text} {time.monotonic_ns()}") for one, text in rows]
        return [future.result(30).id for future in futures]


def test_decisions_that_need_a_person_are_queued_once(url: str) -> None:
    with Store.open(url) as store:
        log(
            store, decided("a"), decided("b", 0.1, "pass"), decided("c", 0.1, "pass", AUDIT), decided("d", 0.9, "block")
        )
        assert reviews.fill(store, NOW) == 2
        log(store, decided("a"), decided("c", 0.1, "pass", AUDIT), decided("今天"))
        assert reviews.fill(store, NOW) == 1
        assert reviews.fill(store, NOW) == 0
        assert {(one.cause, one.content) for one in reviews.listing(store)} == {
            ("review", content_id("a")),
            ("audit", content_id("c")),
            ("review", content_id("今天")),
        }
        assert reviews.count(store, Wanted(cause="review", language="zh")) == 1
        assert reviews.count(store, Wanted(category="normal")) == 1
        # Read, it may be asked again when it is decided about again; an audit is not.
        for one in reviews.listing(store):
            reviews.judge(store, [one.id], Judgement("ann", "normal"), NOW)
        log(store, decided("a"), decided("c", 0.1, "pass", AUDIT))
        assert reviews.fill(store, NOW) == 1


def test_priority_by_risk_and_age_by_hand() -> None:
    late = NOW + timedelta(hours=10)
    # 0.9 ten hours later is worth .9 * 24 - 10 = 11.6 hours, 0.5 is worth 12.
    assert urgency(0.5, NOW) - urgency(0.9, late) == pytest.approx(12 - 11.6)
    assert item(NOW, "c", "audit", 0.1)["priority"] == item(NOW, "c", "audit", 0.9)["priority"]
    assert item(NOW, "c", "review", float("nan"))["risk"] == 1.0


def test_the_most_urgent_item_is_leased_and_comes_back(url: str) -> None:
    with Store.open(url) as store:
        log(store, decided("a", 0.5), decided("b", 0.8), decided("c", 0.6))
        reviews.fill(store, NOW)
        first = reviews.next_item(store, "ann", now=NOW)
        assert first
        assert first.content == content_id("b")
        assert reviews.next_item(store, "ann", now=NOW) == first
        second = reviews.next_item(store, "bob", now=NOW)
        assert second
        assert second.content == content_id("c")
        late = NOW + timedelta(minutes=6)
        again = reviews.next_item(store, "cat", now=late)
        assert again
        assert again.id == first.id
        # Who came too late writes nothing; who holds it does.
        assert reviews.judge(store, [first.id], Judgement("ann", "fraud"), late) == []
        assert len(reviews.judge(store, [first.id], Judgement("cat", "fraud"), late)) == 1
        assert reviews.next_item(store, "dan", Wanted(category="gambling"), late) is None


def test_who_skips_an_item_does_not_get_it_again_and_others_do(url: str) -> None:
    with Store.open(url) as store:
        log(store, decided("a"))
        reviews.fill(store, NOW)
        first = reviews.next_item(store, "ann", now=NOW)
        assert first
        for _ in range(2):
            reviews.skip(store, first.id, "ann")
        assert reviews.next_item(store, "ann", now=NOW) is None
        other = reviews.next_item(store, "bob", now=NOW)
        assert other
        assert other.id == first.id


def test_reviewers_at_once_never_hold_one_item(url: str) -> None:
    people, rows = 8, 60
    with Store.open(url) as store:
        log(store, *(decided(f"text {i}", 0.5 + i / 200) for i in range(rows)))
        reviews.fill(store, NOW)
        seen: list[str] = []
        start = threading.Barrier(people)

        def work(name: str) -> None:
            start.wait()
            while (one := reviews.next_item(store, name, now=NOW)) is not None:
                seen.append(one.id)
                assert reviews.judge(store, [one.id], Judgement(name, "normal"), NOW)

        with ThreadPoolExecutor(people) as pool:
            for done in [pool.submit(work, f"r{i}") for i in range(people)]:
                done.result(120)
        assert len(seen) == len(set(seen)) == rows
        assert len(reviews.verdicts(store)) == rows


def test_a_verdict_is_superseded_not_changed(url: str) -> None:
    with Store.open(url) as store:
        log(store, decided("a"))
        reviews.fill(store, NOW)
        (one,) = reviews.listing(store)
        (number,) = reviews.judge(store, [one.id], Judgement("ann", "fraud", "a mule"), NOW)
        assert reviews.count(store) == 0
        assert reviews.undo(store, [number], "ann", NOW) == 1
        assert reviews.undo(store, [number], "ann", NOW) == 0
        assert reviews.verdicts(store) == []
        assert reviews.count(store) == 1
        reviews.judge(store, [one.id], Judgement("ann", "normal"), NOW)
        (stands,) = reviews.verdicts(store)
        assert (stands.verdict, stands.cause, stands.content) == ("normal", "review", content_id("a"))
        with store.begin() as connection:
            assert connection.execute(select(func.count()).select_from(verdicts_table)).scalar_one() == 3
        assert reviews.exposure(store, "ann", "normal", NOW - timedelta(days=1)) == 1


def test_many_are_judged_and_taken_back_at_once(url: str) -> None:
    with Store.open(url) as store:
        log(store, *(decided(f"t{i}") for i in range(30)))
        reviews.fill(store, NOW)
        held = reviews.next_item(store, "bob", now=NOW)
        ids = [one.id for one in reviews.listing(store)]
        done = reviews.judge(store, ids, Judgement("ann", "fraud", "one wave"), NOW, batch="b1")
        assert held
        assert len(done) == 29
        assert reviews.undo_batch(store, "b1", "ann", NOW) == 29
        assert reviews.count(store) == 30


def test_a_blind_second_look_is_for_somebody_else_and_decides(url: str) -> None:
    with Store.open(url) as store:
        log(store, decided("a"))
        reviews.fill(store, NOW)
        one = reviews.next_item(store, "ann", now=NOW)
        assert one
        (first,) = reviews.judge(store, [one.id], Judgement("ann", "fraud"), NOW, second_share=1.0)
        assert reviews.next_item(store, "ann", now=NOW) is None
        again = reviews.next_item(store, "bob", now=NOW)
        assert again
        assert (again.cause, again.earlier, again.content, again.decision) == (
            "second",
            one.id,
            one.content,
            one.decision,
        )
        reviews.judge(store, [again.id], Judgement("bob", "normal"), NOW, second_share=1.0)
        assert reviews.count(store) == 0
        settled = reviews.settle(reviews.verdicts(store))
        assert settled[one.content].verdict == "normal"
        # The first is judged once more: the second still decides.
        reviews.undo(store, [first], "ann", NOW)
        reviews.judge(store, [one.id], Judgement("ann", "fraud"), NOW)
        assert reviews.settle(reviews.verdicts(store))[one.content].verdict == "normal"


def test_a_second_look_goes_when_the_first_is_taken_back(url: str) -> None:
    with Store.open(url) as store:
        log(store, decided("a"))
        reviews.fill(store, NOW)
        (one,) = reviews.listing(store)
        numbers = reviews.judge(store, [one.id], Judgement("ann", "fraud"), NOW, second_share=1.0)
        reviews.undo(store, numbers, "ann", NOW)
        assert [found.id for found in reviews.listing(store)] == [one.id]


def test_the_share_of_second_looks(url: str) -> None:
    with Store.open(url) as store:
        log(store, *(decided(f"t{i}") for i in range(400)))
        reviews.fill(store, NOW)
        ids = [one.id for one in reviews.listing(store, limit=400)]
        reviews.judge(store, ids, Judgement("ann", "fraud"), NOW, second_share=0.25)
        # Four standard deviations of a binomial of 400 at .25.
        assert abs(reviews.count(store, Wanted(cause="second")) - 100) < 4 * 8.7


def test_gold_comes_to_everybody_once_and_is_counted(url: str) -> None:
    gold = [
        Example(content_id(text), text, "zh", "gold", label=label)
        for text, label in (("好", "normal"), ("骗", "fraud"))
    ]
    with Store.open(url) as store:
        assert reviews.add_gold(store, gold, NOW) == 2
        assert reviews.add_gold(store, gold, NOW) == 0
        assert reviews.count(store) == 0
        answers = {"ann": {"好": "normal", "骗": "fraud"}, "bob": {"好": "fraud", "骗": "fraud"}}
        for name, answer in answers.items():
            seen = set()
            while (one := reviews.next_item(store, name, now=NOW)) is not None:
                assert one.text
                seen.add(one.text)
                reviews.judge(store, [one.id], Judgement(name, answer[one.text]), NOW)
            assert seen == {"好", "骗"}
        found = reviews.quality(reviews.verdicts(store))
        assert {name: (errors.rows, errors.wrong) for name, errors in found.by_reviewer.items()} == {
            "ann": (2, 0),
            "bob": (2, 1),
        }
        assert {name: errors.rate for name, errors in found.by_category.items()} == {"fraud": 0.0, "normal": 0.5}
        assert reviews.settle(reviews.verdicts(store)) == {}


def test_an_appeal_is_for_another_person_and_decides_over_all(url: str) -> None:
    with Store.open(url) as store:
        (decision,) = log(store, decided("a"))
        reviews.fill(store, NOW)
        (one,) = reviews.listing(store)
        reviews.judge(store, [one.id], Judgement("ann", "fraud"), NOW)
        name = reviews.appeal(store, decision, NOW)
        with pytest.raises(DataError, match="waits already"):
            reviews.appeal(store, decision, NOW)
        with pytest.raises(DataError, match="no decision x to appeal"):
            reviews.appeal(store, "x", NOW)
        assert reviews.next_item(store, "ann", now=NOW) is None
        with pytest.raises(DataError, match="upheld or overturned"):
            reviews.judge(store, [name], Judgement("bob", "normal"), NOW)
        assert reviews.judge(store, [name], Judgement("bob", "normal", outcome="overturn"), NOW)
        said = reviews.verdicts(store)
        assert reviews.settle(said)[content_id("a")].reviewer == "bob"
        found = reviews.quality(said)
        assert (found.appeals.rows, found.appeals.wrong) == (1, 1)


def test_a_verdict_without_a_category_or_with_an_outcome_it_cannot_have(url: str) -> None:
    with Store.open(url) as store:
        log(store, decided("a"))
        reviews.fill(store, NOW)
        (one,) = reviews.listing(store)
        with pytest.raises(DataError, match="names a category"):
            reviews.judge(store, [one.id], Judgement("ann", ""))
        with pytest.raises(DataError, match="no outcome, it is no appeal"):
            reviews.judge(store, [one.id], Judgement("ann", "fraud", outcome="uphold"))
        assert reviews.count(store) == 1
        with pytest.raises(DataError, match="has no label"):
            reviews.add_gold(store, [Example("1", "x", "en", "s")])


def _many(store: Store, decisions: int, judged: int) -> None:
    """Rows as a busy month leaves them; the chain is of no matter here."""
    scores = canonical({"probabilities": {"normal": 0.4, "fraud": 0.6}, "risk": 0.6, "uncertainty": 0.5})

    def rows() -> Iterable[dict]:
        for i in range(decisions):
            name = f"{i:032x}"
            yield {
                "number": i + 1,
                "id": name,
                "key": name,
                "time": stamp(NOW + timedelta(seconds=i)),
                "content": name[-16:],
                "action": "review" if i % 4 == 0 else "pass",
                "category": "fraud",
                "scores": scores,
                "tiers": "[]",
                "reasons": "[]",
                "versions": "{}",
                "latency_ms": 1.0,
                "signals": '{"language":"zh"}',
                "seal": GENESIS,
                "previous": GENESIS,
                "hash": GENESIS,
            }

    made = list(rows())
    with store.begin() as connection:
        for start in range(0, decisions, 1000):
            connection.execute(insert(decisions_table), made[start : start + 1000])
    reviews.fill(store, NOW)
    with store.begin() as connection:
        ids = connection.execute(select(items_table.c.id).limit(judged)).scalars().all()
    reviews.judge(store, ids, Judgement("ann", "fraud"), NOW)


@pytest.mark.slow
def test_the_queue_is_fast_at_a_hundred_thousand_decisions(url: str) -> None:
    with Store.open(url) as store:
        _many(store, 100_000, 20_000)
        assert len(reviews.verdicts(store)) == 20_000
        for wanted in (Wanted(), Wanted(language="zh", category="fraud"), Wanted(cause="appeal")):
            took = []
            for i in range(30):
                began = time.perf_counter()
                reviews.next_item(store, f"r{i}", wanted, NOW)
                took.append(time.perf_counter() - began)
            assert statistics.median(took) < 0.1, (wanted, took)
