from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.config import CascadeConfig, CostsConfig
from tamis.deciding import ANY, Thresholds
from tamis.errors import TamisError
from tamis.policy import Actions, Policy
from tamis.records import NO_ANSWER, CalibrationSplit, Decision, Example, Scores, TestSplit, content_id
from tamis.ship.cascade import Cascade, Tier, is_chosen, is_sure, unusable
from tamis.ship.guards import Breaker, Bucket, Budget
from tamis.ship.tradeoff import BANDS, Costs, Point, cheapest, curve

TEXT = "日入上千，私我带你"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def told(policy: Policy, fraud: float) -> Scores:
    return policy.scores({"normal": 1 - fraud, "gambling": 0.0, "fraud": fraud})


def first(policy: Policy, fraud: float, text: str = TEXT) -> Decision:
    scores = told(policy, fraud)
    return Decision(content_id(text), policy.actions.of(scores.risk), scores.category, scores, {})


def cascade(policy: Policy, *tiers: Tier, clock: Callable[[], float] | None = None, **changes: object) -> Cascade:
    config = CascadeConfig.model_validate({"audit": 0.0} | changes)
    more = {"clock": clock} if clock else {}
    return Cascade(policy, Thresholds(), tiers, config, b"salt", **more)


def says(scores: object) -> Callable[[str], Awaitable[Scores]]:
    async def score(_text: str) -> Scores:
        return scores  # type: ignore[return-value]

    return score


async def breaks(_text: str) -> Scores:
    raise ConnectionError("secret text")


async def dawdles(_text: str) -> Scores:
    await asyncio.sleep(30)
    return NO_ANSWER


def failing(policy: Policy) -> dict[str, tuple[Callable[[str], Awaitable[Scores]], dict]]:
    """Every way a tier can fail, with the settings that bring it about."""
    strange = policy.scores({"normal": 0.9, "fraud": 0.1})
    passing = told(policy, 0.0)
    return {
        "down": (breaks, {}),
        "slow": (dawdles, {"deadline": 0.02}),
        "refused": (says(NO_ANSWER), {}),
        "unparsable": (says(strange), {}),
        "unparsable, no scores": (says("pass"), {}),
        "unparsable, no number": (says(Scores(passing.probabilities, float("nan"), 0.0)), {}),
        "unparsable, another risk": (says(Scores({"normal": 0.0, "gambling": 0, "fraud": 1.0}, 0.0, 0.0)), {}),
        "unparsable, little mass": (says(policy.scores({"normal": 0.1, "gambling": 0.0, "fraud": 0.0})), {}),
        "budget": (says(passing), {"per_day": 1}),
        "open": (breaks, {"failures": 1}),
        "deadline": (says(passing), {}),
    }


KINDS = 11


@settings(deadline=None, max_examples=60)
@given(kind=st.integers(0, KINDS - 1), fraud=st.floats(0, 1), audit=st.sampled_from([0.0, 1.0]))
def test_a_failing_teacher_never_passes_what_the_student_was_unsure_of(
    kind: int, fraud: float, audit: float, small_policy: Policy
) -> None:
    cases = failing(small_policy)
    assert len(cases) == KINDS
    name, (score, changes) = list(cases.items())[kind]
    late = itertools.chain([1000.0, 1000.0], itertools.repeat(5000.0))
    clock = (lambda: next(late)) if name == "deadline" else Clock()
    built = cascade(small_policy, Tier("teacher", score), clock=clock, audit=audit, **changes)
    if name in ("budget", "open"):
        asyncio.run(built(TEXT, first(small_policy, 0.5)))
    student = first(small_policy, fraud)
    decision = asyncio.run(built(TEXT, student))
    if is_sure(student.scores, "zh", Thresholds(), small_policy, built.config.band):
        assert decision.action == student.action
        assert decision.tiers == ("student",)
    else:
        assert decision.action == "review"
        assert decision.tiers == ("student", "teacher", "person")
        assert f"teacher: {name.partition(',')[0]}" in decision.reasons
        assert "audit" not in decision.reasons
        assert not any("secret" in reason for reason in decision.reasons)


def test_what_is_sure_by_hand(small_policy: Policy) -> None:
    # Thresholds 0.5 and 0.9: log-odds 0 and 2.197. Log-odds of 0.3 are -0.847, of 0.95 2.944.
    def sure(fraud: float, band: float) -> bool:
        return is_sure(told(small_policy, fraud), "zh", Thresholds(), small_policy, band)

    assert sure(0.3, 0.84)
    assert not sure(0.3, 0.85)
    assert sure(0.95, 0.74)
    assert not sure(0.95, 0.75)
    assert not sure(0.7, 0.0)


@given(fraud=st.floats(0, 1), narrow=st.floats(0, 5), more=st.floats(0, 5))
def test_a_wider_band_is_sure_of_no_more(fraud: float, narrow: float, more: float, small_policy: Policy) -> None:
    def sure(band: float) -> bool:
        return is_sure(told(small_policy, fraud), "zh", Thresholds(), small_policy, band)

    assert sure(narrow) or not sure(narrow + more)


def test_the_teacher_decides_what_the_student_is_unsure_of(small_policy: Policy) -> None:
    for said, action, tiers in (
        (0.0, "pass", ("student", "teacher")),
        (1.0, "block", ("student", "teacher")),
        (0.7, "review", ("student", "teacher", "person")),
    ):
        built = cascade(small_policy, Tier("teacher", says(told(small_policy, said))))
        decision = asyncio.run(built(TEXT, first(small_policy, 0.5)))
        assert (decision.action, decision.tiers) == (action, tiers)
        assert decision.risk == pytest.approx(said)
        assert decision.reasons[0] == "student: risk calls for review"


def test_the_next_tier_takes_what_one_does_not_answer_and_may_have_thresholds_of_its_own(small_policy: Policy) -> None:
    strict = Thresholds(
        method="costs", by_category={n: {ANY: Actions(review=0.01, block=0.02)} for n in small_policy.ids[1:]}
    )
    large = Tier("large", says(told(small_policy, 0.03)), strict)
    decision = asyncio.run(cascade(small_policy, Tier("down", breaks), large)(TEXT, first(small_policy, 0.5)))
    assert decision.tiers == ("student", "down", "large")
    assert decision.action == "block"
    assert decision.reasons[1:] == ("down: down", "large: fraud calls for block")


def test_a_student_without_an_answer_is_unsure(small_policy: Policy) -> None:
    silent = Decision("x", "review", "", NO_ANSWER, {})
    assert asyncio.run(cascade(small_policy)(TEXT, silent)).action == "review"
    teacher = Tier("teacher", says(told(small_policy, 0.0)))
    assert asyncio.run(cascade(small_policy, teacher)(TEXT, silent)).action == "pass"


def test_latency_is_measured_on_the_clock(small_policy: Policy) -> None:
    clock = Clock()

    async def waits(_text: str) -> Scores:
        clock.now += 0.25
        return told(small_policy, 0.0)

    built = cascade(small_policy, Tier("teacher", waits), clock=clock)
    assert asyncio.run(built(TEXT, first(small_policy, 0.5))).latency_ms == pytest.approx(250)


def test_a_bucket_by_hand() -> None:
    bucket: Bucket | None = Bucket(2, 60.0)
    bucket = bucket.take(0.0)
    assert bucket
    bucket = bucket.take(0.0)
    assert bucket
    assert bucket.take(0.0) is None
    # A third request a minute flows in every 30 seconds.
    assert bucket.take(29.0) is None
    assert bucket.take(30.0)


@given(
    size=st.integers(1, 5),
    steps=st.lists(st.floats(0, 40), min_size=1, max_size=60),
)
def test_a_bucket_never_gives_more_than_its_size_and_what_flowed_in(size: int, steps: list[float]) -> None:
    bucket, now, given_out = Bucket(size, 60.0), 0.0, 0
    for seconds in steps:
        now += seconds
        left = bucket.take(now)
        if left:
            bucket, given_out = left, given_out + 1
        assert given_out <= size + size * now / 60 + 1e-6


def test_a_budget_takes_from_both_buckets_or_none() -> None:
    budget: Budget | None = Budget.of(1, 2, 0.0)
    budget = budget.take(0.0)
    assert budget
    assert budget.take(0.0) is None
    assert budget.day.spent == 1
    budget = budget.take(60.0)
    assert budget
    assert budget.take(120.0) is None
    assert Budget.of(None, None, 0.0).take(0.0)


def test_a_breaker_opens_probes_and_closes() -> None:
    breaker: Breaker | None = Breaker(failures=2, seconds=30)
    breaker = breaker.failure(0.0)
    assert breaker.enter(0.0)
    breaker = breaker.success().failure(0.0)
    assert breaker.enter(0.0)
    breaker = breaker.failure(1.0)
    assert breaker.enter(30.9) is None
    probing = breaker.enter(31.0)
    assert probing
    assert probing.enter(31.0) is None
    assert probing.failure(32.0).enter(61.0) is None
    assert probing.failure(32.0).enter(62.0)
    assert probing.leave().enter(31.0)
    assert probing.success().enter(31.0) == Breaker(failures=2, seconds=30)


def test_an_open_breaker_keeps_requests_away_and_a_cancelled_probe_does_not_hold_it(small_policy: Policy) -> None:
    asked, clock = [], Clock()

    async def recovers(_text: str) -> Scores:
        asked.append(clock.now)
        if len(asked) <= 2:
            raise ConnectionError
        if len(asked) == 3:
            await asyncio.sleep(30)
        return told(small_policy, 0.0)

    built = cascade(small_policy, Tier("teacher", recovers), clock=clock, failures=2, open_seconds=10, deadline=20)

    async def run() -> list[str]:
        actions = [(await built(TEXT, first(small_policy, 0.5))).action for _ in range(5)]
        clock.now += 11
        probe = asyncio.create_task(built(TEXT, first(small_policy, 0.5)))
        await asyncio.sleep(0)
        actions.append((await built(TEXT, first(small_policy, 0.5))).action)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        return [*actions, (await built(TEXT, first(small_policy, 0.5))).action]

    assert asyncio.run(run()) == ["review"] * 6 + ["pass"]
    assert len(asked) == 4


def test_audit_takes_its_share_and_can_be_told_again() -> None:
    names = [content_id(str(i)) for i in range(20_000)]
    chosen = {name for name in names if is_chosen(name, b"salt", 0.01)}
    assert 150 < len(chosen) < 250
    assert chosen == {name for name in names if is_chosen(name, b"salt", 0.01)}
    assert len(chosen & {name for name in names if is_chosen(name, b"other", 0.01)}) < 20
    assert not any(is_chosen(name, b"salt", 0.0) for name in names)
    assert all(is_chosen(name, b"salt", 1.0) for name in names)


def test_only_what_passes_is_marked_for_audit(small_policy: Policy) -> None:
    built = cascade(small_policy, audit=1.0)
    actions = {fraud: asyncio.run(built(TEXT, first(small_policy, fraud))) for fraud in (0.01, 0.5, 0.99)}
    assert [("audit" in one.reasons) for one in actions.values()] == [True, False, False]


def test_usable_answers(small_policy: Policy) -> None:
    assert unusable(told(small_policy, 0.3), small_policy) is None
    assert unusable(NO_ANSWER, small_policy) == "refused"


def rows(policy: Policy) -> tuple[list[Scores], list[Scores], CalibrationSplit]:
    """Two rows the student is sure of, one harmful text near the threshold it would pass, one harmless it reviews."""
    student = [told(policy, p) for p in (0.01, 0.99, 0.4, 0.6)]
    teacher = [told(policy, p) for p in (0.01, 0.99, 0.99, 0.01)]
    labels = ("normal", "fraud", "fraud", "normal")
    return (
        student,
        teacher,
        CalibrationSplit(tuple(Example(str(i), "", "zh", "made", label=label) for i, label in enumerate(labels))),
    )


def test_the_curve_by_hand(small_policy: Policy) -> None:
    student, teacher, split = rows(small_policy)
    costs = Costs(CostsConfig(miss=20, false_block=10, minute=1, minutes=0.5), teacher=0.1)
    points = curve(student, teacher, split, small_policy, Thresholds(), costs)
    assert [point.band for point in points] == list(BANDS)
    # The reviewed row goes to the teacher at any band; log-odds of 0.4 are -0.405, so it does from 0.5 on.
    assert points[0] == Point(0.0, 0.25, 0.0, 0.5, 0.0, pytest.approx(20 / 4 + 0.1 / 4))
    assert points[2] == Point(0.5, 0.5, 0.0, 0.0, 0.0, pytest.approx(0.1 / 2))
    assert points[-1].teacher_share == 1
    assert cheapest(points) == points[2]
    shares = [point.teacher_share for point in points]
    assert shares == sorted(shares)
    rare = curve(student, teacher, split, small_policy, Thresholds(), costs, prevalence=0.02)
    assert rare[0].missed == pytest.approx(0.5)
    assert rare[0].cost == pytest.approx(20 * 0.01 + 0.1 * 0.49)


def test_a_silent_teacher_leaves_rows_to_a_person(small_policy: Policy) -> None:
    student, _, split = rows(small_policy)
    costs = Costs(CostsConfig(), teacher=0.1)
    points = curve(student, [NO_ANSWER] * 4, split, small_policy, Thresholds(), costs)
    assert points[-1].reviewed == 1
    assert points[-1].missed == 0


def test_the_curve_refuses_a_test_split(small_policy: Policy) -> None:
    student, teacher, split = rows(small_policy)
    with pytest.raises(TamisError, match="CalibrationSplit, got a TestSplit"):
        curve(
            student,
            teacher,
            TestSplit(split.examples),  # type: ignore[arg-type]
            small_policy,
            Thresholds(),
            Costs(CostsConfig(), 0.1),
        )
