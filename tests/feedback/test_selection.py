"""What to review next, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.feedback import choose, disagreement, likelier, margin, novelty, shifted


def test_criteria_by_hand() -> None:
    assert margin(np.array([[0.5, 0.5, 0.0], [0.2, 0.7, 0.1], [1.0, 0.0, 0.0]])) == pytest.approx([1.0, 0.5, 0.0])
    # (1, 0) against (.5, .5): middle (.75, .25); half of log2(4/3) plus half of (.5 log2(2/3) + .5 log2 2).
    wanted = 0.5 * np.log2(4 / 3) + 0.25 * np.log2(2 / 3) + 0.25
    assert disagreement(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])) == pytest.approx([wanted])
    assert disagreement(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == pytest.approx([1.0])
    known = np.array([[2.0, 0.0], [0.0, 1.0]])
    found = novelty(np.array([[5.0, 0.0], [1.0, 1.0], [-1.0, -1.0]]), known)
    assert found == pytest.approx([0.0, 1 - 2**-0.5, 1 + 2**-0.5])
    assert novelty(known, np.empty((0, 2))).tolist() == [1.0, 1.0]


def test_what_came_into_the_traffic_is_found_though_it_is_near_to_what_was_there() -> None:
    generator = np.random.default_rng(0)
    reference, now = generator.normal(size=(500, 16)), generator.normal(size=(300, 16))
    now[:60] += 0.9
    found = shifted(now, reference)
    assert found.shape == (300,)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.argsort(-found)[:60] < 60).mean() > 0.7
    # What is far from all that was there says less of it.
    assert (np.argsort(-novelty(now, reference))[:60] < 60).mean() < 0.5
    assert shifted(now[:4], reference).tolist() == [1.0] * 4
    assert shifted(now, reference[:0]).tolist() == [1.0] * 300


def test_traffic_counts_the_same_however_many_rows_it_has() -> None:
    before, now = np.repeat([[0.0], [1.0]], [900, 100], axis=0), np.repeat([[0.0], [1.0]], [10, 10], axis=0)
    one, other = likelier(before, now, np.array([[0.0], [1.0]]))
    assert one < 0.5 < other


def test_the_best_of_all_criteria_come_first() -> None:
    criteria = {"uncertainty": np.array([0.1, 0.9, 0.5, 0.2]), "novelty": np.array([3.0, 8.0, 9.0, 1.0])}
    # Mean ranks: 1/6, 5/6 (1 and 2/3), 5/6 (2/3 and 1), 1/6: of equal ones the first.
    assert choose(criteria, ["a"] * 4, {}, 3, rare=0.0).tolist() == [1, 2, 0]


def test_rare_categories_get_their_share() -> None:
    categories = ["normal"] * 8 + ["fraud"] * 2 + ["gambling"]
    worth = {"uncertainty": np.linspace(1, 0, 11)}
    # Three places in turn to the scarcest: gambling of none, then fraud of 1, then fraud again with 2.
    chosen = choose(worth, categories, {"normal": 100, "fraud": 1}, 5, rare=0.6)
    # The other two are spread over the best four.
    assert chosen.tolist() == [10, 8, 9, 0, 2]


def test_what_is_chosen_is_spread_over_twice_as_many_of_the_best() -> None:
    worth = {"of now": np.linspace(1, 0, 100)}
    assert choose(worth, ["a"] * 100, {}, 4, rare=0.0).tolist() == [0, 2, 4, 6]
    # Of seven there are no fourteen: five of the seven, the best first.
    assert choose({"of now": worth["of now"][:8]}, ["a"] * 8, {}, 5, rare=0.0).tolist() == [0, 1, 2, 4, 5]
    # Where five are worth anything, nobody is spread to those that are not.
    few = np.where(np.arange(100) % 20 == 0, 0.7, 0.0)
    assert choose({"disputed": few}, ["a"] * 100, {}, 4, rare=0.0).tolist() == [0, 20, 40, 60]
    assert choose({"disputed": few}, ["a"] * 100, {}, 7, rare=0.0).tolist() == [0, 20, 40, 60, 80, 1, 2]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), max_size=30), st.integers(0, 40), st.floats(0, 1))
def test_no_candidate_twice_and_no_place_left_empty(rows: list[tuple[str, float]], count: int, rare: float) -> None:
    chosen = choose({"u": np.array([worth for _, worth in rows])}, [name for name, _ in rows], {}, count, rare)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(rows))
