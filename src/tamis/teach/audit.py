"""How good the teacher is on gold it was not shown, before a student is spent on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tamis.config import TeacherConfig
from tamis.errors import DataError
from tamis.policy import Language, Policy
from tamis.records import Example, TeacherSignal, TrainSplit, ValidationSplit
from tamis.store import Store
from tamis.teach.answers import likeliest
from tamis.teach.label import agreement_with_itself, label
from tamis.teach.teachers import Teacher

BINS = 10
FEW = 30
LOW_AGREEMENT = 0.9
MANY_REFUSALS = 0.05
NONE = "(none)"

WARNINGS: dict[Language, dict[str, str]] = {
    "en": {
        "weak": "The teacher (macro-F1 {teacher:.3f}) is below a linear model trained on the same {rows} human labels"
        " ({linear:.3f}): train on these labels, ask it better, or leave it out.",
        "few": "Only {rows} human labels judge the teacher: every figure here is rough.",
        "refused": "The teacher refuses {rate:.0%} of {category}: give these rows to another teacher or to a person.",
        "unsteady": "Asked twice, it repeats itself on {same:.0%} of the rows: no student agrees with it more.",
        "blind": "The teacher found none of the {rows} texts of {category}.",
    },
    "zh": {
        "weak": "教师模型（宏平均 F1 {teacher:.3f}）不如用同样 {rows} 条人工标注训练的线性模型（{linear:.3f}）："
        "请直接用人工标注训练、改进提问方式（少样本、换模型），或不用它。",
        "few": "只有 {rows} 条人工标注用来评判教师模型，以下数字都很粗略。",
        "refused": "教师模型拒答了 {rate:.0%} 的{category}文本：请把这些文本交给另一个教师模型或人工。",
        "unsteady": "同样的问题问两遍，教师模型只有 {same:.0%} 的答案一致：学生模型与它的一致率不会更高。",
        "blind": "{category}的 {rows} 条文本教师模型一条也没有认出。",
    },
}


def audit(
    teacher: Teacher,
    validation: ValidationSplit,
    train: TrainSplit,
    store: Store,
    config: TeacherConfig,
    policy: Policy,
    language: Language = "en",
) -> dict[str, Any]:
    """Judge the teacher against human labels of the validation split.

    Args:
        teacher: who is judged.
        validation: its gold judges; a test split is refused.
        train: its gold trains the linear model the teacher is held against.
        store: where answers are kept.
        config: `self_check` says how many rows are asked twice.
        policy: the categories.
        language: of the warnings.

    Returns:
        JSON-able: `rows`, `macro_f1`, `accuracy`, `per_class` (precision, recall, f1, rows, refused), `ece`,
        `outcomes`, `methods`, `known_mass`, `agreement`, `linear_macro_f1`, `confusion` and `warnings`.

    Raises:
        DataError: another split than validation, or one without gold.
    """
    gold = judges(validation, train)
    signals = label(gold, teacher, store, config, policy)
    agreement = agreement_with_itself(gold[: config.self_check], teacher, store, config)
    return plain(judged(gold, signals, train, agreement, policy, language))


def judges(validation: ValidationSplit, train: TrainSplit) -> list[Example]:
    """The labelled rows of the validation split, which judge.

    Raises:
        DataError: another split than validation, or one without gold.
    """
    if not isinstance(validation, ValidationSplit) or not isinstance(train, TrainSplit):
        raise DataError(
            f"a teacher is audited on a ValidationSplit beside a TrainSplit, got {type(validation).__name__} and"
            f" {type(train).__name__}"
        )
    gold = [example for example in validation.gold if example.label is not None]
    if not gold:
        raise DataError("the validation split has no human labels, so nothing judges the teacher: label some rows")
    return gold


def judged(
    gold: Sequence[Example],
    signals: Mapping[str, TeacherSignal],
    train: TrainSplit,
    agreement: Mapping[str, float],
    policy: Policy,
    language: Language,
) -> dict[str, Any]:
    """The page of these signals: figures, the linear model beside them, warnings."""
    page = measure(gold, signals, policy)
    page["agreement"] = agreement
    page["linear_macro_f1"] = linear_macro_f1([e for e in train.gold if e.label is not None], gold, policy)
    page["gold_train"] = sum(example.label is not None for example in train.gold)
    page["warnings"] = warnings_of(page, policy, language)
    return page


def measure(gold: Sequence[Example], signals: Mapping[str, TeacherSignal], policy: Policy) -> dict[str, Any]:
    """Figures of the signals against the human labels; a row without an answer counts as wrong."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth = [str(example.label) for example in gold]
    told = [signals[example.id] for example in gold]
    said = [top(signal) for signal in told]
    names = list(policy.ids)
    precision, recall, f1, support = precision_recall_fscore_support(truth, said, labels=names, zero_division=0)
    refused = [sum(s.outcome == "refused" for s, t in zip(told, truth, strict=True) if t == name) for name in names]
    keys = ("precision", "recall", "f1", "rows", "refused")
    columns = zip(precision, recall, f1, support, refused, strict=True)
    present = [i for i, n in enumerate(support) if n]
    return {
        "rows": len(gold),
        "macro_f1": float(np.mean([f1[i] for i in present])),
        "accuracy": float(np.mean([s == t for s, t in zip(said, truth, strict=True)])),
        "per_class": {name: dict(zip(keys, row, strict=True)) for name, row in zip(names, columns, strict=True)},
        "ece": calibration_error(told, truth),
        "outcomes": {name: sum(s.outcome == name for s in told) for name in ("ok", "refused", "unparsable", "failed")},
        "methods": {name: sum(s.method == name for s in told) for name in sorted({s.method for s in told})},
        "known_mass": float(np.mean([s.known_mass for s in told])),
        "confusion": {"labels": [*names, NONE], "rows": confusion_matrix(truth, said, labels=[*names, NONE]).tolist()},
    }


def top(signal: TeacherSignal) -> str:
    """The likeliest category; `(none)` where there is no answer."""
    return likeliest(signal.probabilities, NONE)


def calibration_error(signals: Sequence[TeacherSignal], truth: Sequence[str], bins: int = BINS) -> float:
    """Expected calibration error of the top category over equal-width bins (Guo et al., 2017); NaN without answers."""
    pairs = [(s, t) for s, t in zip(signals, truth, strict=True) if s.outcome == "ok"]
    if not pairs:
        return float("nan")
    confidence = np.array([s.probabilities[top(s)] / sum(s.probabilities.values()) for s, _ in pairs])
    right = np.array([top(s) == t for s, t in pairs], dtype=float)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[which == b].mean() - right[which == b].mean()) * (which == b).mean() for b in set(which)]
    return float(sum(gaps))


def linear_macro_f1(train: Sequence[Example], gold: Sequence[Example], policy: Policy) -> float | None:
    """Macro-F1 of character n-gram TF-IDF and a linear SVM on the same gold; None where it cannot be trained."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    labels = [str(example.label) for example in train]
    if len(set(labels)) < 2:
        return None
    model = make_pipeline(TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True), LinearSVC())
    model.fit([example.text for example in train], labels)
    truth = [str(example.label) for example in gold]
    said = model.predict([example.text for example in gold])
    present = [name for name in policy.ids if name in set(truth)]
    return float(f1_score(truth, said, labels=present, average="macro", zero_division=0))


def warnings_of(page: Mapping[str, Any], policy: Policy, language: Language) -> list[str]:
    """What a person should read before training on this teacher."""
    texts, found = WARNINGS[language], []
    linear = page["linear_macro_f1"]
    if linear is not None and page["macro_f1"] < linear:
        found.append(texts["weak"].format(teacher=page["macro_f1"], linear=linear, rows=page["gold_train"]))
    if page["rows"] < FEW:
        found.append(texts["few"].format(rows=page["rows"]))
    for category in policy.categories:
        row = page["per_class"][category.id]
        name = category.name.get(language, category.id)
        if row["rows"] and row["refused"] / row["rows"] > MANY_REFUSALS:
            found.append(texts["refused"].format(rate=row["refused"] / row["rows"], category=name))
        elif row["rows"] and not row["recall"]:
            found.append(texts["blind"].format(rows=row["rows"], category=name))
    if page["agreement"]["same"] < LOW_AGREEMENT:
        found.append(texts["unsteady"].format(same=page["agreement"]["same"]))
    return found


def plain(value: Any) -> Any:
    """Numbers of numpy as Python's; NaN as None, which JSON has."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value
