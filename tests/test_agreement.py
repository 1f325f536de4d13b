"""Agreement by hand, and against scikit-learn."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from tamis.agreement import cohen, krippendorff


def test_kappa_by_hand() -> None:
    # Cohen's textbook table: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no; p_o = .7, p_e = .5 * .6 + .5 * .4 = .5.
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen(pairs) == pytest.approx(0.4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=30))
def test_kappa_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    if len({name for pair in pairs for name in pair}) > 1:
        assert cohen(pairs) == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))
    else:
        assert math.isnan(cohen(pairs))


def test_alpha_by_hand() -> None:
    # Krippendorff's example C (2011), four observers and twelve units with gaps, nominal: .743.
    units = ["111", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", "555", "11", "3"]
    assert krippendorff(units) == pytest.approx(0.743, abs=0.0005)


def test_alpha_of_two_raters_by_hand() -> None:
    # aa, ab, bb: n = 6, n_a = n_b = 3; observed 2 of 6 differ, expected 18 of 30: 1 - (1/3) / (3/5).
    assert krippendorff(["aa", "ab", "bb"]) == pytest.approx(1 - (1 / 3) / (3 / 5))


def test_nothing_to_compare() -> None:
    assert math.isnan(cohen([]))
    assert math.isnan(krippendorff([]))
    assert math.isnan(krippendorff(["a", "b"]))
    assert math.isnan(krippendorff(["aa", "aa"]))
