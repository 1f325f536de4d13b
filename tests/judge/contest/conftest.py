"""A made-up contest: variants over seeds, one of them failed, a teacher that refuses some rows, and linear models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tamis.config import EvaluateConfig
from tamis.judge.contest.measure import Candidate, contest
from tamis.judge.contest.result import Contest
from tamis.judge.result import Speed
from tamis.policy import Policy
from tamis.records import Example, Scorer, TestSplit

QUICK = EvaluateConfig(bootstrap=100)
SPEED = Speed(rows=3, p50_ms=1.5, p95_ms=2.5, p99_ms=3.5, texts_per_second=400, batch=32, peak_mb=900)

MakeCandidate = Callable[..., Candidate]


@pytest.fixture(scope="session")
def make_candidate(make_scorer: Callable[..., Scorer], examples: tuple[Example, ...]) -> MakeCandidate:
    """A candidate that is right on a share of the rows, by seed; other arguments are Candidate's."""
    texts = [example.text for example in examples]

    def make(
        name: str, group: str, skill: float, seeds: Sequence[int] = (0, 1, 2), silent: float = 0, **more: Any
    ) -> Candidate:
        runs = {seed: make_scorer(skill, silent, seed=f"{name}{seed}")(texts) for seed in seeds}
        return Candidate(name, group, runs, **more)

    return make


@pytest.fixture(scope="session")
def candidates(make_candidate: MakeCandidate) -> list[Candidate]:
    return [
        make_candidate("A-lora", "A", 0.7, facts={"rank": 16, "parameters": 494_000_000, "training_seconds": 60.5}),
        make_candidate("D1", "D", 0.8, facts={"teacher_tokens": 12_345}),
        make_candidate("D2", "D", 0.82, seeds=(0, 2), failed={1: "the loss was not finite"}),
        make_candidate("D5", "D", 0.9, speed=SPEED),
        make_candidate("rank-2", "rank", 0.3, facts={"rank": 2}),
        make_candidate("rank-8", "rank", 0.68, facts={"rank": 8}),
        make_candidate("teacher", "teacher", 0.95, seeds=(0,), silent=0.03),
        make_candidate("svm", "baseline", 0.6, seeds=(0,)),
        make_candidate("svm_teacher", "baseline", 0.65, seeds=(0,)),
        Candidate("C", "C", {}, failed={0: "no hidden states"}),
    ]


@pytest.fixture(scope="session")
def found(candidates: list[Candidate], examples: tuple[Example, ...], small_policy: Policy) -> Contest:
    return contest(candidates, TestSplit(examples), small_policy, QUICK, best="D5")
