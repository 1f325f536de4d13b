"""A teacher behind a real endpoint as the tier of a served cascade, in every state such an endpoint can be in."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.teach.conftest import Answer, FakeEndpoint, completion

from tamis.config import CascadeConfig, ServeConfig, TierConfig
from tamis.deciding import Thresholds
from tamis.errors import TeacherError
from tamis.policy import Policy, load_policy
from tamis.records import NO_ANSWER, Decision, Example, TeacherSignal, content_id
from tamis.ship.cascade import Cascade, Tier, unusable
from tamis.tiers import judged, teachers

MARK = "请判断"
"""Stands in every text of a caller, and in no question the endpoint is tried out with."""


def tier(endpoint: FakeEndpoint, **changes: object) -> TierConfig:
    tree = {"kind": "openai", "model": "fake", "base_url": endpoint.url, "api_key_env": "NO_SUCH_KEY", "timeout": 5}
    return TierConfig.model_validate({"teacher": tree | {"prior_correction": False} | changes})


def run(
    endpoint: FakeEndpoint,
    policy: Policy,
    work: Callable[[Callable[[str], Awaitable[Decision]]], Awaitable[None]],
    changes: dict[str, object] | None = None,
    **limits: object,
) -> None:
    """Do some work with a cascade whose student is sure of nothing."""

    async def all_of_it() -> None:
        config = CascadeConfig.model_validate({"audit": 0.0, "band": 1e9, "deadline": 2.0} | limits)
        async with teachers([tier(endpoint, **(changes or {})), TierConfig(bundle="left/out")], policy) as found:
            assert list(found) == ["fake"]
            cascade = Cascade(policy, Thresholds(), [Tier("teacher", found["fake"])], config, b"salt")

            async def decide(text: str) -> Decision:
                scores = policy.scores({name: float(name == policy.benign) for name in policy.ids})
                return await cascade(text, Decision(content_id(text), "pass", policy.benign, scores, {}))

            await work(decide)

    asyncio.run(all_of_it())


def silent(seconds: float) -> Answer | None:
    time.sleep(seconds)
    return None


ANSWERS: dict[str, tuple[str, Callable[[], Answer | None]]] = {
    "500": ("down", lambda: (500, {"error": {"message": "oops"}}, {})),
    "503 with html": ("down", lambda: (503, b"<html>", {"Content-Type": "text/html"})),
    "429": ("down", lambda: (429, {"error": {"message": "slow down"}}, {"Retry-After": "60"})),
    "wrong key": ("down", lambda: (401, {"error": {"message": "no"}}, {})),
    "no json": ("down", lambda: (200, b"\xff\xfe not json", {})),
    "cut short": ("down", lambda: (200, b'{"id": "c", "choi', {})),
    "no choices": ("down", lambda: (200, {"id": "c", "object": "chat.completion", "choices": []}, {})),
    "refused by the provider": ("refused", lambda: (400, {"error": {"message": "Content Exists Risk"}}, {})),
    "refused by the model": ("refused", lambda: (200, completion("", finish="content_filter"), {})),
    "chatter": ("unparsable", lambda: (200, completion("I", [("I", -0.1), ("Sorry", -3.0)]), {})),
    "no log-probabilities": ("unparsable", lambda: (200, completion("正常"), {})),
    "hardly any mass": ("unparsable", lambda: (200, completion("I", [("I", -0.1), ("正常", -4.0)]), {})),
    "silent": ("slow", lambda: silent(1.0)),
}


@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("from_the_start", [True, False], ids=["from the start", "later"])
def test_whatever_a_teacher_does_nothing_passes(
    case: str, from_the_start: bool, endpoint: FakeEndpoint, small_policy: Policy
) -> None:
    reason, answer = ANSWERS[case]

    def rule(_body: dict[str, Any], text: str, _times: int) -> Answer | None:
        return answer() if from_the_start or MARK in text else None

    async def work(decide: Callable[[str], Awaitable[Decision]]) -> None:
        if not from_the_start:
            assert (await decide("well")).action == "pass"
        for i in range(3):
            decision = await decide(f"{MARK} {i}")
            assert decision.action == "review"
            assert decision.tiers == ("student", "teacher", "person")
            # One that never answered in a usable way cannot be asked at all.
            allowed = {reason, "down"} if from_the_start else {reason}
            assert decision.reasons[-1].removeprefix("teacher: ") in allowed

    endpoint.rule = rule
    run(endpoint, small_policy, work, {"method": "logprobs"}, deadline=0.4 if case == "silent" else 5.0)


def test_a_teacher_that_is_back_decides_again(endpoint: FakeEndpoint, small_policy: Policy) -> None:
    down = True

    async def work(decide: Callable[[str], Awaitable[Decision]]) -> None:
        nonlocal down
        first = [(await decide(f"{MARK} {i}")).reasons[-1] for i in range(3)]
        assert first == ["teacher: down", "teacher: down", "teacher: open"]
        down = False
        await asyncio.sleep(0.35)
        decisions = [await decide(text) for text in ("又见赌博", "明天开会")]
        assert [(one.action, one.category) for one in decisions] == [("review", "gambling"), ("pass", "normal")]
        assert decisions[1].tiers == ("student", "teacher")

    endpoint.rule = lambda _body, _text, _times: (500, {}, {}) if down else None
    run(endpoint, small_policy, work, failures=2, open_seconds=0.3)


def test_a_slow_start_goes_on_without_the_caller(endpoint: FakeEndpoint, small_policy: Policy) -> None:
    async def work(decide: Callable[[str], Awaitable[Decision]]) -> None:
        assert (await decide("明天开会")).reasons[-1] == "teacher: slow"
        await asyncio.sleep(1.5)
        assert (await decide("明天开会")).action == "pass"

    # The questions it is tried out with take longer than a text may.
    endpoint.rule = lambda _body, text, _times: None if "开会" in text else silent(0.5)
    run(endpoint, small_policy, work, {"prior_correction": True}, deadline=0.3)


def test_nothing_is_asked_twice_and_no_surrogate_is_sent(endpoint: FakeEndpoint, small_policy: Policy) -> None:
    async def work(decide: Callable[[str], Awaitable[Decision]]) -> None:
        assert (await decide("a\ud800b")).action == "pass"
        endpoint.rule = lambda _body, _text, _times: (500, {}, {})
        await decide("again")

    run(endpoint, small_policy, work)
    assert endpoint.asked["a?b"] == 1
    assert endpoint.asked["again"] == 1


def test_answers_by_hand(small_policy: Policy, make_signal: Callable[..., TeacherSignal]) -> None:
    example = Example("x", "x", "zh", "made", label="fraud")
    told = {"normal": 0.2, "gambling": 0.0, "fraud": 0.4}
    scores = judged(make_signal(example, probabilities=told, known_mass=0.6), small_policy)
    assert scores.probabilities == pytest.approx({"normal": 1 / 3, "gambling": 0, "fraud": 2 / 3})
    assert scores.risk == pytest.approx(2 / 3)
    assert judged(make_signal(example, outcome="refused", probabilities={}), small_policy) is NO_ANSWER
    for signal in (
        make_signal(example, outcome="unparsable", probabilities={}),
        make_signal(example, probabilities={"normal": 0.49, "gambling": 0.0, "fraud": 0.0}, known_mass=0.49),
    ):
        assert unusable(judged(signal, small_policy), small_policy) == "unparsable"
    with pytest.raises(TeacherError, match="did not answer"):
        judged(make_signal(example, outcome="failed", probabilities={}), small_policy)


def test_where_several_may_hold_each_stands_for_itself(make_signal: Callable[..., TeacherSignal]) -> None:
    policy = load_policy("default").only(["normal", "fraud"]).model_copy(update={"kind": "multi_label"})
    told = {"normal": 0.1, "fraud": 0.05}
    signal = replace(make_signal(Example("x", "x", "zh", "made")), probabilities=told, known_mass=0.15)
    scores = judged(signal, policy)
    assert scores.probabilities == told
    assert unusable(scores, policy) is None
    assert not math.isnan(scores.risk)


@pytest.mark.parametrize(
    ("tiers", "sentence"),
    [
        ([{}], "a tier is a `bundle` or a `teacher`"),
        ([{"bundle": "a", "teacher": {"kind": "openai", "model": "m"}}], "a tier is a `bundle` or a `teacher`"),
        ([{"teacher": {"kind": "transformers", "model": "m"}}], "of kind openai or gguf, got transformers"),
        ([{"bundle": "a"}, {"bundle": "a"}], "each of the `tiers` is asked once, got a, a"),
    ],
)
def test_a_tier_that_is_none_is_refused(tiers: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ServeConfig.model_validate({"tiers": tiers})
