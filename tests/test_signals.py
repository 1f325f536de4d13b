"""What is counted of a text: marks of evasion are seen, and plain texts have none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.signals import EVASIONS, text_signals

MARKS = {
    "invisible": ["加\u200b微信", "fr\u00adee", "a\u2066b"],
    "mixed": ["fr\u0435e money", "P\u0430yP\u0430l"],
    "styled": ["ＦＲＥＥ", "𝓯𝓻𝓮𝓮", "加ⓥⓧ"],
    "interleaved": ["加*微*信", "加 微 信 号", "f.r.e.e", "b_e_t n*o*w*s"],
    "rare": ["伽薇亻言𠮷", "沵恏", "привет"],
}


@pytest.mark.parametrize("mark", EVASIONS)
def test_a_mark_is_seen(mark: str) -> None:
    assert set(MARKS) == set(EVASIONS)
    for text in MARKS[mark]:
        assert text_signals(text)[mark] >= 1, text


PLAIN = [
    "今天、明天、后天，都行。",
    "甲、乙、丙、丁四人",
    "U.S. stocks fell (a lot)",
    "caf\u00e9 na\u00efve",
    "👨\u200d👩\u200d👧 family",
    "I am a b",
    "2024-01-02 10:30",
    "",
]


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_text_has_none(text: str) -> None:
    assert {name: text_signals(text)[name] for name in EVASIONS} == dict.fromkeys(EVASIONS, 0)


def test_counts_by_hand() -> None:
    assert text_signals("加\u200b微\u200b信 ab") == {
        "length": 8,
        "language": "zh",
        "invisible": 2,
        "mixed": 0,
        "styled": 0,
        "interleaved": 1,
        "rare": 0,
    }


@given(st.text())
def test_any_text_can_be_counted_and_none_of_it_is_kept(text: str) -> None:
    counted = text_signals(text)
    assert counted["length"] == len(text)
    assert all(isinstance(counted[name], int) for name in EVASIONS)
    assert {type(value) for name, value in counted.items() if name != "language"} == {int}
