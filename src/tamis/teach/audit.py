"""How good the teacher is on gold it was not shown, before a student is spent on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.config import TeacherConfig
from tamis.errors import DataError
from tamis.policy import Language, Policy
from tamis.records import Example, TeacherSignal, TrainSplit, ValidationSplit
from tamis.store import Store
from tamis.teach.answers import likeliest
from tamis.teach.label import agreement_with_itself, label
from tamis.teach.teachers import Teacher

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

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
    gold = judges(validation, train, policy)
    signals = label(gold, teacher, store, config, policy)
    agreement = agreement_with_itself(gold[: config.self_check], teacher, store, config, policy)
    return plain(judged(gold, signals, train, agreement, policy, language))


def judges(validation: ValidationSplit, train: TrainSplit, policy: Policy) -> list[Example]:
    """The labelled rows of the validation split, which judge.

    Raises:
        DataError: another split than validation, or one without gold.
    """
    if not isinstance(validation, ValidationSplit) or not isinstance(train, TrainSplit):
        raise DataError(
            f"a teacher is audited on a ValidationSplit beside a TrainSplit, got {type(validation).__name__} and"
            f" {type(train).__name__}"
        )
    gold = [e for e in map(policy.levelled, validation.gold) if e.is_labelled]
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
    train_gold = [e for e in map(policy.levelled, train.gold) if e.is_labelled]
    page["agreement"] = agreement
    page["linear_macro_f1"] = linear_macro_f1(train_gold, gold, policy)
    page["gold_train"] = len(train_gold)
    page["warnings"] = warnings_of(page, policy, language)
    return page


@dataclass(frozen=True)
class Truth:
    """What people said: (rows, categories) of what holds, and of what they have judged at all."""

    holds: Bools
    known: Bools

    @classmethod
    def of(cls, gold: Sequence[Example], policy: Policy) -> Truth:
        """The human labels of some examples."""
        verdicts = [policy.verdicts(example) for example in gold]
        holds = np.array([[one.get(name, False) for name in policy.ids] for one in verdicts])
        return cls(holds, np.array([[name in one for name in policy.ids] for one in verdicts]))

    def scored(self, said: Bools) -> tuple[Floats, Floats, Floats, Floats]:
        """Precision, recall, F1 and rows of each category; one that nobody has judged in a row counts for nothing."""
        from sklearn.metrics import precision_recall_fscore_support

        found = precision_recall_fscore_support(self.holds, said & self.known, average=None, zero_division=0)
        return found[0], found[1], found[2], found[3]

    def macro_f1(self, said: Bools) -> float:
        """Mean F1 of the categories that have a row; 0 where none has."""
        _, _, f1, support = self.scored(said)
        return float(f1[support > 0].mean()) if support.any() else 0.0


def measure(gold: Sequence[Example], signals: Mapping[str, TeacherSignal], policy: Policy) -> dict[str, Any]:
    """Figures of the signals against the human labels; a row without an answer counts as wrong."""
    truth = Truth.of(gold, policy)
    told = [signals[example.id] for example in gold]
    answered, said = np.array([signal.outcome == "ok" for signal in told]), _said(told, policy)
    refused = truth.holds[np.array([signal.outcome == "refused" for signal in told])].sum(0)
    keys = ("precision", "recall", "f1", "rows", "refused")
    columns = zip(*truth.scored(said), refused, strict=True)
    right = (truth.holds == said & truth.known).all(1) & answered
    return {
        "rows": len(gold),
        "macro_f1": truth.macro_f1(said),
        "accuracy": float(right.mean()),
        "per_class": {name: dict(zip(keys, row, strict=True)) for name, row in zip(policy.ids, columns, strict=True)},
        "ece": calibration_error(*_claims(told, truth, right, policy)),
        "outcomes": {name: sum(s.outcome == name for s in told) for name in ("ok", "refused", "unparsable", "failed")},
        "methods": {name: sum(s.method == name for s in told) for name in sorted({s.method for s in told})},
        "known_mass": float(np.mean([s.known_mass for s in told])),
        "confusion": _confusion(truth, said, policy),
    }


def top(signal: TeacherSignal) -> str:
    """The likeliest category; `(none)` where there is no answer."""
    return likeliest(signal.probabilities, NONE)


def _said(told: Sequence[TeacherSignal], policy: Policy) -> Bools:
    named = [policy.named(signal.probabilities) for signal in told]
    return np.array([[name in one for name in policy.ids] for one in named])


def _claims(told: Sequence[TeacherSignal], truth: Truth, right: Bools, policy: Policy) -> tuple[Floats, Bools]:
    """Confidence and correctness of the likeliest category of each answer, or of all that are known."""
    answers = [[signal.probabilities.get(name, 0.0) for name in policy.ids] for signal in told]
    probability = np.array(answers, dtype=float)
    answered = np.array([signal.outcome == "ok" for signal in told])
    if policy.kind == "multi_label":
        claimed = truth.known & answered[:, None]
        return probability[claimed], truth.holds[claimed]
    return probability[answered].max(1) / probability[answered].sum(1), right[answered]


def _confusion(truth: Truth, said: Bools, policy: Policy) -> dict[str, Any] | None:
    """Rows of truth by columns of answers, the last of either for none; None where several categories may hold."""
    from sklearn.metrics import confusion_matrix

    if policy.kind == "multi_label":
        return None
    labels = [*policy.ids, NONE]
    wanted, found = ([labels[row.argmax()] if row.any() else NONE for row in rows] for rows in (truth.holds, said))
    return {"labels": labels, "rows": confusion_matrix(wanted, found, labels=labels).tolist()}


def calibration_error(confidence: Floats, right: Bools, bins: int = BINS) -> float:
    """Expected calibration error of claims over equal-width bins (Guo et al., 2017); NaN without any."""
    if not len(confidence):
        return float("nan")
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[which == b].mean() - right[which == b].mean()) * (which == b).mean() for b in set(which)]
    return float(sum(gaps))


def linear_macro_f1(train: Sequence[Example], gold: Sequence[Example], policy: Policy) -> float | None:
    """Macro-F1 of character n-gram TF-IDF and linear SVMs on the same gold, one category against the rest.

    None where none of them can be trained.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not train:
        return None
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
    seen, features = Truth.of(train, policy), vectorizer.fit_transform([example.text for example in train])
    rows = vectorizer.transform([example.text for example in gold])
    decided = [_decided(features[k], holds[k], rows) for holds, k in zip(seen.holds.T, seen.known.T, strict=True)]
    if all(np.isinf(column).all() for column in decided):
        return None
    values = np.stack(decided, axis=1)
    if policy.kind != "multi_label":
        return Truth.of(gold, policy).macro_f1(values.argmax(1)[:, None] == np.arange(len(policy.ids)))
    found = [policy.named(dict(zip(policy.ids, (row > 0).tolist(), strict=True))) for row in values]
    return Truth.of(gold, policy).macro_f1(np.array([[name in one for name in policy.ids] for one in found]))


def _decided(features: Any, holds: Bools, rows: Any) -> Floats:
    """A linear SVM's decision value of each row; infinite for a category that never holds, or always."""
    from sklearn.svm import LinearSVC

    if not (holds.any() and not holds.all()):
        return np.full(rows.shape[0], np.inf if holds.size and holds.all() else -np.inf)
    return np.asarray(LinearSVC().fit(features, holds).decision_function(rows))


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
