"""The evaluation in words: what a person should decide on, the unwelcome included."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tamis.estimates import Estimate
from tamis.judge.evaluate import STUDENT
from tamis.judge.result import Basis, Comparison, Evaluation
from tamis.judge.words import Words

Tone = Literal["good", "fair", "bad", "plain"]

TEACHER = "teacher"
LINEAR = "svm"
LEVELS = (0.90, 0.95)
WEAK_TEACHER = 0.5
WEAK_RECALL = 0.5
FEW = 200

_LINEAR: dict[tuple[bool, bool], tuple[str, Tone]] = {
    (True, True): ("noise_ahead", "fair"),
    (True, False): ("noise_behind", "bad"),
    (False, True): ("beats", "good"),
    (False, False): ("loses", "bad"),
}
"""What to say of the linear model, by (is the difference noise, is the student ahead)."""


@dataclass(frozen=True)
class Finding:
    """One sentence, and whether it is good news."""

    tone: Tone
    text: str


@dataclass(frozen=True)
class Verdict:
    """A headline and the findings it rests on."""

    tone: Tone
    headline: str
    findings: tuple[Finding, ...]


def verdict(evaluation: Evaluation, words: Words) -> Verdict:
    """Judge the student: how good, how much of the teacher, better than a linear model or not, and what to mind."""
    if STUDENT not in evaluation.models:
        found = (Finding("plain", words("verdict_no_student")), *_cautions(evaluation, words))
        return Verdict("plain", words("headline_no_student"), found)
    findings = (
        _student(evaluation, words),
        *_teacher(evaluation, words),
        *_linear(evaluation, words),
        *_other_baselines(evaluation, words),
        *_classes(evaluation, words),
        *_cautions(evaluation, words),
    )
    tone, key = _headline(evaluation)
    return Verdict(tone, words(key), findings)


def linear_models(evaluation: Evaluation) -> list[str]:
    """Names of the linear models among the comparisons, the best first; `svm_teacher` was trained on other labels."""
    names = [name for name in evaluation.comparisons if is_linear(name)]
    return sorted(names, key=lambda name: -_value(evaluation, name))


def _headline(evaluation: Evaluation) -> tuple[Tone, str]:
    rivals = [name for name in evaluation.comparisons if not _is_teacher(name)]
    lost = [name for name in rivals if evaluation.comparisons[name].difference.high < 0]
    if lost:
        return "bad", "headline_not_earned"
    linear = linear_models(evaluation)
    if not linear:
        return "plain", "headline_unopposed"
    compared = evaluation.comparisons[linear[0]]
    if not compared.is_noise:
        return "good", "headline_earned"
    return ("fair", "headline_unproven") if compared.difference.value > 0 else ("bad", "headline_not_earned")


def _student(evaluation: Evaluation, words: Words) -> Finding:
    figure = evaluation.models[STUDENT].metrics[evaluation.metric]
    if figure.value == 0:
        return Finding("bad", words("verdict_student_zero"))
    said = _said(evaluation, words)
    return Finding("plain", words("verdict_student", **said, value=number(figure.value), interval=span(figure, words)))


def _teacher(evaluation: Evaluation, words: Words) -> list[Finding]:
    name = next(filter(_is_teacher, evaluation.comparisons), None)
    if name is None:
        return [Finding("plain", words("verdict_no_teacher"))]
    return kept_of_teacher(evaluation.comparisons[name], _value(evaluation, name), words)


def kept_of_teacher(compared: Comparison, value: float, words: Words) -> list[Finding]:
    """Which share of the teacher's figure, `value`, a student keeps."""
    kept = compared.retention
    said = {"metric": words(f"metric_{compared.metric}"), "teacher": number(value)}
    if not math.isfinite(kept.value):
        return [Finding("bad", words("verdict_kept_undefined", **said))]
    level, tone = _level(kept.value)
    told = {"kept": percent(kept.value), "interval": span(kept, words, percent)}
    found = [Finding(tone, words(f"verdict_kept_{level}", **said, **told))]
    if _level(kept.low) != _level(kept.high):
        found.append(Finding("plain", words("verdict_kept_unsure")))
    if value < WEAK_TEACHER:
        found.append(Finding("bad", words("verdict_kept_rare", **said)))
    return found


def _level(share: float) -> tuple[str, Tone]:
    if share >= LEVELS[1]:
        return "high", "good"
    return ("middle", "fair") if share >= LEVELS[0] else ("low", "bad")


def _linear(evaluation: Evaluation, words: Words) -> list[Finding]:
    names = linear_models(evaluation)
    if not names:
        return [Finding("fair", words("verdict_no_linear"))]
    compared = evaluation.comparisons[names[0]]
    ahead = compared.difference.value > 0
    key, tone = _LINEAR[compared.is_noise, ahead]
    return [Finding(tone, words(f"verdict_linear_{key}", **_against(evaluation, names[0], compared, words)))]


def _other_baselines(evaluation: Evaluation, words: Words) -> list[Finding]:
    """Those that beat the student for certain; the linear model has its own sentence."""
    skipped = set(linear_models(evaluation)[:1])
    return [
        Finding("bad", words("verdict_below_baseline", **_against(evaluation, name, compared, words)))
        for name, compared in evaluation.comparisons.items()
        if name not in skipped and not _is_teacher(name) and compared.difference.high < 0
    ]


def _against(evaluation: Evaluation, name: str, compared: Comparison, words: Words) -> Mapping[str, str]:
    return {
        "name": words.model(name),
        "value": number(_value(evaluation, name)),
        "difference": number(abs(compared.difference.value)),
        "interval": span(compared.difference, words, signed),
    }


def _classes(evaluation: Evaluation, words: Words) -> list[Finding]:
    found = []
    for name, figures in evaluation.models[STUDENT].per_class.items():
        recall = figures["recall"].value
        if evaluation.support.get(name) and recall < WEAK_RECALL:
            told = words("verdict_weak_class", recall=percent(recall), name=words.category(evaluation.names, name))
            found.append(Finding("bad", told))
    return found


def _cautions(evaluation: Evaluation, words: Words) -> list[Finding]:
    found = cautions(evaluation, words)
    student = evaluation.models.get(STUDENT)
    if student and student.metrics["answered"].value < 1:
        share = percent(1 - student.metrics["answered"].value)
        found.append(Finding("fair", words("verdict_unanswered", share=share)))
    return found


def cautions(basis: Basis, words: Words) -> list[Finding]:
    """What weakens every figure: rows that are no test split, or few of them."""
    found = []
    if basis.split != "TestSplit":
        found.append(Finding("fair", words("verdict_not_test", split=words(f"split_{basis.split}"))))
    if basis.rows < FEW:
        found.append(Finding("fair", words("verdict_few", rows=f"{basis.rows:,}")))
    return found


def _said(evaluation: Evaluation, words: Words) -> dict[str, str]:
    return {"metric": words(f"metric_{evaluation.metric}")}


def _value(evaluation: Evaluation, name: str) -> float:
    return evaluation.models[name].metrics[evaluation.metric].value


def _is_teacher(name: str) -> bool:
    return name == TEACHER or name.startswith(f"{TEACHER}_")


def is_linear(name: str) -> bool:
    """Whether a model is linear by its name."""
    return name == LINEAR or name.startswith(f"{LINEAR}_")


def number(value: float) -> str:
    """Three decimals; a dash for NaN."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def signed(value: float) -> str:
    """Three decimals with a sign."""
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else "–"


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else "–"


def chance(p: float) -> str:
    """A p value with three decimals."""
    return "< 0.001" if p < 0.001 else number(p)


def span(estimate: Estimate, words: Words, show: Callable[[float], str] = number) -> str:
    """The interval of an estimate in words."""
    return words("interval", low=show(estimate.low), high=show(estimate.high))
