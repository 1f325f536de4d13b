from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.config import DataConfig
from tamis.data import Prepared, Rejected, Row, prepare
from tamis.data.near import MISSED, PERMUTATIONS, banding, fold, jaccard, near_duplicates, shingles
from tamis.data.prepare import clean
from tamis.languages import language
from tamis.records import content_id

Data = Callable[..., DataConfig]
LONG = "今天晚上八点在人民广场东边的咖啡馆门口见面记得带上身份证和学生证还有那本蓝色封面的书"


def row(text: str, label: str | None = None, source: str = "s", score: float | None = None) -> Row:
    return Row(text, source, f"{source}:1", None, label, None, score)


def texts(prepared: Prepared) -> list[str]:
    return [example.text for example in prepared.examples]


def kinds(prepared: Prepared) -> list[str]:
    return [rejected.kind for rejected in prepared.rejected]


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("  你 好\u3000", "你 好"),
        ("\ufeff你\x00好\x07", "你好"),
        ("a\r\nb\rc\u2028d\te", "a\nb\nc\nd\te"),
        ("half \ud83d emoji 😀", "half  emoji 😀"),
        ("zero\u200bwidth and ｆｕｌｌ stay", "zero\u200bwidth and ｆｕｌｌ stay"),
        ("\x00\x00", ""),
    ],
)
def test_clean_by_hand(raw: str, wanted: str) -> None:
    assert clean(raw) == wanted


@given(st.text(alphabet=st.characters(codec=None)))
def test_clean_twice_is_clean_once_and_can_be_encoded(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    once.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("你好世界", "zh"),
        ("hello there", "en"),
        ("加微信 vx888888 领取", "zh"),
        ("The word 你 means you in this long sentence", "en"),
        ("これは日本語のテキストです", "other"),
        ("안녕하세요", "other"),
        ("Привет, как дела", "other"),
        ("123 !!! 😀", "other"),
        ("𠀀𠀁", "zh"),
        ("café déjà", "en"),
    ],
)
def test_language_by_script(text: str, wanted: str) -> None:
    assert language(text) == wanted


@pytest.mark.parametrize(
    ("text", "kind"),
    [("\x00\x00", "no text"), ("\ud800", "no text"), ("short", "too short"), ("much too long", "too long")],
)
def test_rows_out_of_bounds_are_rejected(text: str, kind: str, data: Data) -> None:
    prepared = prepare([row(text), row("just right")], data(min_chars=6, max_chars=12))
    assert texts(prepared) == ["just right"]
    assert kinds(prepared) == [kind]


def test_what_reading_rejected_stays_rejected(data: Data) -> None:
    bad = Rejected("s:1", "bad JSON: x")
    assert prepare([bad, row("fine")], data()).rejected == (bad,)


def test_a_text_twice_with_one_verdict_is_one_example(data: Data) -> None:
    prepared = prepare([row("你好 世界", "normal"), row("你好世界", "normal"), row("ＡＢ"), row("ab")], data())
    assert texts(prepared) == ["你好 世界", "ＡＢ"]
    assert prepared.counts["exact_duplicates"] == 2
    assert prepared.counts["read"] == 4
    assert prepared.examples[0].id == content_id("你好世界")


def test_the_gold_copy_is_kept_whichever_comes_first(data: Data) -> None:
    for rows in ([row("你好"), row("你好", "abuse")], [row("你好", "abuse"), row("你好")]):
        assert [example.label for example in prepare(rows, data()).examples] == ["abuse"]


@pytest.mark.parametrize("third", [None, "normal", "abuse", "fraud"])
def test_contradicting_labels_keep_no_copy(third: str | None, data: Data) -> None:
    prepared = prepare([row("你好", "normal"), row("你好", "abuse"), row("你 好", third), row("另外")], data())
    assert texts(prepared) == ["另外"]
    assert kinds(prepared) == ["contradicting labels"] * 3
    assert prepared.counts["exact_duplicates"] == 0


def test_an_unlabelled_copy_does_not_hide_a_contradiction(data: Data) -> None:
    prepared = prepare([row("你好"), row("你好", "normal"), row("你好", "abuse")], data())
    assert not prepared.examples
    assert kinds(prepared).count("contradicting labels") == 2


def test_different_scores_contradict_too(data: Data) -> None:
    assert kinds(prepare([row("你好", score=0.1), row("你好", score=0.9)], data())) == ["contradicting labels"] * 2


@pytest.mark.parametrize(
    "near",
    [
        LONG + "啊",
        "请" + LONG,
        LONG.replace("八", "九"),
        LONG.replace("身份证", "身份证，"),
        LONG + "13800138000",
        LONG.replace("晚上", "晚 上！"),
    ],
)
def test_chinese_near_duplicates_that_word_shingles_miss(near: str, data: Data) -> None:
    words = [set(text.split()) for text in (LONG, near)]
    assert not words[0] & words[1]
    prepared = prepare([row(LONG), row(near, "normal")], data())
    assert texts(prepared) == [near], "the gold copy is kept"
    assert prepared.counts["near_duplicates"] == 1


def test_near_duplicates_are_counted_by_label(data: Data) -> None:
    prepared = prepare([row(LONG, "normal"), row(LONG + "啊", "abuse"), row("别的话")], data())
    assert texts(prepared) == [LONG, "别的话"]
    assert prepared.counts["near_duplicates_other_label"] == 1


def test_another_emoji_makes_a_short_text_another(data: Data) -> None:
    assert len(prepare([row("what a 🐷 you are"), row("what a 🥰 you are")], data()).examples) == 2


def test_texts_shorter_than_a_shingle_are_compared_whole(data: Data) -> None:
    short = ["好", "好的", "好的呀", "12345678", "87654321", "？？？？？", "！！！！！"]
    assert texts(prepare([row(text) for text in short], data())) == short


@pytest.mark.parametrize("forced", ["test", "validation", "calibration"])
def test_the_training_copy_of_an_evaluation_text_goes(forced: str, data: Data) -> None:
    config = data({"tr": "train", "free": None, "ev": forced})
    rows = [row(LONG, "normal", "tr"), row("请" + LONG, "normal", "free"), row(LONG + "啊", "normal", "ev")]
    prepared = prepare(rows, config)
    assert [example.source for example in prepared.examples] == ["ev"]
    assert prepared.counts["near_duplicates_of_evaluation"] == 2
    exact = prepare([row("你好", "normal", "tr"), row("你好", "normal", "ev")], config)
    assert [example.source for example in exact.examples] == ["ev"]


def test_a_published_test_set_keeps_its_own_near_duplicates(data: Data) -> None:
    config = data({"v": "validation", "t": "test"})
    rows = [row(LONG, "normal", "v"), row(LONG + "啊", "normal", "t"), row(LONG + "哦", "abuse", "t")]
    assert [example.source for example in prepare(rows, config).examples] == ["t", "t"]


def test_an_evaluation_row_without_verdict_is_rejected(data: Data) -> None:
    prepared = prepare([row("你好", None, "t"), row("再见", "normal", "t")], data({"t": "test"}))
    assert texts(prepared) == ["再见"]
    assert kinds(prepared) == ["no verdict"]


def test_progress_ends_at_its_total(data: Data) -> None:
    told: list[tuple[int, int]] = []
    prepare([row(f"{LONG}{n}") for n in range(10)], data(), lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0


def test_jaccard_by_hand() -> None:
    assert shingles("abcd12 ef", 4) == {"abcd", "bcde", "cdef"}
    assert jaccard(shingles("abcdef", 4), shingles("abcdefg", 4)) == 0.75
    assert jaccard(frozenset(), frozenset()) == 0


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.5, 0.8, 0.9, 0.95, 1.0])
def test_banding_misses_few_pairs(threshold: float) -> None:
    bands, rows = banding(threshold)
    assert 1 <= bands * rows <= PERMUTATIONS
    if threshold >= 0.3:
        assert (1 - threshold**rows) ** bands <= MISSED


def brute(found: Sequence[str], shingle: int, threshold: float) -> list[int]:
    kept: list[int] = []
    match = []
    for index, text in enumerate(found):
        near = [k for k in kept if jaccard(shingles(text, shingle), shingles(found[k], shingle)) >= threshold]
        match.append(near[0] if near else -1)
        kept += [] if near else [index]
    return match


@pytest.mark.parametrize(("shingle", "threshold"), [(2, 0.5), (4, 0.8), (5, 0.9), (3, 1.0)])
def test_the_fast_way_finds_what_comparing_all_pairs_finds(shingle: int, threshold: float) -> None:
    random_source = random.Random(shingle)
    letters = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可"
    found: list[str] = []
    for _ in range(400):
        base = random_source.choice(found) if found and random_source.random() < 0.5 else ""
        text = base or "".join(random_source.choices(letters, k=random_source.randint(0, 40)))
        place = random_source.randrange(len(text) + 1)
        found.append(text[:place] + random_source.choice(letters) + text[place + random_source.randrange(2) :])
    none = np.full(len(found), -1)
    match = near_duplicates(found, np.arange(len(found)), none, shingle, threshold)
    assert match.tolist() == brute(found, shingle, threshold)
    assert (match >= 0).sum() >= 4


def test_many_copies_of_one_template_do_not_multiply() -> None:
    found = [f"{LONG}{'零一二三四五六七八九'[n % 10]}{n}" for n in range(20_000)]
    match = near_duplicates(found, np.arange(len(found)), np.full(len(found), -1), 4, 0.8)
    assert (match < 0).sum() == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="你好abc 1！😀", max_size=12), max_size=20))
def test_every_row_is_an_example_a_counted_copy_or_rejected(found: list[str]) -> None:
    config = DataConfig.model_validate({"sources": [{"path": "s.jsonl"}]})
    prepared = prepare([row(text) for text in found], config)
    counts = prepared.counts
    copies = counts["exact_duplicates"] + counts["near_duplicates"]
    assert len(prepared.examples) + len(prepared.rejected) + copies == len(found) == counts["read"]
    assert len({example.id for example in prepared.examples}) == len(prepared.examples)


@given(st.text())
def test_folding_twice_keeps_no_digit_and_no_space(text: str) -> None:
    assert not any(letter.isdigit() or letter.isspace() for letter in fold(text))


def partly(labels: tuple[str, ...], unknown: tuple[str, ...]) -> Row:
    return Row("你好", "s", "s:1", labels=labels, unknown=unknown)


def test_copies_that_know_of_different_categories_are_joined(data: Data) -> None:
    found = prepare(
        [partly(("abuse",), ("fraud",)), partly((), ("abuse", "normal")), partly(("fraud",), ("abuse",))], data()
    )
    assert (kinds(found), found.examples) == (["contradicting labels"] * 2, ())
    (joined,) = prepare([partly(("abuse",), ("fraud",)), partly(("fraud",), ("abuse",))], data()).examples
    assert (joined.labels, joined.unknown) == (("abuse", "fraud"), ())
    (denied,) = prepare([partly(("abuse",), ("fraud",)), partly((), ("abuse", "normal"))], data()).examples
    assert (denied.labels, denied.unknown) == (("abuse",), ())
