"""The statistics of a contest: many models, some over several seeds, on the same rows.

A candidate's figure is the mean over its runs. Its interval comes from a bootstrap of two crossed factors, rows and
runs: each resample draws rows, shared by all candidates, and draws each candidate's runs anew (Owen, 2007, The
pigeonhole bootstrap, Annals of Applied Statistics 1; why seeds belong in it: Bouthillier et al., 2021, Accounting for
variance in machine learning benchmarks). Candidates of the same seeds share that draw too, since a seed fixes the same
order of rows and the same start. With few runs the part of the seeds is too small: by a third with three.

Tests of right and wrong (McNemar, Cochran) take one number a row, the share of a candidate's runs that have it right:
the runs' answers to one row depend on each other, so they are no further rows, and a majority of them would be better
than any run and favour the candidates with most of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tamis.calibration import Floats
from tamis.config import EvaluateConfig
from tamis.errors import DataError
from tamis.judge import metrics
from tamis.judge.contest.result import (
    KNOWLEDGE,
    METRIC,
    PLAIN_KNOWLEDGE,
    Change,
    Contest,
    Disagreement,
    Omnibus,
    Ranks,
    Standing,
    Wrong,
)
from tamis.judge.evaluate import basis_of, details, estimate, estimates, gold_of, held_against, of_categories
from tamis.judge.judged import Figures, Judged, category_figures, judge, macro_f1
from tamis.judge.result import Speed
from tamis.judge.verdict import TEACHER, is_linear
from tamis.policy import Policy
from tamis.records import Example, Scores, Split

HALF = 0.5
RANK = "rank"
"""The fact that says how students that differ in nothing else differ."""

Runs = Mapping[int, Judged]


@dataclass(frozen=True)
class Candidate:
    """A model in the contest.

    Args:
        name: unique; `teacher`, `svm` and `svm_...` are known as what they are.
        group: free; `D` has a comparison of its own.
        runs: by seed, one answer a gold row of the split in its order; a model without chance has seed 0 alone.
        facts: parameters, tokens and what else a caller knows; those with a `rank` make a curve.
        speed: if it was timed.
        failed: by seed, a sentence why that run is missing.
    """

    name: str
    group: str
    runs: Mapping[int, Sequence[Scores]]
    facts: Mapping[str, int | float | str] = field(default_factory=dict)
    speed: Speed | None = None
    failed: Mapping[int, str] = field(default_factory=dict)


def contest(
    candidates: Sequence[Candidate],
    split: Split,
    policy: Policy,
    config: EvaluateConfig,
    against: str = "A-lora",
    best: str | None = None,
    seed: int = 0,
) -> Contest:
    """Measure all candidates on the gold rows of a split and compare them.

    Nothing is chosen here, so the split may be a test split: `best`, which the headline and the comparison with teacher
    and baselines speak of, must have been chosen on other rows. That a table stresses its highest figure and that the
    curve of ranks names its knee describes these rows and selects no model.

    Args:
        candidates: in the order of the report; the order changes no figure.
        split: its gold rows measure; they need categories.
        policy: names the categories.
        config: how many resamples; differences have as many times more as there are comparisons.
        against: the candidate that all others are compared with.
        best: the variant chosen on validation rows, or None.
        seed: of the resamples.

    Raises:
        DataError: no gold rows, a row with a risk score or with a verdict outside the policy, two candidates of one
            name, a run that drops rows, an unknown `against`, or a `best` that has no run.
    """
    gold = gold_of(split)
    _check(candidates, gold, against, best)
    runs = {one.name: {s: judge(gold, one.runs[s], policy) for s in sorted(one.runs)} for one in candidates}
    pairs = _pairs([one for one in candidates if one.runs], against, best)
    compared = _compared(runs, config.bootstrap * max(1, len(pairs)), seed)
    right = {name: np.mean([run.right for run in of.values()], axis=0) for name, of in runs.items() if of}
    by_run = _by_run(runs, config.bootstrap, seed, category_figures)
    standings = {one.name: _standing(one, by_run[one.name], config.bootstrap, seed) for one in candidates}
    drawn = {against, best, TEACHER}
    return Contest(
        **vars(basis_of(split, gold, policy, config)),
        against=against,
        best=best,
        standings={name: _shown(one, runs[name], gold, name in drawn) for name, one in standings.items()},
        changes=_changes(pairs, compared, right),
        omnibus=_omnibus(right),
        ranks=_ranks(candidates, compared),
        disagreements=_disagreements(gold, runs, right, best, policy),
    )


def _check(candidates: Sequence[Candidate], gold: Sequence[Example], against: str, best: str | None) -> None:
    names = [one.name for one in candidates]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two candidates are called {twice}: give each a name of its own")
    scored = sum(not example.is_labelled for example in gold)
    if scored:
        told = "gold rows have a risk score, and models are compared by categories: leave their sources out"
        raise DataError(f"{scored} of {len(gold)} {told}")
    for one in candidates:
        for seed, scores in one.runs.items():
            if len(scores) != len(gold):
                told = f"candidate {one.name}, seed {seed}, has {len(scores)} scores for {len(gold)} texts"
                raise DataError(f"{told}: it must answer each one")
    ran = [one.name for one in candidates if one.runs]
    for role, name, known in (("against", against, names), ("best", best, ran)):
        if name is not None and name not in known:
            raise DataError(f"`{role}` is {name}, wanted one of {', '.join(known)}: name a candidate that ran")


def _by_run(
    runs: Mapping[str, Runs], times: int, seed: int, figures: Callable[[Judged, Floats], Figures]
) -> dict[str, dict[int, Figures]]:
    """Figures by candidate and seed, each (1 + times,)."""
    flat = of_categories({(name, s): run for name, of in runs.items() for s, run in of.items()}, times, seed, figures)
    return {name: {s: flat[name, s] for s in of} for name, of in runs.items()}


def _compared(runs: Mapping[str, Runs], times: int, seed: int) -> dict[str, Floats]:
    """The figure that candidates are compared by, (1 + times,), of those that ran.

    It has as many times more resamples as there are comparisons: with fewer, Holm's correction would lift the smallest
    p that a count of resamples can give above any level.
    """
    found = _by_run(runs, times, seed, macro_f1)
    return {name: over_runs(of, times, seed)[METRIC] for name, of in found.items() if of}


def over_runs(runs: Mapping[int, Figures], times: int, seed: int) -> Figures:
    """Means over runs, (1 + times,): of all runs first, then of runs drawn with replacement on each resample of rows.

    Args:
        runs: figures by seed, each (1 + times,).
        times: resamples.
        seed: of the draw, which depends on it and on the runs' seeds alone.
    """
    count, generator = len(runs), np.random.default_rng([seed, *runs])
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=times)
    shares = np.concatenate([np.ones((1, count)), drawn]) / count
    names = next(iter(runs.values()))
    return {name: (shares * np.stack([one[name] for one in runs.values()], axis=1)).sum(1) for name in names}


def _standing(one: Candidate, runs: Mapping[int, Figures], times: int, seed: int) -> Standing:
    whole, by_category = estimates(over_runs(runs, times, seed) if runs else {})
    values = {name: [float(run[name][0]) for run in runs.values()] for name in whole}
    return Standing(
        group=one.group,
        seeds=tuple(runs),
        failed=one.failed,
        metrics=whole,
        per_class=by_category,
        spread={name: float(np.std(v, ddof=1)) if len(v) > 1 else float("nan") for name, v in values.items()},
        facts=one.facts,
        speed=one.speed,
    )


def _shown(standing: Standing, runs: Runs, gold: Sequence[Example], curves: bool) -> Standing:
    """The standing with the confusion of its runs, and their curves if they are drawn."""
    single = [details(run, gold) for run in runs.values()]
    tables = [one.confusion for one in single if one.confusion]
    summed = np.sum(tables, axis=0).tolist() if tables else []
    return replace(
        standing,
        confusion=tuple(tuple(row) for row in summed) or None,
        roc=tuple(one.roc for one in single if curves),
        precision_recall=tuple(one.precision_recall for one in single if curves),
    )


def _pairs(ran: Sequence[Candidate], against: str, best: str | None) -> list[tuple[str, str]]:
    """Who is held against whom: all against one, the best against teacher and baselines, knowledge against plain."""
    names = [one.name for one in ran]
    pairs = [(name, against) for name in names if name != against and against in names]
    if best is not None:
        pairs += [(best, name) for name in names if name != best and (name == TEACHER or is_linear(name))]
    students = [one.name for one in ran if one.group == KNOWLEDGE and one.name != PLAIN_KNOWLEDGE]
    pairs += [(name, PLAIN_KNOWLEDGE) for name in students if PLAIN_KNOWLEDGE in names]
    return list(dict.fromkeys(pairs))


def _changes(
    pairs: Sequence[tuple[str, str]], compared: Mapping[str, Floats], right: Mapping[str, Floats]
) -> tuple[Change, ...]:
    samples = [(compared[first], compared[second]) for first, second in pairs]
    mcnemar = [metrics.clustered_mcnemar(right[first], right[second]) for first, second in pairs]
    bootstrap = [metrics.two_sided_p((ours - theirs)[1:]) for ours, theirs in samples]
    tested = zip(mcnemar, metrics.holm(mcnemar), bootstrap, metrics.holm(bootstrap), strict=True)
    return tuple(
        Change(METRIC, *held_against(*sampled), p, p_holm, first, second, drawn, drawn_holm)
        for (first, second), sampled, (p, p_holm, drawn, drawn_holm) in zip(pairs, samples, tested, strict=True)
    )


def _omnibus(right: Mapping[str, Floats]) -> Omnibus | None:
    return Omnibus(*metrics.cochran(np.stack(list(right.values()), axis=1))) if len(right) > 1 else None


def _ranks(candidates: Sequence[Candidate], compared: Mapping[str, Floats]) -> Ranks | None:
    """The curve over the candidates that have the fact `rank`; None with fewer than two."""
    ranks = {one.name: float(one.facts[RANK]) for one in candidates if one.runs and RANK in one.facts}
    return knee({name: compared[name] for name in sorted(ranks, key=lambda name: (ranks[name], name))})


def knee(curve: Mapping[str, Floats]) -> Ranks | None:
    """The first of a rising series that is within noise of its best: the difference's interval reaches down to 0.

    Args:
        curve: by name in rising order, a figure and its resamples, (1 + times,).
    """
    if len(curve) < 2:
        return None
    peak = max(curve, key=lambda name: float(curve[name][0]))
    first = next(name for name, samples in curve.items() if not estimate(curve[peak] - samples).low > 0)
    return Ranks(tuple(curve), peak, first)


def _disagreements(
    gold: Sequence[Example], runs: Mapping[str, Runs], right: Mapping[str, Floats], best: str | None, policy: Policy
) -> tuple[Disagreement, ...]:
    """Rows that the best student or the teacher has right in half of its runs or less; empty without one of them."""
    if best is None or best == TEACHER or TEACHER not in right:
        return ()
    found = []
    for i, example in enumerate(gold):
        wrong = _WRONG.get((right[best][i] > HALF, right[TEACHER][i] > HALF))
        if wrong is not None:
            said = (_answers(runs[name], i) for name in (best, TEACHER))
            truth = tuple(name for name, holds in policy.verdicts(example).items() if holds)
            found.append(Disagreement(example.id, wrong, truth, *said))
    return tuple(found)


def _answers(runs: Runs, row: int) -> tuple[str, ...]:
    """Every category that a run says of a row."""
    said = np.any([run.said[row] for run in runs.values()], axis=0)
    names = next(iter(runs.values())).names
    return tuple(name for name, one in zip(names, said, strict=True) if one)


_WRONG: dict[tuple[bool, bool], Wrong] = {
    (False, False): "both",
    (False, True): "student",
    (True, False): "teacher",
}
"""Who is wrong, by (has the student the row right, has the teacher)."""
