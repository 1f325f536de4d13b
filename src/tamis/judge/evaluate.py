"""Hold scorers against human verdicts: every figure with an interval, every pair on the same resamples.

What is measured is listed in judged.py, how in metrics.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress
from typing import TypeVar

import numpy as np

from tamis.calibration import Bools, Floats, reliability
from tamis.config import EvaluateConfig
from tamis.errors import DataError
from tamis.estimates import Estimate, Point
from tamis.judge import metrics
from tamis.judge.judged import Figures, Judged, category_figures, judge, score_figures
from tamis.judge.result import Basis, Bin, Comparison, Evaluation, Mistake, ModelResult
from tamis.judge.speed import measure_speed
from tamis.policy import Policy
from tamis.records import Example, Scorer, Scores, Split

STUDENT = "student"
CURVE_POINTS = 200

Told = dict[str, list[Scores]]
Name = TypeVar("Name", bound=Hashable)
Row = TypeVar("Row")


def evaluate(
    scorers: Mapping[str, Scorer],
    split: Split,
    policy: Policy,
    config: EvaluateConfig,
    timed: Collection[str] = (),
    seed: int = 0,
) -> Evaluation:
    """Measure all scorers on the gold rows of a split; those named in `timed` are timed on its texts too.

    The scorer named `student` is compared with each of the others.

    Raises:
        DataError: no gold rows, a verdict outside the policy, or a scorer that drops rows.
    """
    gold = gold_of(split)
    told = {name: _ask(name, scorer, gold) for name, scorer in scorers.items()}
    rows, answers = _where([example.is_labelled for example in gold], gold, told)
    judged = {name: judge(rows, scores, policy) for name, scores in answers.items()} if rows else {}
    risks = [policy.human_risk(example) for example in gold]
    of_scores = _of_scores(risks, told, config, seed)
    by_category = of_categories(judged, config.bootstrap, seed)
    figures = {name: of_scores[name] | by_category.get(name, {}) for name in told}
    basis = basis_of(split, rows, policy, config)
    result = Evaluation(**vars(basis), models={name: _model(judged.get(name), rows, figures[name]) for name in scorers})
    texts = [example.text for example in gold]
    for name in timed:
        result = result.with_facts(name, measure_speed(scorers[name], texts, config.latency_rows))
    rights = {name: one.right for name, one in judged.items()}
    return replace(result, comparisons=_comparisons(figures, rights, result.metric))


def gold_of(split: Split) -> tuple[Example, ...]:
    """The rows that measure.

    Raises:
        DataError: there is none.
    """
    if not split.gold:
        raise DataError(f"{type(split).__name__} has no row a person has judged: label some rows, then measure")
    return split.gold


def basis_of(split: Split, rows: Sequence[Example], policy: Policy, config: EvaluateConfig) -> Basis:
    """What the figures of a split rest on; `rows` are those with categories."""
    return Basis(
        policy=f"{policy.name} {policy.version}",
        kind=policy.kind,
        split=type(split).__name__,
        rows=len(split.gold),
        bootstrap=config.bootstrap,
        benign=policy.benign,
        categories=policy.ids,
        support=_support(rows, policy),
        names={one.id: {str(lang): text for lang, text in one.short.items()} for one in policy.categories},
    )


def _ask(name: str, scorer: Scorer, gold: Sequence[Example]) -> list[Scores]:
    scores = scorer([example.text for example in gold])
    if len(scores) != len(gold):
        raise DataError(f"scorer {name} gave {len(scores)} scores for {len(gold)} texts: it must answer each one")
    return scores


def _where(wanted: Sequence[bool], rows: Sequence[Row], told: Told) -> tuple[list[Row], Told]:
    """Some of the rows, and the answers to them."""
    return list(compress(rows, wanted)), {name: list(compress(scores, wanted)) for name, scores in told.items()}


def of_categories(
    judged: Mapping[Name, Judged],
    times: int,
    seed: int,
    figures: Callable[[Judged, Floats], Figures] = category_figures,
) -> dict[Name, Figures]:
    """`figures` of every model: the value, then the value on each resample of the rows, which all models share."""
    rows = max((len(one.truth) for one in judged.values()), default=0)
    return _sampled({name: partial(figures, one) for name, one in judged.items()}, rows, times, seed)


def _of_scores(risks: Sequence[float | None], told: Told, config: EvaluateConfig, seed: int) -> dict[str, Figures]:
    """Figures over the rows people gave a risk, which a level is too."""
    given, answers = _where([risk is not None for risk in risks], risks, told)
    truth = np.array(given, dtype=float)
    measures = {name: partial(score_figures, truth, scores) for name, scores in answers.items()}
    return _sampled(measures, len(truth), config.bootstrap, seed)


def _sampled(
    measures: Mapping[Name, Callable[[Floats], Figures]], rows: int, times: int, seed: int
) -> dict[Name, Figures]:
    """Every figure's value, then its value on each resample: shape (1 + times,)."""
    if not rows:
        return {name: {} for name in measures}
    found: dict[Name, dict[str, list[Floats]]] = {name: {} for name in measures}
    for weights in (metrics.ones(rows), *metrics.resamples(rows, times, seed)):
        for name, measure in measures.items():
            for figure, values in measure(weights).items():
                found[name].setdefault(figure, []).append(values)
    return {name: {figure: np.concatenate(v) for figure, v in figures.items()} for name, figures in found.items()}


def estimate(samples: Floats) -> Estimate:
    """A figure and its interval from its value and its resamples, shape (1 + times,)."""
    return Estimate(float(samples[0]), *metrics.interval(samples[1:]))


def _model(judged: Judged | None, rows: Sequence[Example], figures: Figures) -> ModelResult:
    whole, by_category = estimates(figures)
    return replace(details(judged, rows) if judged else ModelResult({}), metrics=whole, per_class=by_category)


def estimates(figures: Figures) -> tuple[dict[str, Estimate], dict[str, dict[str, Estimate]]]:
    """Figures of all rows, and figures by category."""
    whole = {figure: estimate(samples) for figure, samples in figures.items() if "/" not in figure}
    by_category: dict[str, dict[str, Estimate]] = {}
    for key, samples in figures.items():
        category, slash, figure = key.partition("/")
        if slash:
            by_category.setdefault(category, {})[figure] = estimate(samples)
    return whole, by_category


def _support(rows: Sequence[Example], policy: Policy) -> dict[str, int]:
    if not rows:
        return {}
    verdicts = [policy.verdicts(row) for row in rows]
    return {name: sum(one.get(name, False) for one in verdicts) for name in policy.ids}


def details(judged: Judged, rows: Sequence[Example]) -> ModelResult:
    """What a run shows beside its figures: confusion, reliability, curves and mistakes."""
    confidence, correct, _ = judged.claims
    bins = reliability(confidence, correct)
    ranked = metrics.ranking(judged.harmful, judged.risk, metrics.ones(len(rows)) * judged.harm_known)
    both = len(set(judged.harmful[judged.harm_known > 0].tolist())) == 2
    return ModelResult(
        metrics={},
        confusion=None if judged.several else _confusion(judged),
        reliability=tuple(Bin(*one) for one in bins),
        roc=_curve(ranked.false_positive_rate[0], ranked.recall[0], start=Point(0.0, 0.0)) if both else (),
        precision_recall=_curve(ranked.recall[0], ranked.precision[0]) if both else (),
        mistakes=_mistakes(judged, rows),
    )


def _confusion(judged: Judged) -> tuple[tuple[int, ...], ...]:
    names = (*judged.names, "")
    said = [names[row.argmax()] if row.any() else "" for row in judged.said]
    truth = [names[row.argmax()] for row in judged.truth]
    return tuple(tuple(row) for row in metrics.confusion(truth, said, judged.names))


def _curve(x: Floats, y: Floats, start: Point | None = None) -> tuple[Point, ...]:
    """Points of a curve, thinned to what a chart can show; the ends stay."""
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), CURVE_POINTS)).round().astype(int))
    points = tuple(Point(round(float(x[i]), 5), round(float(y[i]), 5)) for i in places)
    return (start, *points) if start else points


def _mistakes(judged: Judged, rows: Sequence[Example]) -> tuple[Mistake, ...]:
    """Misjudged rows, the most confident first."""
    found = []
    for i in np.flatnonzero(~judged.right).tolist():
        truth = tuple(name for name, holds in zip(judged.names, judged.truth[i], strict=True) if holds)
        said = tuple(name for name, holds in zip(judged.names, judged.said[i], strict=True) if holds)
        wrong = (judged.truth[i] != judged.said[i]) & judged.known[i]
        sure = np.where(judged.said[i], judged.probability[i], 1 - judged.probability[i])
        claimed = wrong if judged.several else judged.said[i]
        confidence = float(sure[claimed].max()) if said else float("nan")
        found.append(Mistake(rows[i].id, truth, said, confidence))
    return tuple(sorted(found, key=lambda mistake: (-np.nan_to_num(mistake.confidence, nan=-1.0), mistake.id)))


def _comparisons(figures: Mapping[str, Figures], rights: Mapping[str, Bools], metric: str) -> dict[str, Comparison]:
    """The student against each of the others; empty without a student."""
    others = [name for name in figures if name != STUDENT]
    if STUDENT not in figures or not others:
        return {}
    student = figures[STUDENT][metric]
    p = [metrics.mcnemar(rights[STUDENT], rights[name]) if rights else float("nan") for name in others]
    adjusted = metrics.holm(p) if rights else p
    made = {}
    for name, raw, corrected in zip(others, p, adjusted, strict=True):
        made[name] = Comparison(metric, *held_against(student, figures[name][metric]), raw, corrected)
    return made


def held_against(ours: Floats, theirs: Floats) -> tuple[Estimate, Estimate]:
    """Ratio and difference of one figure of two models on the same resamples, each (1 + times,)."""
    kept = np.divide(ours, theirs, out=np.full(ours.shape, np.nan), where=theirs > 0)
    return estimate(kept), estimate(ours - theirs)
