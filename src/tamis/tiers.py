"""Teachers as tiers of a served cascade: here `teach` and `ship` meet without what training needs."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from tamis.config import TierConfig
from tamis.errors import TeacherError
from tamis.languages import language
from tamis.policy import Policy
from tamis.records import NO_ANSWER, Example, Scores, TeacherSignal, content_id
from tamis.ship.cascade import Tier
from tamis.ship.service.ledger import Ledger, keeping
from tamis.store import Store
from tamis.teach.asking import Asking, asking
from tamis.teach.prior import normalised

LEAST_MASS = 0.5
"""Of an answer the categories must hold this much; what the rest would have said is unknown."""


@asynccontextmanager
async def teachers(tiers: Sequence[TierConfig], policy: Policy, store: Store) -> AsyncIterator[dict[str, Tier]]:
    """The tiers that are teachers, by the name of their settings, until the block ends.

    Args:
        tiers: of the service; those that are bundles are left out.
        policy: of the bundle that is served.
        store: what was answered before, and where answers are kept.

    Raises:
        AuthError: the key of OpenAI's own endpoint is not set.
        ConfigError: a method that does not fit the policy.
        WeightsError: a GGUF file that is missing or damaged.
    """
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(keeping(store))
        found = {}
        for tier in tiers:
            if tier.teacher is not None:
                name = f"teacher {tier.name}"
                opened = asking(tier.teacher, policy, store, partial(ledger.answered, name))
                found[tier.name] = tier_of(name, await stack.enter_async_context(opened), policy, ledger)
        yield found


def tier_of(name: str, teacher: Asking, policy: Policy, ledger: Ledger) -> Tier:
    """A teacher as a tier: it raises where it cannot be asked, and says of each text what `judged` makes of it."""

    async def score(text: str) -> Scores:
        return judged(await teacher.ask(_served(text)), policy)

    async def known(text: str) -> Scores | None:
        found = await teacher.known(_served(text))
        if found is None:
            return None
        ledger.knew(name)
        return judged(found, policy)

    return Tier(name, score, known=known)


def _served(text: str) -> Example:
    # A lone surrogate cannot be sent; the student reads a question mark too.
    sent = text.encode("utf-8", "replace").decode("utf-8")
    return Example(content_id(text), sent, language(text), "served")


def judged(signal: TeacherSignal, policy: Policy) -> Scores:
    """Scores of one answer, over the mass it gave to categories; none where it refused.

    Raises:
        TeacherError: it did not answer.
    """
    if signal.outcome == "failed":
        raise TeacherError(f"teacher {signal.teacher} did not answer: the text goes to a person")
    if signal.outcome == "refused":
        return NO_ANSWER
    several, told = policy.kind == "multi_label", signal.probabilities
    if signal.outcome == "unparsable" or (not several and signal.known_mass < LEAST_MASS):
        # Over no category of the policy, which the cascade calls unparsable.
        return Scores({"unparsable": 1.0}, math.nan, 1.0)
    return policy.scores(told if several else normalised(told))
