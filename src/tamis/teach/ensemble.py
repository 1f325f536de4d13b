"""Several teachers' answers to one question made one: pure functions over signals by example id."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from tamis.config import TeachingConfig
from tamis.errors import DataError
from tamis.policy import Policy
from tamis.records import Example, Outcome, TeacherSignal, ValidationSplit, uncertainty
from tamis.teach.answers import average, likeliest
from tamis.teach.dawid_skene import UNKNOWN, ErrorRates, fit_rates, posterior
from tamis.teach.prior import normalised

Distribution = Mapping[str, float]
Answers = Sequence[Mapping[str, TeacherSignal]]
"""What each member said, by example id; a row it was not asked about is absent."""

UNANSWERED: tuple[Outcome, ...] = ("refused", "unparsable", "failed")
"""What a row is called that nobody answered: the first that any member said."""
NOT = ""
"""The other answer to whether a text has a category."""


@dataclass(frozen=True)
class Trust:
    """What the members' answers are worth: a weight each, and for `dawid_skene` their error rates."""

    weights: tuple[float, ...]
    rates: ErrorRates | None = None


def trust_in(answers: Answers, validation: ValidationSplit, config: TeachingConfig, policy: Policy) -> Trust:
    """Learn from validation gold what the members' answers are worth.

    Args:
        answers: of the validation rows, and for `dawid_skene` of all rows whose answers may shape the error rates.
        validation: its labels judge; a test split is refused.
        config: the combination, and the weights of a mean where the recipe gives them.
        policy: the categories.

    Raises:
        DataError: another split than validation.
    """
    if not isinstance(validation, ValidationSplit):
        raise DataError(f"members are trusted by a ValidationSplit, got {type(validation).__name__}: never by a test")
    gold = [example for example in validation.gold if example.label is not None]
    weights = config.weights or tuple(reliability(gold, member) for member in answers)
    return Trust(weights, _error_rates(answers, gold, policy) if config.combine == "dawid_skene" else None)


def reliability(gold: Sequence[Example], said: Mapping[str, TeacherSignal]) -> float:
    """Balanced accuracy above chance on the gold rows a member answered, in [0, 1]; 0 where these are of one class.

    (mean recall - 1 / n) / (1 - 1 / n) over the n classes that occur, Youden's J for two of them. Balanced, so that a
    member that says `normal` to everything counts nothing however common it is; above chance, so that guessing counts
    nothing; of the rows it answered, because where it did not answer it takes no part.
    """
    from sklearn.metrics import recall_score

    told = [(str(e.label), likeliest(said[e.id].probabilities)) for e in gold if has_answer(said.get(e.id))]
    present = sorted({truth for truth, _ in told})
    if len(present) < 2:
        return 0.0
    truth, top = zip(*told, strict=True)
    recall = recall_score(truth, top, labels=present, average="macro", zero_division=0)
    return max(0.0, float((recall - 1 / len(present)) / (1 - 1 / len(present))))


def combine(answers: Answers, trust: Trust, method: str, policy: Policy, name: str) -> dict[str, TeacherSignal]:
    """One signal a row that any member was asked about, by example id, called `name`.

    Probabilities are those of the combination, of a single-label policy they sum to 1. Tokens and cost are sums. What
    has no mean (rationale, evidence, prompt, feature) is the first answering member's. A row nobody answered stays with
    the first of refused, unparsable and failed that any member said.
    """
    rows = dict.fromkeys(row for member in answers for row in member)
    asked = {row: {place: member[row] for place, member in enumerate(answers) if row in member} for row in rows}
    return {row: _combined(signals, trust, method, policy, name) for row, signals in asked.items()}


def _combined(
    asked: Mapping[int, TeacherSignal], trust: Trust, method: str, policy: Policy, name: str
) -> TeacherSignal:
    told = {place: signal for place, signal in asked.items() if has_answer(signal)}
    used = list((told or asked).values())
    questions = _questions(told, policy)
    found = [COMBINATIONS[method](question, trust) for question in questions]
    probabilities = {category: p for one in found for category, p in one.items() if category != NOT}
    ways = {signal.method for signal in used}
    return replace(
        used[0],
        teacher=name,
        method=ways.pop() if len(ways) == 1 else "mixed",
        outcome="ok" if told else _outcome(used),
        probabilities=probabilities,
        known_mass=fmean(signal.known_mass for signal in used),
        risk=policy.risk(probabilities) if told else None,
        prompt_tokens=sum(signal.prompt_tokens for signal in asked.values()),
        completion_tokens=sum(signal.completion_tokens for signal in asked.values()),
        cost=sum(signal.cost for signal in asked.values()),
        disagreement=max((disagreement(list(question.values())) for question in questions), default=0.0),
    )


def has_answer(signal: TeacherSignal | None) -> bool:
    """Whether a member was asked and answered."""
    return signal is not None and signal.outcome == "ok"


def _outcome(signals: Iterable[TeacherSignal]) -> Outcome:
    said = {signal.outcome for signal in signals}
    return next(outcome for outcome in UNANSWERED if outcome in said)


def _questions(told: Mapping[int, TeacherSignal], policy: Policy) -> list[dict[int, Distribution]]:
    """Answers by member: one question over all categories, or with several labels a text one a category."""
    rows = {place: {c: signal.probabilities.get(c, 0.0) for c in policy.ids} for place, signal in told.items()}
    if not rows:
        return []
    if policy.kind == "multi_label":
        return [{place: {c: row[c], NOT: 1 - row[c]} for place, row in rows.items()} for c in policy.ids]
    return [{place: normalised(row) for place, row in rows.items()}]


def disagreement(answers: Sequence[Distribution]) -> float:
    """How far answers are apart, in [0, 1]: 0 where all say the same, or only one answered.

    Their Jensen-Shannon divergence H(mean) - mean H (Lin, 1991) over its bound, ln of the number of answers or of
    categories, whichever is smaller. It is taken among the answers, not to the combined one, which may be surer than
    they are although they agree. With several labels a text the category most disputed counts.
    """
    if len(answers) < 2:
        return 0.0
    size = len(answers[0])
    apart = uncertainty(average(answers)) - fmean(map(uncertainty, answers))
    return min(1.0, max(0.0, apart * math.log(size) / math.log(min(len(answers), size))))


def mean(told: Mapping[int, Distribution], trust: Trust) -> Distribution:
    """Mean of the answers, weighted by the recipe's weights or by reliability (a linear opinion pool, Stone, 1961)."""
    return _weighted(told, {place: trust.weights[place] for place in told})


def confidence(told: Mapping[int, Distribution], trust: Trust) -> Distribution:
    """Mean weighted by reliability times the answer's own confidence, 1 - entropy over its maximum."""
    return _weighted(told, {place: trust.weights[place] * (1 - uncertainty(one)) for place, one in told.items()})


def majority(told: Mapping[int, Distribution], trust: Trust) -> Distribution:
    """Share of the members whose likeliest category it is.

    Where several categories lead with as many votes they divide their shares as the mean probability does.
    """
    votes = Counter(likeliest(one) for one in told.values())
    middle = average(list(told.values()))
    most = max(votes.values())
    leading = [name for name, count in votes.items() if count == most]
    together = sum(middle[name] for name in leading)
    shares = {name: most * len(leading) * middle[name] / together for name in leading}
    return {name: shares.get(name, votes[name]) / len(told) for name in middle}


def dawid_skene(told: Mapping[int, Distribution], trust: Trust) -> Distribution:
    """Posterior of the truth given the likeliest category of each answer and each member's error rates."""
    if trust.rates is None:
        raise ValueError("error rates come from trust_in with combine: dawid_skene")
    names = list(next(iter(told.values())))
    said = np.full((1, len(trust.weights)), UNKNOWN)
    for place, one in told.items():
        said[0, place] = names.index(likeliest(one))
    return dict(zip(names, posterior(said, trust.rates)[0].tolist(), strict=True))


def fallback(told: Mapping[int, Distribution], trust: Trust) -> Distribution:
    """The answer of the first member that gave one."""
    return told[min(told)]


def _weighted(told: Mapping[int, Distribution], weights: Mapping[int, float]) -> Distribution:
    """Weighted mean; the plain one where nobody weighs anything."""
    total = sum(weights.values())
    if total <= 0:
        return average(list(told.values()))
    return {name: sum(weights[m] * told[m][name] for m in told) / total for name in next(iter(told.values()))}


def _error_rates(answers: Answers, gold: Sequence[Example], policy: Policy) -> ErrorRates:
    place = {name: i for i, name in enumerate(policy.ids)}
    rows = list(dict.fromkeys(row for member in answers for row in member if has_answer(member[row])))
    truth = {example.id: place[str(example.label)] for example in gold}
    said = np.full((len(rows), len(answers)), UNKNOWN)
    start = np.zeros((len(rows), len(place)))
    for i, row in enumerate(rows):
        told = {m: member[row] for m, member in enumerate(answers) if has_answer(member.get(row))}
        for m, signal in told.items():
            said[i, m] = place[likeliest(signal.probabilities)]
        start[i] = list(average(list(_questions(told, policy)[0].values())).values())
    return fit_rates(said, start, np.array([truth.get(row, UNKNOWN) for row in rows], dtype=np.int64))


COMBINATIONS: dict[str, Callable[[Mapping[int, Distribution], Trust], Distribution]] = {
    "mean": mean,
    "confidence": confidence,
    "majority": majority,
    "dawid_skene": dawid_skene,
    "fallback": fallback,
}
"""By `teacher.combine`: (answers to one question by the member's place, trust) -> one answer."""
