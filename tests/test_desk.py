"""What one reviewer holds, takes, gives back and said last."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from tests.test_reviews import NOW, decided, log

from tamis import reviews
from tamis.records import AUDIT, Example, content_id
from tamis.reviews import Judgement, Wanted
from tamis.store import Store

LATE = NOW + timedelta(minutes=6)


def ids(items: list[reviews.Item]) -> list[str]:
    return [item.content for item in items]


def test_a_desk_holds_the_most_urgent_and_is_filled_up(url: str) -> None:
    with Store.open(url) as store:
        log(store, *(decided(f"text {i}", 0.5 + i / 100) for i in range(6)))
        reviews.fill(store, NOW)
        wanted = [content_id(f"text {i}") for i in (5, 4, 3)]
        first = reviews.desk(store, "ann", size=3, now=NOW)
        assert ids(first) == wanted
        assert {item.held_by for item in first} == {"ann"}
        assert ids(reviews.desk(store, "bob", size=4, now=NOW)) == [content_id(f"text {i}") for i in (2, 1, 0)]
        reviews.judge(store, [first[0].id], Judgement("ann", "fraud"), NOW)
        assert ids(reviews.desk(store, "ann", size=3, now=NOW)) == wanted[1:]
        # What nobody has taken meanwhile stays with who held it; what bob took is his.
        reviews.leave(store, "bob")
        assert reviews.held(store, "bob") == []
        assert len(reviews.desk(store, "ann", size=8, now=LATE)) == 5


def test_a_lease_that_is_over_goes_to_who_asks_first(url: str) -> None:
    with Store.open(url) as store:
        log(store, decided("a"))
        reviews.fill(store, NOW)
        (item,) = reviews.desk(store, "ann", now=NOW)
        assert reviews.take(store, "bob", item.id, now=NOW) is None
        assert reviews.desk(store, "bob", now=NOW) == []
        assert reviews.take(store, "bob", item.id, now=LATE) is not None
        assert reviews.desk(store, "ann", now=LATE) == []


def test_what_was_skipped_can_be_taken_by_its_name(url: str) -> None:
    with Store.open(url) as store:
        log(store, decided("a"))
        reviews.fill(store, NOW)
        (item,) = reviews.desk(store, "ann", now=NOW)
        reviews.skip(store, item.id, "ann")
        assert reviews.desk(store, "ann", now=NOW) == []
        assert reviews.take(store, "ann", item.id, now=NOW) is not None
        reviews.judge(store, [item.id], Judgement("ann", "fraud"), NOW)
        assert reviews.take(store, "ann", item.id, now=NOW) is None


def test_wanted_by_action_and_age_and_gold_among_all(url: str) -> None:
    with Store.open(url) as store:
        log(store, decided("a"), decided("b", 0.1, "pass", AUDIT))
        reviews.fill(store, NOW)
        log(store, decided("c"))
        reviews.fill(store, LATE)
        reviews.add_gold(store, [Example(content_id("g"), "g", "en", "made", label="fraud")], LATE)
        for wanted, found in (
            (Wanted(action="review"), "acg"),
            (Wanted(action="pass"), "bg"),
            (Wanted(action="block"), "g"),
            (Wanted(before=LATE), "abg"),
            (Wanted(action="review", before=LATE), "ag"),
        ):
            held = reviews.desk(store, "ann", wanted, 9, LATE)
            assert set(ids(held)) == {content_id(text) for text in found}
            assert reviews.count(store, wanted) == len(found) - 1
            reviews.leave(store, "ann")


def test_what_was_said_last_and_about_a_text(url: str) -> None:
    with Store.open(url) as store:
        log(store, decided("a", 0.9), decided("b", 0.8), decided("c", 0.7))
        reviews.fill(store, NOW)
        a, b, c = reviews.desk(store, "ann", size=3, now=NOW)
        assert reviews.last(store, "ann") is None
        reviews.judge(store, [a.id], Judgement("ann", "fraud"), NOW)
        (number,) = reviews.judge(store, [b.id], Judgement("ann", "normal"), NOW)
        reviews.judge(store, [c.id], Judgement("ann", "normal"), NOW, batch="many")
        said = reviews.last(store, "ann")
        assert said
        assert said.item == b.id
        reviews.undo(store, [number], "ann", NOW)
        said = reviews.last(store, "ann")
        assert said
        assert said.item == a.id
        assert [one.verdict for one in reviews.about(store, a.content)] == ["fraud"]
        assert reviews.about(store, b.content) == []


def test_desks_of_many_at_once_share_nothing(url: str) -> None:
    people, size = 8, 6
    with Store.open(url) as store:
        log(store, *(decided(f"text {i}", 0.5 + i / 200) for i in range(people * size)))
        reviews.fill(store, NOW)
        start = threading.Barrier(people)

        def work(name: str) -> list[str]:
            start.wait()
            return ids(reviews.desk(store, name, size=size, now=NOW))

        with ThreadPoolExecutor(people) as pool:
            desks = list(pool.map(work, [f"r{i}" for i in range(people)]))
        held = [name for desk in desks for name in desk]
        assert len(held) == len(set(held)) == people * size
