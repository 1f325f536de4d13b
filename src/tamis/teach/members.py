"""Several teachers asked about the same rows, each with its own budget, and audited one by one and together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from tamis.agreement import cohen
from tamis.config import TeacherConfig, TeachingConfig
from tamis.errors import ConfigError
from tamis.policy import Language, Policy
from tamis.records import Example, TeacherSignal, TrainSplit, ValidationSplit
from tamis.store import Store
from tamis.teach.audit import audit, judged, judges, plain, top
from tamis.teach.ensemble import Answers, combine, has_answer, reliability, trust_in
from tamis.teach.label import NEVER_TWICE, label
from tamis.teach.teachers import Teacher

FOLDS = 5

WORSE: dict[Language, str] = {
    "en": "Together the teachers (macro-F1 {together:.3f}) are worse than {best} alone ({alone:.3f}): take that one, or"
    " another teacher.combine.",
    "zh": "几个教师模型合在一起（宏平均 F1 {together:.3f}）反而不如单用 {best}（{alone:.3f}）：请只用它，"
    "或改用别的 teacher.combine。",
}


@dataclass(frozen=True)
class Member:
    """A teacher and how it is asked."""

    teacher: Teacher
    config: TeacherConfig


@dataclass(frozen=True)
class Ensemble:
    """Several teachers of one policy and how their answers are combined.

    Raises:
        ConfigError: the same teacher twice, or a combination the policy does not allow.
    """

    members: tuple[Member, ...]
    config: TeachingConfig
    policy: Policy
    store: Store

    def __post_init__(self) -> None:
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice:
            raise ConfigError(f"teacher.members names {twice} twice: one answer would count as two, keep one of them")
        if self.policy.kind == "multi_label" and self.config.combine == "dawid_skene":
            raise ConfigError(
                f"policy {self.policy.name} allows several labels a text and teacher.combine dawid_skene gives one:"
                " set it to mean, confidence, majority or fallback"
            )

    @property
    def names(self) -> list[str]:
        """The members' fingerprints in their order."""
        return [member.teacher.fingerprint for member in self.members]

    @property
    def fingerprint(self) -> str:
        """The combination, and a hash of it, the members and their weights."""
        parts = [self.config.combine, self.names, self.config.weights]
        return f"ensemble:{self.config.combine}@{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"


def ask_members(examples: Sequence[Example], ensemble: Ensemble) -> list[dict[str, TeacherSignal]]:
    """What each member says, by example id; with `fallback` of the rows alone that none before it answered.

    Raises:
        BudgetError: a member's next question could pass its budget; what was answered is in the store.
        TeacherError: a member cannot be asked.
    """
    told = []
    left = list(examples)
    for member in ensemble.members:
        # Without rows not even the questions about nothing are put.
        found = label(left, member.teacher, ensemble.store, member.config, ensemble.policy) if left else {}
        told.append(found)
        if ensemble.config.combine == "fallback":
            left = [row for row in left if not has_answer(found[row.id])]
    return told


def label_together(
    learnt: Sequence[Example], validation: ValidationSplit, measured: Sequence[Example], ensemble: Ensemble
) -> dict[str, TeacherSignal]:
    """The combined signal of each row, by example id.

    Args:
        learnt: training rows; with the validation rows their answers shape the members' error rates.
        validation: its gold says how far each member is believed.
        measured: rows that are only labelled, such as those of the test split.
        ensemble: who is asked.

    Raises:
        BudgetError: a member's next question could pass its budget.
        TeacherError: a member cannot be asked.
    """
    told = ask_members([*learnt, *validation.gold, *measured], ensemble)
    shaping = _only(told, [*learnt, *validation.gold])
    trust = trust_in(shaping, validation, ensemble.config, ensemble.policy)
    return combine(told, trust, ensemble.config.combine, ensemble.policy, ensemble.fingerprint)


def _only(answers: Answers, rows: Sequence[Example]) -> list[dict[str, TeacherSignal]]:
    return [{row.id: member[row.id] for row in rows if row.id in member} for member in answers]


def audit_together(
    ensemble: Ensemble, validation: ValidationSplit, train: TrainSplit, language: Language = "en"
) -> dict[str, Any]:
    """Judge each member, then all together, against human labels of the validation split.

    With `fallback` a member is judged on the gold that none before it answered, which is what it is for.

    Returns:
        What `audit` returns, of the combination, and `combine`, `disagreement` (mean), `members` (each its audit with
        `name`, `reliability`, `tokens` and `cost`) and `kappa`, the agreement of each two members.

    Raises:
        DataError: another split than validation, or one without gold.
    """
    gold = judges(validation, train, ensemble.policy)
    told = ask_members(gold, ensemble)
    together = _held_out(told, gold, ensemble)
    page = judged(gold, together, train, NEVER_TWICE, ensemble.policy, language)
    page["combine"] = ensemble.config.combine
    page["disagreement"] = fmean(signal.disagreement or 0.0 for signal in together.values())
    page["members"] = [
        _of_member(member, [row for row in gold if row.id in found], found, train, ensemble, language)
        for member, found in zip(ensemble.members, told, strict=True)
    ]
    page["kappa"] = [
        {"members": [ensemble.names[a], ensemble.names[b]], **agreement_of(told[a], told[b])}
        for a, b in combinations(range(len(told)), 2)
    ]
    page["warnings"] += _worse(page, language)
    return plain(page)


def _of_member(
    member: Member,
    gold: Sequence[Example],
    found: Mapping[str, TeacherSignal],
    train: TrainSplit,
    ensemble: Ensemble,
    language: Language,
) -> dict[str, Any]:
    """A member's audit on the rows it was asked about, hardly anything where these are none."""
    split, store, policy = ValidationSplit(tuple(gold)), ensemble.store, ensemble.policy
    page = audit(member.teacher, split, train, store, member.config, policy, language) if gold else {"rows": 0}
    return page | {
        "name": member.teacher.fingerprint,
        "reliability": reliability(gold, found),
        "tokens": sum(signal.prompt_tokens + signal.completion_tokens for signal in found.values()),
        "cost": sum(signal.cost for signal in found.values()),
    }


def _held_out(answers: Answers, gold: Sequence[Example], ensemble: Ensemble) -> dict[str, TeacherSignal]:
    """Each fold of the gold combined by what the other folds say of the members: no row vouches for its own answer."""
    rows = sorted(gold, key=lambda example: example.id)
    method, policy = ensemble.config.combine, ensemble.policy
    found: dict[str, TeacherSignal] = {}
    for start in range(min(FOLDS, len(rows))):
        others = tuple(row for i, row in enumerate(rows) if i % FOLDS != start)
        trust = trust_in(answers, ValidationSplit(others), ensemble.config, policy)
        found |= combine(_only(answers, rows[start::FOLDS]), trust, method, policy, ensemble.fingerprint)
    return found


def agreement_of(one: Mapping[str, TeacherSignal], other: Mapping[str, TeacherSignal]) -> dict[str, float]:
    """Cohen's kappa of two members on the `rows` both answered; NaN where these are of one category."""
    both = [(top(one[row]), top(other[row])) for row in one if has_answer(one[row]) and has_answer(other.get(row))]
    return {"rows": len(both), "kappa": cohen(both)}


def _worse(page: Mapping[str, Any], language: Language) -> list[str]:
    """A warning where a member judged on the same rows is better alone."""
    comparable = [member for member in page["members"] if member["rows"] == page["rows"]]
    best = max(comparable, key=lambda member: float(member["macro_f1"]))
    if page["macro_f1"] >= best["macro_f1"]:
        return []
    told = {"together": page["macro_f1"], "best": best["name"], "alone": best["macro_f1"]}
    return [WORSE[language].format(**told)]
