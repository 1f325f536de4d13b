from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import ConfigError
from tamis.judge.lexicon import finder, lexicon_scorer, mined, normal, read_lexicon, terms
from tamis.policy import Policy

EVEN = math.log1p(math.exp(2))  # the weight at which a category's e^w - 1 is the benign one's e^2
TEXTS = st.text("aw9'é 送彩金卡\t🎰")


def test_one_category_shares_the_probability_with_the_benign_one(small_policy: Policy) -> None:
    lexicon = {"gambling": {"彩金": EVEN / 2, "bonus": EVEN / 2, "win": 1.0}, "fraud": {"收卡": 1.0}}
    both, one, none = lexicon_scorer(lexicon, small_policy)(["送彩金 BONUS", "送彩金", "天气"])
    assert both.probabilities == pytest.approx({"normal": 0.5, "gambling": 0.5, "fraud": 0})
    assert both.evidence == ("bonus", "彩金")
    mass = math.sqrt(1 + math.exp(2)) - 1
    assert one.risk == pytest.approx(mass / (mass + math.exp(2)))
    assert none.probabilities == {"normal": 1, "gambling": 0, "fraud": 0}
    assert none.evidence == ()


def test_several_categories_have_a_probability_each(small_policy: Policy) -> None:
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    lexicon = {"gambling": {"彩金": 2 * math.log(2), "送彩": 2 * math.log(2)}, "fraud": {"彩金": 2 * math.log(2)}}
    (score,) = lexicon_scorer(lexicon, policy)(["送彩金"])
    assert score.probabilities == pytest.approx({"normal": 0.25, "gambling": 0.75, "fraud": 0.5})
    assert score.evidence == ("彩金", "送彩")


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("win", "Win!", True),
        ("win", "来win吧", True),
        ("win", "a window", False),
        ("win", "rewin", False),
        ("win", "win's", False),
        ("win", "window, win", True),
        ("free spins", "get ＦＲＥＥ\n spins", True),
        ("free spins", "free spinster", False),
        ("加v", "加vip", False),
        ("加v", "快加V信", True),
        ("+v", "x+v", True),
        ("彩金", "送彩金的", True),
    ],
)
def test_latin_words_are_whole_and_chinese_is_anywhere(term: str, text: str, found: bool) -> None:
    assert finder({term, "送"})(normal(text)) - {"送"} == ({term} if found else set())


@given(TEXTS, st.sets(TEXTS.flatmap(lambda text: st.sampled_from(sorted(terms(text)) or ["aw"]))))
def test_the_automaton_finds_the_terms_that_would_be_mined(text: str, wanted: set[str]) -> None:
    assert finder(wanted)(normal(text)) == wanted & terms(text)


@given(TEXTS)
def test_it_finds_everything_that_is_mined_from_a_text(text: str) -> None:
    assert finder(terms(text))(normal(text)) == terms(text)


def test_terms_are_words_and_runs_of_chinese() -> None:
    assert terms("Ｆree 送彩金") == {"free", "送彩", "彩金", "送彩金"}


def test_mined_weights_are_log_odds_against_the_other_texts(small_policy: Policy) -> None:
    rows = [
        (text, {name: name == label for name in small_policy.ids})
        for label, texts in {"gambling": ["win now", "win 送彩"], "normal": ["it rains now", "hello"]}.items()
        for text in texts
    ]
    # 2 of 2 against 0 of 2: log(2.5 / 0.5) - log(0.5 / 2.5). `now` says nothing, `送彩` stands in one text.
    assert mined(rows, small_policy) == {"gambling": {"win": pytest.approx(math.log(25))}, "fraud": {}}


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "lexicon.tsv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_file_is_read_as_it_is_matched(tmp_path: Path, small_policy: Policy) -> None:
    text = (
        "# ours\r\n送彩金\tgambling\r\n\r\n Ｆree  Spins \tgambling\t2.5\nfree spins\tgambling\t3\nwin\tfraud\t1e-1\n"
    )
    lexicon = read_lexicon(write(tmp_path, text, "utf-8-sig"), small_policy)
    assert lexicon == {"gambling": {"送彩金": 4, "free spins": 3}, "fraud": {"win": 0.1}}
    (score,) = lexicon_scorer(lexicon, small_policy)(["注册送彩金"])
    assert score.category == "gambling"
    assert score.risk == pytest.approx(53.598 / (53.598 + 7.389), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# nothing\n\n", "has no term: give it lines"),
        ("", "has no term: give it lines"),
        ("a\tfraud\nb fraud\n", "line 2: wanted a term, .* got 1 cells"),
        ("a\tfraud\t1\t2\n", "line 1: wanted a term, .* got 4 cells"),
        ("\n \tfraud\n", "line 2: there is no term before the tab"),
        ("a\tscam\n", "line 1: 'scam' is no harmful category of the policy, it has gambling, fraud"),
        ("a\tnormal\n", "line 1: 'normal' is no harmful category"),
        ("a\tfraud\theavy\n", "line 1: the weight is 'heavy', wanted a number above 0"),
        ("a\tfraud\t0\n", "the weight is '0'"),
        ("a\tfraud\t-1\n", "the weight is '-1'"),
        ("a\tfraud\tinf\n", "the weight is 'inf'"),
        ("a\tfraud\tnan\n", "the weight is 'nan'"),
        ("a\tfraud\t\n", "the weight is ''"),
    ],
)
def test_a_file_with_a_mistake_is_refused_in_a_sentence(
    text: str, sentence: str, tmp_path: Path, small_policy: Policy
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_lexicon(write(tmp_path, text), small_policy)


def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(tmp_path: Path, small_policy: Policy) -> None:
    with pytest.raises(ConfigError, match=r"No such file or directory; check evaluate\.lexicon"):
        read_lexicon(tmp_path / "none.tsv", small_policy)
    with pytest.raises(ConfigError, match=r"is not UTF-8 \(byte 0\): save it as UTF-8"):
        read_lexicon(write(tmp_path, "赌\tfraud\n", "gb18030"), small_policy)
