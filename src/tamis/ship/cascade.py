"""A cascade: the student decides what it is sure of, a larger model what it is not, and a person the rest.

What is sure, when a tier may be asked and what an answer is worth are pure functions of what they are given; `Cascade`
is the small part with state. A tier that is down, slow, out of budget, or whose answer is none or makes no sense, has
not decided, and what nobody decided is reviewed, never passed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tamis.config import CascadeConfig
from tamis.deciding import Thresholds, decide, limits
from tamis.languages import language
from tamis.policy import Policy
from tamis.records import AUDIT, Action, Decision, Scores
from tamis.ship.guards import Breaker, Budget

log = logging.getLogger(__name__)

Failure = Literal["down", "slow", "refused", "unparsable", "budget", "open", "deadline"]
AsyncScorer = Callable[[str], Awaitable[Scores]]
"""One text in, its scores out; `NO_ANSWER` where it refuses. It may raise anything."""
AsyncMemory = Callable[[str], Awaitable[Scores | None]]
"""One text in, the scores that were said of it before out; None where there are none. It may raise anything."""

PERSON = "person"
"""The last of a decision's tiers when somebody has to read the text."""

SLACK = 0.02
"""How far a distribution's sum, or a risk, may be from what it should be."""

TINY = 1e-9


@dataclass(frozen=True)
class Tier:
    """One that is asked when those before it were not sure.

    Its thresholds are the bundle's unless it has its own; `band` is how far from them it must be to be sure. One whose
    answers are kept has `known`: what it said before costs nothing and is said again, be it up or down.
    """

    name: str
    score: AsyncScorer
    thresholds: Thresholds | None = None
    band: float = 0.0
    known: AsyncMemory | None = None


@dataclass
class _State:
    budget: Budget
    breaker: Breaker


@dataclass(frozen=True)
class Step:
    """What a tier said, or why it said nothing."""

    tier: str
    action: Action = "review"
    scores: Scores | None = None
    reasons: tuple[str, ...] = ()
    sure: bool = False


def is_sure(scores: Scores, lang: str, thresholds: Thresholds, policy: Policy, band: float) -> bool:
    """Whether scores decide by themselves: they call for no review, and no odds are within `band` of a threshold's.

    Args:
        scores: of one text.
        lang: its language.
        thresholds: what they are held against.
        policy: the categories.
        band: distance in log-odds; 0.7 is a factor of two of the odds.
    """
    action, _ = decide(scores, lang, thresholds, policy)
    if action == "review":
        return False
    return all(
        abs(_log_odds(one.value) - _log_odds(threshold)) >= band
        for one in limits(scores, lang, thresholds, policy)
        for threshold in (one.actions.review, one.actions.block)
    )


def unusable(scores: object, policy: Policy) -> Literal["refused", "unparsable"] | None:
    """Why an answer cannot decide, or None: it is none, or no distribution over exactly the policy's categories."""
    if not isinstance(scores, Scores):
        return "unparsable"
    if not scores.probabilities:
        return "refused"
    told = scores.probabilities
    known = set(told) == set(policy.ids) and all(0 <= number <= 1 for number in (*told.values(), scores.risk))
    whole = known and (policy.kind == "multi_label" or abs(sum(told.values()) - 1) < SLACK)
    # A risk that the probabilities do not bear out would decide under the policy's own thresholds.
    return None if whole and abs(policy.risk(told) - scores.risk) < SLACK else "unparsable"


def is_chosen(content: str, salt: bytes, share: float) -> bool:
    """Whether a text is in a share of all, by a keyed hash of its content id: always, or never until the share grows.

    Who knows the salt can tell again; who does not cannot write a text that is never chosen.
    """
    digest = hmac.digest(salt, content.encode(), hashlib.sha256)
    return int.from_bytes(digest[:8]) < share * 2**64


def step(tier: str, scores: object, lang: str, thresholds: Thresholds, policy: Policy, band: float) -> Step:
    """What a tier's answer comes to; see `is_sure`."""
    wrong = unusable(scores, policy)
    if wrong or not isinstance(scores, Scores):
        return failed(tier, wrong or "unparsable")
    action, reasons = decide(scores, lang, thresholds, policy)
    sure = is_sure(scores, lang, thresholds, policy, band)
    return Step(tier, action, scores, reasons if sure or action == "review" else (*reasons, "not sure"), sure)


def failed(tier: str, failure: Failure) -> Step:
    """The step of a tier that has not decided."""
    return Step(tier, reasons=(failure,))


def conclude(first: Decision, steps: Sequence[Step], milliseconds: float, audited: bool) -> Decision:
    """The decision of the first step that is sure; a review by a person where none is.

    Args:
        first: the student's own decision.
        steps: the student's step and those of the tiers asked after it.
        milliseconds: since the text came in.
        audited: whether it is looked at should it pass.
    """
    tiers = tuple(step.tier for step in steps)
    reasons = tuple(f"{step.tier}: {reason}" for step in steps for reason in step.reasons)
    last = steps[-1]
    scores = next((step.scores for step in reversed(steps) if step.scores is not None), first.scores)
    marked = (AUDIT,) if audited and last.sure and last.action == "pass" else ()
    return replace(
        first,
        action=last.action if last.sure else "review",
        category=scores.category,
        scores=scores,
        tiers=tiers if last.sure else (*tiers, PERSON),
        reasons=reasons + marked,
        latency_ms=milliseconds,
    )


@dataclass
class Cascade:
    """Decisions of a student, carried on where it is not sure; the only part with state, for one event loop."""

    policy: Policy
    thresholds: Thresholds
    tiers: Sequence[Tier]
    config: CascadeConfig
    salt: bytes
    clock: Callable[[], float] = time.monotonic
    _states: dict[str, _State] = field(init=False)

    def __post_init__(self) -> None:
        """Fill the budgets and close the breakers."""
        now, limit = self.clock(), self.config
        self._states = {
            tier.name: _State(
                Budget.of(limit.per_minute, limit.per_day, now), Breaker(limit.failures, limit.open_seconds)
            )
            for tier in self.tiers
        }

    def of(self, policy: Policy, thresholds: Thresholds) -> Cascade:
        """The cascade of another student: it spends the same budgets, and its tiers are the same, up or down."""
        other = replace(self, policy=policy, thresholds=thresholds)
        other._states = self._states
        return other

    async def __call__(self, text: str, first: Decision, seconds: float = math.inf) -> Decision:
        """Carry on from the student's decision about a text.

        Args:
            text: what is judged.
            first: what `Moderator` decided; it stands where the student is sure.
            seconds: how long the caller waits, where that is less than the deadline.

        Returns:
            The decision with its tiers, reasons and latency, always within the deadline and a little more.
        """
        began, lang = self.clock(), language(text)
        until = began + min(seconds, self.config.deadline)
        steps = [step("student", first.scores, lang, self.thresholds, self.policy, self.config.band)]
        for tier in self.tiers:
            if steps[-1].sure:
                break
            steps.append(await self._ask(tier, text, lang, until))
        audited = is_chosen(first.id, self.salt, self.config.audit)
        return conclude(first, steps, 1000 * (self.clock() - began), audited)

    async def audit(self, text: str, seconds: float) -> None:
        """Ask those whose answers are kept about a text that was decided without them, within their budgets.

        Args:
            text: which was passed, and is audited.
            seconds: for how long; nobody waits.
        """
        until = self.clock() + seconds
        for tier in self.tiers:
            if tier.known is not None:
                await self._ask(tier, text, language(text), until)

    async def _ask(self, tier: Tier, text: str, lang: str, until: float) -> Step:
        """One tier's step; whatever goes wrong is a reason, not an error."""
        thresholds = tier.thresholds or self.thresholds
        known = await self._known(tier, text, until)
        if known is not None:
            return step(tier.name, known, lang, thresholds, self.policy, tier.band)
        state, now = self._states[tier.name], self.clock()
        entered, left = state.breaker.enter(now), state.budget.take(now)
        if now >= until or entered is None or left is None:
            return failed(tier.name, "deadline" if now >= until else "open" if entered is None else "budget")
        state.breaker, state.budget = entered, left
        try:
            async with asyncio.timeout(until - now):
                scores = await tier.score(text)
        except asyncio.CancelledError:
            state.breaker = state.breaker.leave()
            raise
        except Exception as error:
            state.breaker = state.breaker.failure(self.clock())
            # The kind alone: a message may hold the text or a key.
            log.warning("tier %s failed with %s", tier.name, type(error).__name__)
            return failed(tier.name, "slow" if isinstance(error, TimeoutError) else "down")
        state.breaker = state.breaker.success()
        return step(tier.name, scores, lang, thresholds, self.policy, tier.band)

    async def _known(self, tier: Tier, text: str, until: float) -> Scores | None:
        """What a tier said of a text before; None too where that cannot be found out in time."""
        if tier.known is None:
            return None
        try:
            async with asyncio.timeout(until - self.clock()):
                return await tier.known(text)
        except Exception as error:
            log.warning("what tier %s said before is not known: %s", tier.name, type(error).__name__)
            return None


def _log_odds(probability: float) -> float:
    clipped = min(max(probability, TINY), 1 - TINY)
    return math.log(clipped / (1 - clipped))
