"""One loaded bundle of a fleet, and how it comes into memory and leaves it."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tamis.errors import BundleError
from tamis.policy import Policy
from tamis.records import Action, Decision, Scores
from tamis.ship.cascade import Cascade, Tier
from tamis.ship.service.bases import Bases
from tamis.ship.service.engine import Engine

TICK = 0.01
"""Seconds between two looks at whether all is answered."""

CASCADE = ", the cascade it would be part of"

Place = Literal["live", "canary", "shadow", "previous", "loaded"]


@dataclass(frozen=True)
class Slot:
    """One bundle as the admin calls show it.

    `share` is that of the traffic it decides, from 0 to 1; `agreement` counts (live action, shadow action) since it is
    a shadow.
    """

    name: str
    folder: str
    place: Place
    policy: str
    share: float
    agreement: Mapping[tuple[Action, Action], int]


@dataclass(eq=False)
class Member:
    """One loaded bundle; `deciding` counts the requests, or parts of one, that it is to answer."""

    name: str
    folder: Path
    engine: Engine
    cascade: Cascade
    deciding: int = 0
    agreement: Counter[tuple[Action, Action]] = field(default_factory=Counter)

    async def end(self) -> None:
        """Take it out of memory when all it is to answer is answered."""
        while self.deciding:
            await asyncio.sleep(TICK)
        await self.engine.close()

    def decide(self, texts: Sequence[str], scores: Sequence[Scores]) -> list[Decision]:
        """What the bundle by itself decides."""
        return [self.engine.moderator.decide(text, one) for text, one in zip(texts, scores, strict=True)]


def version_of(engine: Engine) -> str:
    """What a bundle is called."""
    return engine.moderator.versions["model"]


async def bundle_tier(folder: str, policy: Policy, bases: Bases, opened: AsyncExitStack) -> Tier:
    """A larger student as a tier; the cascade keeps the time.

    Raises:
        BundleError: it must not be served, or judges by another policy.
    """
    engine = await bases.open(Path(folder))
    opened.push_async_callback(engine.close)
    if engine.moderator.policy.label_space != policy.label_space:
        raise another_policy(folder, engine.moderator.policy, policy, CASCADE)

    async def score(text: str) -> Scores:
        return (await engine.score([text], math.inf))[0]

    return Tier(f"bundle {version_of(engine)}", score, engine.moderator.thresholds)


def another_policy(folder: str | Path, got: Policy, wanted: Policy, where: str) -> BundleError:
    """That a bundle judges by other categories than what it would stand beside."""
    return BundleError(
        f"{folder} judges {', '.join(got.ids)}{where} {', '.join(wanted.ids)}: use bundles of the same policy"
    )
