from __future__ import annotations

from pathlib import Path

import pytest

from tamis.errors import BundleError
from tamis.policy import Policy
from tamis.records import Example, Scores
from tamis.ship.bundle import BundleSpec, Moderator
from tamis.ship.parity import ALL, Parity, compare, require_parity

PAGE = Path("parity.json")


def rows(langs: str) -> list[Example]:
    return [Example(str(i), "x", {"z": "zh", "e": "en"}[lang], "made") for i, lang in enumerate(langs)]


@pytest.fixture
def say(small_policy: Policy) -> object:
    """The scores of one text: normal, gambling, fraud."""
    return lambda *shares: small_policy.scores(dict(zip(("normal", "gambling", "fraud"), shares, strict=True)))


@pytest.fixture
def judge(small_policy: Policy) -> Moderator:
    """A bundle that only decides."""
    spec = BundleSpec("{text}", "", 8, "mean", small_policy.label_space)
    return Moderator(None, None, small_policy, spec, "made")  # type: ignore[arg-type]


def test_flips_by_hand(say: object, judge: Moderator) -> None:
    # Review is at a risk of 0.5 and block at 0.9.
    pairs: list[tuple[Scores, Scores]] = [
        (say(0.9, 0.05, 0.05), say(0.85, 0.1, 0.05)),  # the same decision
        (say(0.3, 0.6, 0.1), say(0.3, 0.1, 0.6)),  # another category
        (say(0.02, 0.97, 0.01), say(0.2, 0.79, 0.01)),  # the same category, block becomes review
        (say(0.08, 0.91, 0.01), say(0.12, 0.87, 0.01)),  # so too, but 0.92 was nearly 0.9
    ]
    table = compare([a for a, _ in pairs], [b for _, b in pairs], rows("zzee"), judge)
    assert table[ALL] == Parity(4, 3, 2, pytest.approx(0.5))
    assert table["language zh"] == Parity(2, 1, 1, pytest.approx(0.5))
    assert table["language en"] == Parity(2, 2, 1, pytest.approx(0.18))
    assert table["class normal"] == Parity(1, 0, 0, pytest.approx(0.05))
    assert table["class gambling"] == Parity(3, 3, 2, pytest.approx(0.5))
    assert set(table) == {ALL, "language zh", "language en", "class normal", "class gambling"}


def test_pitfall_17_one_language_that_is_ruined_is_enough(say: object, judge: Moderator) -> None:
    wanted = [say(0.9, 0.05, 0.05)] * 400
    got = [say(0.9, 0.05, 0.05)] * 398 + [say(0.05, 0.9, 0.05)] * 2
    table = compare(wanted, got, rows("z" * 390 + "e" * 10), judge)
    assert table[ALL].holds
    with pytest.raises(BundleError, match=r"the onnx int8 bundle decides 2 of 10 texts \(language en\) otherwise"):
        require_parity(table, "onnx int8", PAGE)


def test_a_near_tie_may_flip_a_clear_decision_may_not(say: object, judge: Moderator) -> None:
    near, clear, other = say(0.02, 0.5, 0.48), say(0.01, 0.69, 0.3), say(0.02, 0.48, 0.5)
    table = compare([near] * 9, [other] * 9, rows("z" * 9), judge)
    assert (table[ALL].flips, table[ALL].clear_flips) == (9, 0)
    require_parity(table, "torch", PAGE)
    with pytest.raises(BundleError, match=r"not exported, see parity\.json"):
        require_parity(compare([clear] * 9, [other] * 9, rows("z" * 9), judge), "torch", PAGE)


@pytest.mark.parametrize(("texts", "clear", "holds"), [(5, 1, True), (5, 2, False), (300, 3, True), (300, 4, False)])
def test_one_in_a_hundred_or_a_single_one(texts: int, clear: int, holds: bool) -> None:
    assert Parity(texts, clear, clear, 0.5).holds is holds
