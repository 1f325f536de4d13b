"""Tiers that decide what the student is unsure of, and tiers that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.ship.service.fleet.conftest import SECONDS, TEXTS, places, run

from tamis.errors import BundleError
from tamis.policy import Policy
from tamis.records import NO_ANSWER, Scores
from tamis.ship.bundle import Moderator
from tamis.ship.service.fleet import Fleet

TEACHER = {"kind": "openai", "model": "big"}
UNSURE = {"cascade": {"audit": 0.0, "band": 1e9, "deadline": 0.3}}


def sure_of(policy: Policy, category: str) -> Scores:
    return policy.scores({name: 0.98 if name == category else 0.01 for name in policy.ids})


async def down(_text: str) -> Scores:
    raise ConnectionError("secret")


async def silent(_text: str) -> Scores:
    await asyncio.sleep(60)
    return NO_ANSWER


async def refusing(_text: str) -> Scores:
    return NO_ANSWER


async def garbage(_text: str) -> Scores:
    return "pass"  # type: ignore[return-value]


FAILURES = {"down": down, "slow": silent, "refused": refusing, "unparsable": garbage}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_tier_that_fails_leads_to_a_review(reason: str, bundles: Sequence[Path]) -> None:
    async def work(fleet: Fleet) -> None:
        for _ in range(2):
            for decision in await fleet.decide(TEXTS, SECONDS):
                assert decision.action == "review"
                assert decision.tiers == ("student", "teacher big", "person")
                assert decision.reasons[-1] in (f"teacher big: {reason}", "teacher big: open")

    run(bundles[0], work, {"big": FAILURES[reason]}, tiers=[{"teacher": TEACHER}], **UNSURE)


def test_a_tier_decides_what_the_student_is_not_sure_of(bundles: Sequence[Path], small_policy: Policy) -> None:
    async def says(text: str) -> Scores:
        return sure_of(small_policy, "fraud" if "money" in text else "normal")

    async def work(fleet: Fleet) -> None:
        decisions = await fleet.decide(TEXTS, SECONDS)
        assert [decision.action for decision in decisions] == ["pass", "pass", "block", "pass"]
        assert {decision.tiers for decision in decisions} == {("student", "teacher big")}

    run(bundles[0], work, {"big": says}, tiers=[{"teacher": TEACHER}], **UNSURE)


@pytest.mark.parametrize(("log", "budget"), [("durable", 100), ("durable", 3), ("off", 100)])
def test_audited_texts_are_shown_to_the_teacher_and_nobody_waits(
    log: str, budget: int, bundles: Sequence[Path], judges: dict[str, Moderator], small_policy: Policy
) -> None:
    texts = [f"又见赌博 {i}" for i in range(60)]
    passed = [one.action == "pass" for one in next(iter(judges.values()))(texts)]
    texts = [text for text, passes in zip(texts, passed, strict=True) if passes]
    assert len(texts) > 3
    asked: list[str] = []
    answers = asyncio.Event()

    async def waits(text: str) -> Scores:
        asked.append(text)
        await answers.wait()
        return sure_of(small_policy, "fraud")

    async def work(fleet: Fleet) -> None:
        decisions = await fleet.decide(texts, SECONDS)
        assert {(one.action, one.tiers, one.reasons) for one in decisions} == {("pass", ("student",), ("audit",))}
        await asyncio.sleep(0.05)
        assert asked == (texts[:budget] if log == "durable" else [])
        answers.set()

    cascade = {"audit": 1.0, "band": 0.0, "per_day": budget}
    run(bundles[0], work, {"big": waits}, tiers=[{"teacher": TEACHER}], cascade=cascade, log=log)


def test_another_bundle_can_be_the_tier_and_budgets_outlive_a_swap(
    bundles: Sequence[Path], judges: dict[str, Moderator]
) -> None:
    two = list(judges)[1]

    async def work(fleet: Fleet) -> None:
        decisions = await fleet.decide(TEXTS, SECONDS)
        for decision, wanted in zip(decisions, judges[two](TEXTS), strict=True):
            assert decision.action == wanted.action
            assert decision.tiers[:2] == ("student", f"bundle {two}")
            assert decision.probabilities == pytest.approx(dict(wanted.probabilities), abs=1e-4)
        await fleet.load(bundles[1])
        await fleet.promote(two)
        again = await fleet.decide(TEXTS[:1], SECONDS)
        assert again[0].action == "review"
        assert again[0].reasons[-1] == f"bundle {two}: budget"

    cascade = {"audit": 0.0, "band": 1e9, "per_day": len(TEXTS), "deadline": SECONDS}
    run(bundles[0], work, tiers=[{"bundle": str(bundles[1])}], cascade=cascade)


def test_a_bundle_for_another_policy_than_the_tiers_is_refused(
    bundles: Sequence[Path], other_policy: Path, judges: dict[str, Moderator]
) -> None:
    async def work(fleet: Fleet) -> None:
        with pytest.raises(BundleError, match=r"judges normal, fraud, the cascade .* normal, gambling, fraud: use"):
            await fleet.load(other_policy)
        assert places(fleet.slots) == {next(iter(judges)): "live"}

    run(bundles[0], work, tiers=[{"bundle": str(bundles[1])}])
    with pytest.raises(BundleError, match="judges normal, fraud, the cascade"):
        run(bundles[0], work, tiers=[{"bundle": str(other_policy)}])
