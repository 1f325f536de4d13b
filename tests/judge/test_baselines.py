from __future__ import annotations

from dataclasses import replace

import pytest

from tamis.errors import DataError
from tamis.judge.baselines import BASELINES, keyword, svm, terms
from tamis.policy import Policy
from tamis.records import Example

NAMES = sorted(BASELINES)


@pytest.mark.parametrize("name", NAMES)
def test_learns_what_it_is_shown(name: str, examples: tuple[Example, ...], small_policy: Policy) -> None:
    scores = BASELINES[name](examples, small_policy)([example.text for example in examples])
    right = sum(score.category == example.label for score, example in zip(scores, examples, strict=True))
    assert right / len(examples) > 0.9
    assert all(sum(score.probabilities.values()) == pytest.approx(1) for score in scores)
    assert all(tuple(score.probabilities) == small_policy.ids for score in scores)


@pytest.mark.parametrize("name", NAMES)
def test_is_deterministic(name: str, examples: tuple[Example, ...], small_policy: Policy) -> None:
    texts = [example.text for example in examples[:20]] + ["送彩金 bonus 日结", ""]
    assert BASELINES[name](examples, small_policy)(texts) == BASELINES[name](examples, small_policy)(texts)


@pytest.mark.parametrize("name", NAMES)
def test_without_texts_there_are_no_scores(name: str, examples: tuple[Example, ...], small_policy: Policy) -> None:
    assert BASELINES[name](examples, small_policy)([]) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 2, 50])
def test_few_rows_of_a_class_do_not_crash(
    name: str, rows: int, examples: tuple[Example, ...], small_policy: Policy
) -> None:
    harmful = [example for example in examples if example.label == "gambling"][:2]
    shown = [*harmful, *(example for example in examples if example.label == "normal")][:rows]
    (score,) = BASELINES[name](shown, small_policy)(["今天天气很好"])
    assert score.probabilities["fraud"] == pytest.approx(0)
    assert sum(score.probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", NAMES)
def test_several_labels(name: str, examples: tuple[Example, ...], small_policy: Policy) -> None:
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    shown = [replace(e, label=None, labels=() if e.label == "normal" else (str(e.label),)) for e in examples]
    text = " ".join(e.text for e in examples if e.label in ("gambling", "fraud"))
    harmful, harmless = BASELINES[name](shown, policy)([text, "the soup needs salt"])
    assert harmful.risk > 0.5 > harmless.risk
    assert harmless.probabilities["normal"] > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_a_label_are_refused_in_a_sentence(name: str, small_policy: Policy) -> None:
    with pytest.raises(DataError, match="none of its rows has one"):
        BASELINES[name]([Example("1", "hello", "en", "made")], small_policy)


def test_a_keyword_list_finds_words_inside_a_text(examples: tuple[Example, ...], small_policy: Policy) -> None:
    (hit, miss) = keyword(examples, small_policy)(["朋友说送彩金的那家", "完全无关的句子"])
    assert hit.category == "gambling"
    assert "送彩金" in hit.evidence
    assert miss.probabilities["normal"] == 1
    assert miss.evidence == ()


def test_terms_are_words_and_runs_of_chinese() -> None:
    assert terms("Ｆree 送彩金") == {"free", "送彩", "彩金", "送彩金"}


def test_the_svm_trains_on_labels_of_a_teacher(examples: tuple[Example, ...], small_policy: Policy) -> None:
    told = [replace(example, label="fraud" if example.label == "gambling" else example.label) for example in examples]
    (score,) = svm(told, small_policy)(["注册就送彩金"])
    assert score.category == "fraud"
