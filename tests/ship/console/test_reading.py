"""What is marked in a text, and which texts are alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ship.console.conftest import decided

from tamis import reviews
from tamis.decisions import forget
from tamis.policy import Policy
from tamis.records import Scores
from tamis.reviews import Judgement
from tamis.ship.console.highlight import LONGEST, PARTS, Part, evidence, marks, parts, weights
from tamis.ship.console.similar import Cases, shingles
from tamis.store import Store


@given(st.text(max_size=400))
def test_parts_are_the_text(text: str) -> None:
    cut = parts(text)
    assert "".join(cut) == text
    assert len(cut) <= PARTS


def test_weights_and_marks_by_hand() -> None:
    # The first is missed (3 - 1) and brings 2 - 0; the second is not missed and brings nothing: (2 + 2) / 2 and 0.
    assert weights(3.0, [1.0, 3.0], [2.0, 0.0]) == [2.0, 0.0]
    # Of a most of 2.0, the marks begin at 1.4, 0.8 and 0.4; under 0.5 nothing is marked.
    assert marks([2.0, 1.4, 1.3, 0.8, 0.5, 0.49, -1.0, float("nan")]) == [3, 3, 2, 2, 1, 0, 0, 0]
    assert marks([0.4, 0.1]) == [0, 0]
    assert marks([]) == []


def test_what_the_model_reacts_to_is_marked() -> None:
    def score(texts: Sequence[str]) -> list[Scores]:
        return [Scores({}, 0.9 if "彩金" in text else 0.2, 0.0) for text in texts]

    found = evidence("注册送彩金 now", score)
    assert [part.text for part in found] == ["注册", "送彩", "金 ", "now"]
    assert [part.mark for part in found] == [0, 3, 3, 0]
    # Where one of two would do, leaving one out changes nothing: what each brings by itself does.
    assert [part.mark for part in evidence("彩金 or 彩金", score)] == [3, 0, 3]
    assert evidence("a" * LONGEST + " b", score) == [Part("a" * LONGEST + " b", 0)]
    assert evidence("彩金", score) == [Part("彩金", 0)]


def test_shingles_by_hand() -> None:
    # abcd has abc and bcd; of four shingles in all, abcd and bcde share one of three.
    first, second = shingles("ab CD"), shingles("BCDe")
    assert len(first & second) / len(first | second) == pytest.approx(1 / 3)
    assert len(shingles("a")) == 1


def test_similar_texts_are_those_people_judged(tmp_path: Path, small_policy: Policy) -> None:
    near, far = "register today and get the bonus of 100", "we met at noon in the garden"
    with Store.open(tmp_path / "s.db") as store:
        ids = decided(store, small_policy, [(near, "gambling", 0.8), (far, "fraud", 0.7), (near + "!", "fraud", 0.6)])
        reviews.fill(store)
        items = {one.decision: one for one in reviews.listing(store)}
        asked, cases = items[ids[2]], Cases()
        assert cases.like(store, asked, near + "!") == []
        numbers = reviews.judge(store, [items[ids[0]].id], Judgement("ann", "gambling"))
        reviews.judge(store, [items[ids[1]].id], Judgement("ann", "normal"))
        (found,) = cases.like(store, asked, near + "!")
        assert (found.decision, found.text, found.verdict) == (ids[0], near, "gambling")
        assert 0.9 < found.overlap < 1
        # What is taken back, or forgotten, is shown no more.
        reviews.undo(store, numbers, "ann")
        assert cases.like(store, asked, near + "!") == []
        reviews.judge(store, [items[ids[0]].id], Judgement("bob", "fraud"))
        assert [one.verdict for one in cases.like(store, asked, near + "!")] == ["fraud"]
        forget(store, ids[0])
        assert cases.like(store, asked, near + "!") == []
