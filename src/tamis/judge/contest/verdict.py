"""A contest in words: did the best variant win, against whom, and what to mind."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tamis.judge.contest.result import LEVEL, METRIC, PLAIN_KNOWLEDGE, Change, Contest
from tamis.judge.verdict import (
    TEACHER,
    Finding,
    Tone,
    Verdict,
    cautions,
    chance,
    is_linear,
    kept_of_teacher,
    number,
    signed,
    span,
)
from tamis.judge.words import Words

_TONES: dict[str, Tone] = {"above": "good", "noise": "fair", "below": "bad"}


def verdict(contest: Contest, words: Words) -> Verdict:
    """Judge the best variant: how good, better than its rivals or not, and which knowledge of the teacher helped."""
    findings = (
        *_best(contest, words),
        *_knowledge(contest, words),
        *_all_models(contest, words),
        *_failed(contest, words),
        *cautions(contest, words),
    )
    tone, key = _headline(contest)
    told = {"best": words.model(contest.best or ""), "against": words.model(contest.against)}
    return Verdict(tone, words(f"contest_headline_{key}", **told), findings)


def outcome(change: Change) -> str:
    """`above` or `below` where it is more than noise, and `noise`."""
    if not change.is_sure:
        return "noise"
    return "above" if change.difference.value > 0 else "below"


def _headline(contest: Contest) -> tuple[Tone, str]:
    if contest.best is None:
        return "plain", "open"
    if any(outcome(one) == "below" for one in _against_linear(contest)):
        return "bad", "linear"
    if contest.best == contest.against:
        return "plain", "same"
    gain = contest.change(contest.best, contest.against)
    if gain is None:
        return "plain", "alone"
    return _TONES[outcome(gain)], outcome(gain)


def _best(contest: Contest, words: Words) -> Iterator[Finding]:
    if contest.best is None:
        yield Finding("plain", words("contest_no_best"))
        return
    figure, seeds = contest.value(contest.best), len(contest.standings[contest.best].seeds)
    spread = contest.standings[contest.best].spread[METRIC]
    told = {"best": words.model(contest.best), "value": number(figure.value), "interval": span(figure, words)}
    once = "_once" if math.isnan(spread) else ""
    yield Finding("plain", words(f"contest_best{once}", **told, spread=number(spread), seeds=seeds))
    gain = contest.change(contest.best, contest.against)
    if gain is not None:
        yield compared(contest, gain, "than", words)
    yield from _teacher(contest, words)
    linear = _against_linear(contest)
    if not linear:
        yield Finding("fair", words("verdict_no_linear"))
    for change in linear:
        yield compared(contest, change, "than", words)


def _against_linear(contest: Contest) -> list[Change]:
    return [one for one in contest.changes if one.first == contest.best and is_linear(one.second)]


def _teacher(contest: Contest, words: Words) -> Iterator[Finding]:
    change = contest.change(contest.best, TEACHER)
    if change is None:
        yield Finding("plain", words("verdict_no_teacher"))
        return
    yield from kept_of_teacher(change, contest.value(TEACHER).value, words)
    yield compared(contest, change, "teacher", words)


def compared(contest: Contest, change: Change, kind: str, words: Words) -> Finding:
    """One comparison in a sentence; `kind` is `than`, or `teacher` where being below is no bad news."""
    key = outcome(change)
    told = {
        "first": words.model(change.first),
        "second": words.model(change.second),
        "value": number(contest.value(change.second).value),
        "difference": signed(change.difference.value),
        "interval": span(change.difference, words, signed),
        "p": chance(change.p_bootstrap_holm),
    }
    tone: Tone = "plain" if kind == "teacher" and key != "above" else _TONES[key]
    return Finding(tone, words(f"contest_{kind}_{key}", **told))


def _knowledge(contest: Contest, words: Words) -> list[Finding]:
    """Which kinds of knowledge add to the teacher's answers alone."""
    if not contest.knowledge:
        return []
    helped = [words.model(one.first) for one in contest.knowledge if outcome(one) == "above"]
    told = {"plain": words.model(PLAIN_KNOWLEDGE), "names": words("comma").join(helped)}
    found = (
        Finding("good", words("contest_helped", **told))
        if helped
        else Finding("fair", words("contest_no_help", **told))
    )
    return [found, *(compared(contest, one, "than", words) for one in contest.knowledge)]


def _all_models(contest: Contest, words: Words) -> list[Finding]:
    test = contest.omnibus
    if test is None:
        return []
    key = "differ" if test.p < LEVEL else "alike"
    told = {
        "count": len(contest.ran),
        "statistic": f"{test.statistic:.1f}",
        "freedom": test.freedom,
        "p": chance(test.p),
    }
    return [Finding("plain", words(f"contest_omnibus_{key}", **told))]


def _failed(contest: Contest, words: Words) -> list[Finding]:
    whole = [words.model(name) for name in contest.standings if name not in contest.ran]
    parts = [words.model(name) for name, one in contest.ran.items() if one.failed]
    told: tuple[tuple[Tone, str, list[str]], ...]
    told = (("bad", "contest_failed", whole), ("fair", "contest_failed_in_part", parts))
    return [Finding(tone, words(key, names=words("comma").join(names))) for tone, key, names in told if names]
