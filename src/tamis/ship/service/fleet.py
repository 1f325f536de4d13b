"""The bundles of one process: one is live, one may be in its shadow, and the one before it is kept for a way back.

Which bundle is live is one reference. A request reads it once, so it is answered by that bundle from first to last,
whatever happens meanwhile; what is replaced is ended only when all it accepted is answered.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tamis.config import ServeConfig, TierConfig
from tamis.errors import BundleError, Closing, ConfigError, ServiceError
from tamis.policy import Policy
from tamis.records import Action, Decision, Scores
from tamis.ship.cascade import AsyncScorer, Cascade, Tier
from tamis.ship.service.bases import Bases
from tamis.ship.service.engine import Engine

log = logging.getLogger(__name__)

TICK = 0.01
"""Seconds between two looks at whether all is answered."""

Teachers = Callable[[Sequence[TierConfig], Policy], AbstractAsyncContextManager[Mapping[str, AsyncScorer]]]
CALM = 0.25
"""A shadow judges while the live bundle's queue is filled at most so far; were it only an empty one, a service that is
never idle would compare nothing."""
COMPARED = 10_000
"""Comparisons that are held until they are asked for; where nobody asks, the oldest go."""

Place = Literal["live", "shadow", "previous", "loaded"]


@dataclass(frozen=True)
class Slot:
    """One bundle as the admin calls show it; `agreement` counts (live action, shadow action) since it is a shadow."""

    name: str
    folder: str
    place: Place
    policy: str
    agreement: Mapping[tuple[Action, Action], int]


@dataclass(eq=False)
class _Member:
    """One loaded bundle."""

    name: str
    folder: Path
    engine: Engine
    cascade: Cascade
    agreement: Counter[tuple[Action, Action]] = field(default_factory=Counter)

    def decide(self, texts: Sequence[str], scores: Sequence[Scores]) -> list[Decision]:
        """What the bundle by itself decides."""
        return [self.engine.moderator.decide(text, one) for text, one in zip(texts, scores, strict=True)]


class Fleet:
    """Decides with the live bundle; see `start`."""

    def __init__(
        self,
        config: ServeConfig,
        policy: Policy,
        tiers: Sequence[Tier],
        opened: AsyncExitStack,
        salt: bytes,
        bases: Bases,
    ) -> None:
        self.config, self._bases = config, bases
        self._tiers, self._tiers_policy, self._opened = tiers, policy, opened
        # Without anybody to ask, unsure is no reason to leave what the thresholds say.
        limits = config.cascade if tiers else config.cascade.model_copy(update={"band": 0.0})
        self._limits, self._salt = limits, salt
        self._members: dict[str, _Member] = {}
        self._live: _Member | None = None
        self._previous: _Member | None = None
        self._shadow: _Member | None = None
        self._changing = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._compared: deque[tuple[Decision, Decision]] = deque(maxlen=COMPARED)
        self._deciding = 0
        self._closing = False

    @classmethod
    async def start(
        cls, folder: str | Path, config: ServeConfig, teachers: Teachers, salt: bytes, bases: Bases | None = None
    ) -> Fleet:
        """Load the first bundle and the tiers behind it.

        Args:
            folder: of the bundle.
            config: batches, cascade and tiers.
            teachers: gives a scorer for each tier that is a teacher, by its name, until the fleet is drained.
            salt: chooses what is audited; the workers of one service share it.
            bases: what other fleets of the process share with this one.

        Raises:
            BundleError: a bundle that must not be served, or a tier for another policy.
            TamisError: what `teachers` says of theirs.
        """
        bases = bases or Bases(config.batch)
        engine = await bases.open(Path(folder))
        policy = engine.moderator.policy
        async with AsyncExitStack() as opened:
            opened.push_async_callback(engine.close)
            asked = await opened.enter_async_context(teachers(config.tiers, policy))
            tiers = [
                await _bundle_tier(tier.bundle, policy, bases, opened)
                if tier.bundle is not None
                else Tier(f"teacher {tier.name}", asked[tier.name])
                for tier in config.tiers
            ]
            fleet = cls(config, policy, tiers, opened.pop_all(), salt, bases)
        fleet._live = fleet._add(engine, Path(folder))
        return fleet

    async def decide(self, texts: Sequence[str], seconds: float) -> list[Decision]:
        """Decisions about texts, in their order.

        Args:
            texts: of one request.
            seconds: how long the caller waits.

        Raises:
            Overloaded: at once, when more waits than may.
            TooLate: the student has not answered in time; a tier that has not leads to a review.
            Closing: the service is about to end.
        """
        if not self.ready:
            raise Closing("the service takes no more requests: send this one again, to another process")
        member = self._current
        self._deciding += 1
        try:
            return await self._decide(member, texts, seconds)
        finally:
            self._deciding -= 1

    async def _decide(self, member: _Member, texts: Sequence[str], seconds: float) -> list[Decision]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        scores = await member.engine.score(texts, began + seconds)
        first = member.decide(texts, scores)
        self._show(texts, first)
        spent = loop.time() - began
        carried = [member.cascade(text, one, seconds - spent) for text, one in zip(texts, first, strict=True)]
        # Without tiers nothing is waited for, and a task a text would cost more than the text.
        decisions = await asyncio.gather(*carried) if self._tiers else [await one for one in carried]
        return [replace(one, latency_ms=one.latency_ms + 1000 * spent) for one in decisions]

    async def load(self, folder: str | Path) -> Slot:
        """Check, load and warm a bundle beside the live one; one that is loaded already is left as it is.

        Raises:
            BundleError: a bundle that must not be served, or for another policy than the tiers; the live one goes on.
        """
        async with self._changing:
            engine = await self._bases.open(Path(folder))
            known = self._members.get(_version(engine))
            wrong = self._tiers and engine.moderator.policy.label_space != self._tiers_policy.label_space
            if wrong or known:
                await engine.close()
            if wrong:
                raise _another_policy(folder, engine.moderator.policy, self._tiers_policy)
            return self._slot(known or self._add(engine, Path(folder)))

    async def shadow(self, name: str | None) -> None:
        """Let a loaded bundle judge what the live one judges, when it has room; None ends that.

        Its answers are counted, and nothing else is done with them.

        Raises:
            ConfigError: it is live, or there is none of this name.
        """
        async with self._changing:
            self._shadow = None if name is None else self._idle(name)
            if self._shadow:
                self._shadow.agreement = Counter()

    async def promote(self, name: str) -> Slot:
        """Make a loaded bundle the live one; the one that was live is kept for `rollback`."""
        async with self._changing:
            member = self._named(name)
            if member is not self._live:
                old, self._previous, self._live = self._previous, self._live, member
                self._shadow = None if self._shadow is member else self._shadow
                if old not in (None, member):
                    await self._end(old)
            return self._slot(member)

    async def rollback(self) -> Slot:
        """Make the bundle before the live one live again.

        Raises:
            ConfigError: there is none.
        """
        async with self._changing:
            if self._previous is None:
                raise ConfigError("no bundle was live before this one: load one and promote it")
            self._live, self._previous = self._previous, self._live
            self._shadow = None if self._shadow is self._live else self._shadow
            return self._slot(self._current)

    async def unload(self, name: str) -> None:
        """Take a bundle that is not live out of the process, when all it accepted is answered.

        Raises:
            ConfigError: it is live, or there is none of this name.
        """
        async with self._changing:
            member = self._idle(name)
            self._shadow = None if self._shadow is member else self._shadow
            self._previous = None if self._previous is member else self._previous
            await self._end(member)

    async def drain(self) -> None:
        """Take nothing more and answer all that was accepted."""
        async with self._changing:
            self._closing = True
            while self._deciding:
                await asyncio.sleep(TICK)
            await asyncio.gather(*self._background)
            for member in list(self._members.values()):
                await self._end(member)
            await self._opened.aclose()

    def compared(self) -> list[tuple[Decision, Decision]]:
        """Decisions of the live bundle and of the one in shadow since this was last asked, see `shadow.keep`."""
        found = list(self._compared)
        self._compared.clear()
        return found

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All bundles of the process."""
        return tuple(map(self._slot, self._members.values()))

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self._live is not None and not self._closing

    @property
    def policy(self) -> Policy:
        """The policy of the live bundle."""
        return self._current.engine.moderator.policy

    @property
    def engine(self) -> Engine:
        """The engine of the live bundle."""
        return self._current.engine

    @property
    def _current(self) -> _Member:
        if self._live is None:
            raise Closing("no bundle is live yet: wait until the service is ready")
        return self._live

    def _add(self, engine: Engine, folder: Path) -> _Member:
        member = _Member(_version(engine), folder, engine, self._cascade(engine))
        self._members[member.name] = member
        return member

    def _cascade(self, engine: Engine) -> Cascade:
        moderator = engine.moderator
        known = next(iter(self._members.values()), None)
        if known:
            return known.cascade.of(moderator.policy, moderator.thresholds)
        return Cascade(moderator.policy, moderator.thresholds, self._tiers, self._limits, self._salt)

    def _show(self, texts: Sequence[str], first: Sequence[Decision]) -> None:
        """Let the shadow judge these texts too, when it has judged those before and the queue is short."""
        shadow = self._shadow
        if shadow is None or shadow.engine.depth or self.engine.backlog > CALM * self.config.batch.wait:
            return
        task = asyncio.create_task(self._compare(shadow, texts, first))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _compare(self, shadow: _Member, texts: Sequence[str], first: Sequence[Decision]) -> None:
        try:
            until = asyncio.get_running_loop().time() + self.config.timeout
            scores = await shadow.engine.score(texts, until)
        except ServiceError as error:
            log.info("the shadow left out %d texts: %s", len(texts), type(error).__name__)
            return
        for live, other in zip(first, shadow.decide(texts, scores), strict=True):
            shadow.agreement[live.action, other.action] += 1
            self._compared.append((live, other))

    async def _end(self, member: _Member) -> None:
        self._members.pop(member.name)
        await member.engine.close()

    def _named(self, name: str) -> _Member:
        if name not in self._members:
            raise ConfigError(f"no bundle {name!r} is loaded: load it, or take one of {', '.join(self._members)}")
        return self._members[name]

    def _idle(self, name: str) -> _Member:
        member = self._named(name)
        if member is self._live:
            raise ConfigError(f"bundle {name} is live: promote another one first")
        return member

    def _slot(self, member: _Member) -> Slot:
        taken: dict[Place, _Member | None] = {"live": self._live, "shadow": self._shadow, "previous": self._previous}
        place: Place = next((place for place, one in taken.items() if one is member), "loaded")
        policy = member.engine.moderator.versions["policy"]
        return Slot(member.name, str(member.folder), place, policy, dict(member.agreement))


def _version(engine: Engine) -> str:
    return engine.moderator.versions["model"]


async def _bundle_tier(folder: str, policy: Policy, bases: Bases, opened: AsyncExitStack) -> Tier:
    """A larger student as a tier; the cascade keeps the time."""
    engine = await bases.open(Path(folder))
    opened.push_async_callback(engine.close)
    if engine.moderator.policy.label_space != policy.label_space:
        raise _another_policy(folder, engine.moderator.policy, policy)

    async def score(text: str) -> Scores:
        return (await engine.score([text], math.inf))[0]

    return Tier(f"bundle {_version(engine)}", score, engine.moderator.thresholds)


def _another_policy(folder: str | Path, got: Policy, wanted: Policy) -> BundleError:
    return BundleError(
        f"{folder} judges {', '.join(got.ids)}, the cascade it would be part of {', '.join(wanted.ids)}:"
        " use bundles of the same policy"
    )
