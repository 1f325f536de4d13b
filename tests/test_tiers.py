"""A teacher behind a real endpoint as the tier of a served cascade, in every state such an endpoint can be in."""

from __future__ import annotations

import asyncio
import logging
import math
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.teach.conftest import Answer, FakeEndpoint, completion

from tamis.config import CascadeConfig, ServeConfig, TierConfig
from tamis.deciding import Thresholds
from tamis.errors import TeacherError
from tamis.policy import Policy, load_policy
from tamis.records import NO_ANSWER, Decision, Example, TeacherSignal, content_id
from tamis.ship.cascade import Cascade, unusable
from tamis.ship.console.hours import Counted, counts, totals
from tamis.ship.service.ledger import Ledger
from tamis.store import Store
from tamis.teach.label import label
from tamis.teach.teachers import make_teacher
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
    store: Store | None = None,
    **limits: object,
) -> None:
    """Do some work with a cascade whose student is sure of nothing."""

    async def all_of_it(opened: Store) -> None:
        config = CascadeConfig.model_validate({"audit": 0.0, "band": 1e9, "deadline": 20.0} | limits)
        tiers = [tier(endpoint, **(changes or {})), TierConfig(bundle="left/out")]
        async with teachers(tiers, policy, opened) as found:
            assert [(name, one.name) for name, one in found.items()] == [("fake", "teacher fake")]
            cascade = Cascade(policy, Thresholds(), [replace(found["fake"], name="teacher")], config, b"salt")

            async def decide(text: str) -> Decision:
                scores = policy.scores({name: float(name == policy.benign) for name in policy.ids})
                return await cascade(text, Decision(content_id(text), "pass", policy.benign, scores, {}))

            await work(decide)

    if store:
        asyncio.run(all_of_it(store))
        return
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "s.db") as fresh:
        asyncio.run(all_of_it(fresh))


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


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


def counted(store: Store) -> dict[str, int]:
    """What was counted of the one teacher, over all hours."""
    now = datetime.now(UTC)
    kinds = ("asked", "kept", "prompt", "completion")
    found = {kind: totals(counts(store, kind, now - timedelta(days=1), now, "day")) for kind in kinds}
    return {kind: rows["teacher fake"] for kind, rows in found.items() if rows}


def test_what_was_answered_is_not_paid_for_again_and_outlives_a_restart_and_the_teacher(
    endpoint: FakeEndpoint, small_policy: Policy, store: Store
) -> None:
    async def work(decide: Callable[[str], Awaitable[Decision]]) -> None:
        first.extend([await decide(text) for text in ("明天开会", "又见赌博", "明天 开会")])

    async def again(decide: Callable[[str], Awaitable[Decision]]) -> None:
        second.extend([await decide(text) for text in ("明天开会", "又见赌博")])
        assert (await decide("never asked")).reasons[-1] == "teacher: down"
        # Left alone it still says what it said.
        assert (await decide("又见赌博")).tiers == ("student", "teacher")

    first: list[Decision] = []
    second: list[Decision] = []
    changes = {"prior_correction": True}
    run(endpoint, small_policy, work, changes, store)
    assert [one.action for one in first] == ["pass", "block", "pass"]
    assert endpoint.asked["明天开会"] == 1
    # Four questions tell the prior.
    assert counted(store) == {"asked": 6, "kept": 1, "prompt": 300, "completion": 6}
    asked = endpoint.asked.total()
    endpoint.rule = lambda _body, _text, _times: (500, {}, {})
    run(endpoint, small_policy, again, changes, store, failures=1)
    assert [one.probabilities for one in second] == [one.probabilities for one in first[:2]]
    # Neither is the prior asked for again, nor how the endpoint can be asked.
    assert endpoint.asked.total() == asked + 1
    assert counted(store) == {"asked": 7, "kept": 4, "prompt": 300, "completion": 6}


def test_a_wave_of_one_text_costs_one_question(endpoint: FakeEndpoint, small_policy: Policy, store: Store) -> None:
    async def work(decide: Callable[[str], Awaitable[Decision]]) -> None:
        decisions = await asyncio.gather(*(decide("明天开会") for _ in range(40)))
        assert {one.action for one in decisions} == {"pass"}

    endpoint.rule = lambda _body, text, _times: silent(0.3) if "开会" in text else None
    run(endpoint, small_policy, work, store=store, per_minute=1, deadline=20.0)
    assert endpoint.asked["明天开会"] == 1
    assert counted(store) == {"asked": 1, "kept": 39, "prompt": 50, "completion": 1}


def test_an_answer_that_comes_too_late_is_kept(endpoint: FakeEndpoint, small_policy: Policy, store: Store) -> None:
    async def work(decide: Callable[[str], Awaitable[Decision]]) -> None:
        await decide("又见赌博")
        late = await decide("明天开会")
        assert (late.action, late.reasons[-1]) == ("review", "teacher: slow")
        await asyncio.sleep(1.0)
        assert (await decide("明天开会")).action == "pass"

    endpoint.rule = lambda _body, text, _times: silent(0.8) if "开会" in text else None
    run(endpoint, small_policy, work, store=store, deadline=0.5)
    assert endpoint.asked["明天开会"] == 1


def test_an_answer_that_comes_while_others_are_written_is_kept(
    endpoint: FakeEndpoint, small_policy: Policy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, commit = threading.Event(), Ledger._commit

    def slow(ledger: Ledger, signals: list[TeacherSignal], numbers: Counted) -> None:
        writing.set()
        time.sleep(0.5)
        commit(ledger, signals, numbers)

    async def work(decide: Callable[[str], Awaitable[Decision]]) -> None:
        await decide("又见赌博")
        await asyncio.to_thread(writing.wait, 20)
        await decide("明天开会")

    monkeypatch.setattr(Ledger, "_commit", slow)
    run(endpoint, small_policy, work, store=store)
    assert counted(store)["asked"] == 2


def test_a_store_that_fails_is_told_and_passes_nothing(
    endpoint: FakeEndpoint, small_policy: Policy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(decide: Callable[[str], Awaitable[Decision]]) -> None:
        assert (await decide("明天开会")).action == "pass"
        with store.begin() as connection:
            connection.exec_driver_sql("DROP TABLE signals")
        answers = [(await decide(text)).action for text in ("又见赌博", "下午开会")]
        assert answers == ["review", "pass"]
        endpoint.rule = lambda _body, _text, _times: (500, {}, {})
        assert (await decide("晚上开会")).action == "review"

    with Store.open(tmp_path / "s.db") as store, caplog.at_level(logging.WARNING):
        run(endpoint, small_policy, work, store=store)
    assert "what tier teacher said before is not known: ConfigError" in caplog.text
    assert "answers of teachers could not be kept: ConfigError" in caplog.text
    assert "开会" not in caplog.text


def test_labelling_finds_what_a_service_asked(endpoint: FakeEndpoint, small_policy: Policy, store: Store) -> None:
    async def work(decide: Callable[[str], Awaitable[Decision]]) -> None:
        await decide("又见赌博")

    run(endpoint, small_policy, work, {"prior_correction": True}, store)
    asked = endpoint.asked.total()
    config = tier(endpoint, prior_correction=True, few_shot={"kind": "none"}).teacher
    assert config is not None
    example = Example(content_id("又见赌博"), "又见赌博", "zh", "made")
    found = label([example], make_teacher(config, small_policy, store=store), store, config, small_policy)
    assert found[example.id].outcome == "ok"
    assert endpoint.asked.total() == asked


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
        ([{"teacher": {"kind": "openai", "model": "m", "budget": {"tokens": 9}}}], "keeps to no `budget`"),
        ([{"teacher": {"kind": "transformers", "model": "m"}}], "of kind openai or gguf, got transformers"),
        ([{"bundle": "a"}, {"bundle": "a"}], "each of the `tiers` is asked once, got a, a"),
    ],
)
def test_a_tier_that_is_none_is_refused(tiers: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ServeConfig.model_validate({"tiers": tiers})
