"""The audit: by-hand figures and the warnings a person must see."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from tests.teach.conftest import FakeEndpoint, example, settings

from tamis.errors import DataError
from tamis.policy import Policy
from tamis.records import TeacherSignal, TestSplit, TrainSplit, ValidationSplit
from tamis.store import Store
from tamis.teach import audit, make_teacher
from tamis.teach.audit import calibration_error, linear_macro_f1, measure

WORDS = {
    "normal": "吃饭",
    "gambling": "赌博",
    "abuse": "辱骂",
    "fraud": "欺诈",
    "spam_ad": "广告",
    "pornography": "色情",
}


def gold(start: int, n: int) -> tuple:
    return tuple(example(f"{word}{i:03d}", name) for i in range(start, start + n) for name, word in WORDS.items())


def told(name: str, outcome: str = "ok", **probabilities: float) -> TeacherSignal:
    return TeacherSignal(name, "t", "s", "logprobs", outcome, probabilities)  # type: ignore[arg-type]


def test_figures_by_hand(policy: Policy) -> None:
    two = policy.only(["normal", "abuse"])
    rows = [example("一", "normal"), example("二", "normal"), example("三", "abuse"), example("四", "abuse")]
    answers = [
        told(rows[0].id, normal=0.9, abuse=0.1),
        told(rows[1].id, normal=0.4, abuse=0.6),
        told(rows[2].id, normal=0.2, abuse=0.8),
        told(rows[3].id, "refused"),
    ]
    page = measure(rows, {signal.example_id: signal for signal in answers}, two)
    # normal: precision 1, recall 1/2, F1 2/3; abuse: precision 1/2, recall 1/2, F1 1/2.
    assert page["per_class"]["normal"]["f1"] == pytest.approx(2 / 3)
    assert page["per_class"]["abuse"] == pytest.approx(
        {"precision": 0.5, "recall": 0.5, "f1": 0.5, "rows": 2, "refused": 1}
    )
    assert page["macro_f1"] == pytest.approx(7 / 12)
    assert page["accuracy"] == 0.5
    assert page["outcomes"] == {"ok": 3, "refused": 1, "unparsable": 0, "failed": 0}
    # Three bins of one row each: |0.9 - 1|, |0.6 - 0|, |0.8 - 1|, a third each.
    assert page["ece"] == pytest.approx((0.1 + 0.6 + 0.2) / 3)


def test_calibration_error_of_no_answers_is_no_number() -> None:
    assert math.isnan(calibration_error(np.array([]), np.array([], dtype=bool)))


def test_a_good_teacher_has_no_warning(endpoint: FakeEndpoint, policy: Policy, store: Store) -> None:
    config = settings(endpoint, self_check=4)
    teacher = make_teacher(config, policy)
    page = audit(teacher, ValidationSplit(gold(0, 6)), TrainSplit(gold(50, 6)), store, config, policy)
    assert page["macro_f1"] == 1.0
    assert page["warnings"] == []
    assert page["agreement"] == {"rows": 4, "same": 1.0, "distance": 0.0}
    assert page["methods"] == {"logprobs": 36}
    json.dumps(page, allow_nan=False)


@pytest.mark.parametrize(
    ("language", "sentence"), [("en", "is below a linear model"), ("zh", "不如用同样 36 条人工标注")]
)
def test_pitfall_5_a_teacher_below_a_linear_model_is_warned_about(
    endpoint: FakeEndpoint, policy: Policy, store: Store, language: str, sentence: str
) -> None:
    swapped = {"赌博": "广告", "广告": "赌博"}

    def rule(body: dict, text: str, _times: int) -> object:
        word = next((word for word in swapped if word in text), None)
        return endpoint.reply({"messages": [{"content": text.replace(word, swapped[word])}]}) if word else None

    def once(body: dict, text: str, times: int) -> object:
        endpoint.rule = None
        try:
            return rule(body, text, times)
        finally:
            endpoint.rule = once

    endpoint.rule = once
    config = settings(endpoint, concurrency=1)
    splits = ValidationSplit(gold(0, 6)), TrainSplit(gold(50, 6))
    page = audit(make_teacher(config, policy), *splits, store, config, policy, language)  # type: ignore[arg-type]
    assert page["macro_f1"] == pytest.approx(4 / 6)
    assert page["linear_macro_f1"] == 1.0
    assert sentence in page["warnings"][0]


def test_pitfall_1_refusals_are_told_per_class(endpoint: FakeEndpoint, policy: Policy, store: Store) -> None:
    refusal = (400, {"error": {"message": "Content Exists Risk"}}, {})
    endpoint.rule = lambda _body, text, _times: refusal if "色情" in text else None
    config = settings(endpoint)
    splits = ValidationSplit(gold(0, 6)), TrainSplit(gold(50, 6))
    page = audit(make_teacher(config, policy), *splits, store, config, policy)
    assert page["per_class"]["pornography"]["refused"] == 6
    assert page["per_class"]["gambling"]["refused"] == 0
    assert any("refuses 100% of pornography" in warning for warning in page["warnings"])


def test_a_test_split_is_refused(endpoint: FakeEndpoint, policy: Policy, store: Store) -> None:
    config = settings(endpoint)
    with pytest.raises(DataError, match="got TestSplit"):
        audit(make_teacher(config, policy), TestSplit(gold(0, 1)), TrainSplit(()), store, config, policy)  # type: ignore[arg-type]


def test_no_gold_is_one_sentence(endpoint: FakeEndpoint, policy: Policy, store: Store) -> None:
    config = settings(endpoint)
    with pytest.raises(DataError, match="has no human labels"):
        audit(make_teacher(config, policy), ValidationSplit(()), TrainSplit(()), store, config, policy)


def test_figures_of_several_labels_by_hand(policy: Policy) -> None:
    several = policy.only(["normal", "abuse", "fraud"]).model_copy(update={"kind": "multi_label"})
    kinds = [
        {"labels": ("abuse", "fraud")},
        {"labels": ("normal",)},
        {"labels": ("abuse",), "unknown": ("fraud",)},
        {"labels": ("fraud",)},
    ]
    rows = [replace(example(text), **kind) for text, kind in zip("一二三四", kinds, strict=True)]
    answers = [
        told(rows[0].id, normal=0.1, abuse=0.8, fraud=0.3),
        told(rows[1].id, normal=0.7, abuse=0.1, fraud=0.6),
        told(rows[2].id, normal=0.1, abuse=0.9, fraud=0.9),
        told(rows[3].id, "refused"),
    ]
    page = measure(rows, {signal.example_id: signal for signal in answers}, several)
    # abuse: both found; fraud: 0 of 2, and one false alarm, the unknown one being none; normal: not named beside fraud.
    assert page["per_class"]["abuse"] == pytest.approx({"precision": 1, "recall": 1, "f1": 1, "rows": 2, "refused": 0})
    assert page["per_class"]["fraud"] == pytest.approx({"precision": 0, "recall": 0, "f1": 0, "rows": 2, "refused": 1})
    assert page["macro_f1"] == pytest.approx(1 / 3)
    assert page["accuracy"] == 0.25
    assert page["confusion"] is None
    # Eight claims: (0.1, no) three times, (0.8, yes), (0.3, yes), (0.7, yes), (0.6, no), (0.9, yes).
    assert page["ece"] == pytest.approx((0.3 + 0.2 + 0.7 + 0.3 + 0.6 + 0.1) / 8)


def test_the_linear_model_of_several_labels_learns_from_what_is_known(policy: Policy) -> None:
    several = policy.only(["normal", "abuse", "fraud"]).model_copy(update={"kind": "multi_label"})
    words = {("abuse",): "辱骂", ("fraud",): "欺诈", ("abuse", "fraud"): "辱骂欺诈", ("normal",): "吃饭"}
    rows = [
        replace(example(f"{word}{i:03d}"), labels=labels, unknown=("abuse",) if labels == ("fraud",) else ())
        for i in range(8)
        for labels, word in words.items()
    ]
    assert linear_macro_f1(rows[:16], rows[16:], several) == 1.0
    assert linear_macro_f1([], rows, several) is None
    assert linear_macro_f1(rows[3:4], rows, several) is None
