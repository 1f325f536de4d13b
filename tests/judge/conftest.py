"""A made-up evaluation: a student, a teacher that refuses some rows, and two baselines of fixed skill."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from tamis.config import EvaluateConfig
from tamis.judge.evaluate import evaluate
from tamis.judge.result import Evaluation
from tamis.policy import Policy
from tamis.records import NO_ANSWER, Example, Scorer, Scores, TestSplit

QUICK = EvaluateConfig(bootstrap=100, latency_rows=3)

MakeScorer = Callable[..., Scorer]


@pytest.fixture(scope="session")
def make_scorer(small_policy: Policy, examples: tuple[Example, ...]) -> MakeScorer:
    """A scorer that is right on a share of the rows and silent on another."""
    truth = {example.text: str(example.label) for example in examples}

    def make(skill: float, silent: float = 0.0, seed: int = 0) -> Scorer:
        def score_one(text: str) -> Scores:
            generator = random.Random(f"{seed}{text}")
            if generator.random() < silent:
                return NO_ANSWER
            others = [name for name in small_policy.ids if name != truth[text]]
            said = truth[text] if generator.random() < skill else generator.choice(others)
            sure = generator.uniform(0.5, 0.98)
            rest = (1 - sure) / (len(small_policy.ids) - 1)
            return small_policy.scores({name: sure if name == said else rest for name in small_policy.ids})

        def score(texts: Sequence[str]) -> list[Scores]:
            return [score_one(text) for text in texts]

        return score

    return make


@pytest.fixture(scope="session")
def scorers(make_scorer: MakeScorer) -> dict[str, Scorer]:
    return {
        "student": make_scorer(0.9, seed=1),
        "teacher": make_scorer(0.95, silent=0.03, seed=2),
        "svm": make_scorer(0.6, seed=3),
        "keyword": make_scorer(0.4, seed=4),
    }


@pytest.fixture(scope="session")
def evaluation(scorers: dict[str, Scorer], examples: tuple[Example, ...], small_policy: Policy) -> Evaluation:
    return evaluate(scorers, TestSplit(examples), small_policy, QUICK, timed=("student",))
