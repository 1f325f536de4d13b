from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from importlib import resources

import pytest

from tamis.errors import DataError
from tamis.judge.baselines import BASELINES, fit_baseline, keyword, nb, svm
from tamis.policy import Policy, load_policy
from tamis.records import Example, TeacherSignal, TrainSplit

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


@pytest.mark.parametrize("name", ["nb", "svm"])
def test_probabilities_mean_what_they_say(name: str, small_policy: Policy) -> None:
    said = {"送彩金上车": ("gambling", "fraud"), "收卡跑分日结": ("fraud", "gambling")}
    # Three labels in ten are of the other class, so nobody can be right more often than in seven of ten.
    wrong = random.Random(0)
    rows = [
        Example("", f"{text} {i}", "zh", "made", said[text][wrong.random() < 0.3]) for text in said for i in range(200)
    ]
    scores = BASELINES[name](rows, small_policy)([f"{text} {i}" for text in said for i in range(200, 300)])
    sure = [max(score.probabilities.values()) for score in scores]
    assert sum(sure) / len(sure) == pytest.approx(0.7, abs=0.05)


def test_naive_bayes_does_not_lose_a_rare_class_to_the_largest() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import MultinomialNB

    policy, texts = load_policy("default").only(["normal", "gambling"]), {}
    for name in policy.ids:
        lines = (resources.files("tamis.data") / "demo" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        texts[name] = [str(json.loads(line)["text"]) for line in lines]
    shown = {"normal": texts["normal"][:200], "gambling": texts["gambling"][:20]}
    rows = [Example("", text, "zh", "made", name) for name in shown for text in shown[name]]
    score = nb(rows, policy)
    found, mistaken = (
        sum(one.category == "gambling" for one in score(texts[name][len(shown[name]) :]))
        for name in ("gambling", "normal")
    )
    assert found > 20 > mistaken
    # The multinomial kind, on the same features, hardly ever names another class than the largest.
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    other = MultinomialNB(alpha=0.1).fit(vectorizer.fit_transform([e.text for e in rows]), [e.label for e in rows])
    assert sum(other.predict(vectorizer.transform(texts["gambling"][20:])) == "gambling") < 5


TEXTS = ["注册就送彩金", "easy money no fee", "the soup needs salt", "今天彩金到账"]


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_can_learn_from_the_teacher(
    name: str, examples: tuple[Example, ...], small_policy: Policy, make_signal: Callable[..., TeacherSignal]
) -> None:
    hidden = [replace(example, label=None) for example in examples]
    mistaken = {"gambling": "fraud", "fraud": "fraud", "normal": "normal"}
    signals, rows, wanted = {}, [], []
    for i, (example, bare) in enumerate(zip(examples, hidden, strict=True)):
        told = replace(example, label=mistaken[str(example.label)])
        if i % 4 == 0:  # silent on an unlabelled row, which teaches nothing
            rows.append(bare)
        elif i % 4 == 1:  # a refusal leaves the human label, or no signal at all does
            rows.append(example)
            wanted.append(example)
            if i % 8 == 1:
                signals[example.id] = make_signal(told, outcome="refused", probabilities={})
        else:  # an answer counts, whatever people said
            rows.append(example if i % 4 == 2 else bare)
            wanted.append(told)
            signals[example.id] = make_signal(told)
    found = fit_baseline(f"{name}_teacher", TrainSplit(tuple(rows)), signals, small_policy)(TEXTS)
    assert found == BASELINES[name](wanted, small_policy)(TEXTS)
    people = fit_baseline(name, TrainSplit(tuple(rows)), signals, small_policy)(TEXTS)
    assert people == BASELINES[name]([row for row in rows if row.label], small_policy)(TEXTS)
    assert people != found


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_may_name_several_categories(
    name: str, examples: tuple[Example, ...], small_policy: Policy, make_signal: Callable[..., TeacherSignal]
) -> None:
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    both, none = {"normal": 0.1, "gambling": 0.5, "fraud": 0.9}, {"normal": 0.8, "gambling": 0.4, "fraud": 0.1}
    rows = TrainSplit(tuple(replace(example, label=None) for example in examples))
    labels = [() if example.label == "normal" else ("gambling", "fraud") for example in examples]
    signals = {e.id: make_signal(e, probabilities=none if e.label == "normal" else both) for e in examples}
    found = fit_baseline(f"{name}_teacher", rows, signals, policy)(TEXTS)
    wanted = [replace(row, labels=told) for row, told in zip(rows.examples, labels, strict=True)]
    assert found == BASELINES[name](wanted, policy)(TEXTS)
    assert found[0].probabilities["gambling"] == pytest.approx(found[0].probabilities["fraud"])


def test_a_lexicon_of_the_user_is_the_keyword_list_and_nothing_else(
    examples: tuple[Example, ...], small_policy: Policy
) -> None:
    train, lexicon = TrainSplit(examples), {"gambling": {"soup": 4.0}, "fraud": {}}
    (given,) = fit_baseline("keyword", train, {}, small_policy, lexicon)(["the soup needs salt"])
    assert (given.category, given.evidence) == ("gambling", ("soup",))
    for name in ("keyword_teacher", "nb", "svm"):
        (learnt,) = fit_baseline(name, train, {}, small_policy, lexicon)(["the soup needs salt"])
        assert learnt.category == "normal"


@pytest.mark.parametrize("name", BASELINES)
def test_rows_that_do_not_know_a_category_do_not_teach_its_absence(
    name: str, examples: tuple[Example, ...], small_policy: Policy
) -> None:
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    known = [replace(e, label=None, labels=(str(e.label),)) for e in examples]
    text = " ".join(e.text for e in examples if e.label == "fraud")
    open_ = [replace(e, labels=(), unknown=("normal", "fraud")) for e in known if e.labels == ("fraud",)] * 3
    absent = [replace(e, unknown=(), labels=("normal",)) for e in open_]
    taught, same, less = (
        BASELINES[name](rows, policy)([text])[0] for rows in (known, [*known, *open_], [*known, *absent])
    )
    assert same.probabilities["fraud"] == pytest.approx(taught.probabilities["fraud"], abs=0.1)
    assert less.probabilities["fraud"] < same.probabilities["fraud"]


def test_baselines_of_levels_learn_from_scores(examples: tuple[Example, ...]) -> None:
    scores = {"normal": 0.05, "gambling": 0.6, "fraud": 0.95}
    rows = [replace(e, label=None, score=scores[str(e.label)]) for e in examples]
    low, middle, high = svm(rows, load_policy("severity"))(["今天天气很好", "注册就送彩金", "日入上千私我"])
    assert (low.category, middle.category, high.category) == ("none", "serious", "extreme")
    assert low.risk < middle.risk < high.risk
