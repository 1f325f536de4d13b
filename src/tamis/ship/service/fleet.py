"""The bundles of one process: one is live, others decide a share or judge in its shadow, one is the way back.

Which bundle decides is read once a text, so each text is judged by one bundle from first to last, whatever happens
meanwhile; what is replaced is ended only when all it accepted is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from tamis.config import ServeConfig, TierConfig
from tamis.errors import Closing, ConfigError, ServiceError
from tamis.policy import Policy
from tamis.records import AUDIT, Decision, content_id
from tamis.ship.cascade import Cascade, Tier, is_chosen
from tamis.ship.service.bases import Bases
from tamis.ship.service.engine import Engine
from tamis.ship.service.members import (
    CASCADE,
    TICK,
    Member,
    Place,
    Slot,
    another_policy,
    bundle_tier,
    version_of,
)
from tamis.ship.service.traces import span, traced
from tamis.store import Store

log = logging.getLogger(__name__)

Teachers = Callable[[Sequence[TierConfig], Policy], AbstractAsyncContextManager[Mapping[str, Tier]]]
"""Settings of the tiers and the policy in, those tiers that are teachers out, by the names of their settings."""

CALM = 0.25
"""A shadow judges while the live bundle's queue is filled at most so far; were it only an empty one, a service that is
never idle would compare nothing."""
COMPARED = 10_000
"""Comparisons that are held until they are asked for; where nobody asks, the oldest go."""


class StoredTeachers(Protocol):
    """`Teachers` whose answers are kept in a store."""

    def __call__(
        self, tiers: Sequence[TierConfig], policy: Policy, store: Store
    ) -> AbstractAsyncContextManager[Mapping[str, Tier]]:
        """The tiers that are teachers, until the block ends."""


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
        self._members: dict[str, Member] = {}
        self._live: Member | None = None
        self._previous: Member | None = None
        self._shadow: Member | None = None
        self._canary: Member | None = None
        self._share = 0.0
        self._changing = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._compared: deque[tuple[Decision, Decision]] = deque(maxlen=COMPARED)
        self._closing = False

    @classmethod
    async def start(
        cls, folder: str | Path, config: ServeConfig, teachers: Teachers, salt: bytes, bases: Bases | None = None
    ) -> Fleet:
        """Load the first bundle and the tiers behind it.

        Args:
            folder: of the bundle.
            config: batches, cascade and tiers.
            teachers: gives the tiers that are teachers, by their names, until the fleet is drained.
            salt: chooses what is audited and what a canary decides; the workers of one service share it.
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
                await bundle_tier(tier.bundle, policy, bases, opened) if tier.bundle is not None else asked[tier.name]
                for tier in config.tiers
            ]
            fleet = cls(config, policy, [traced(tier) for tier in tiers], opened.pop_all(), salt, bases)
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
        parts = self._divided(texts)
        for member in parts:
            member.deciding += 1
        try:
            if len(parts) == 1:
                return await self._decide(next(iter(parts)), texts, seconds)
            asked = (self._decide(member, [texts[i] for i in places], seconds) for member, places in parts.items())
            answers = chain.from_iterable(await asyncio.gather(*asked))
        finally:
            for member in parts:
                member.deciding -= 1
        found = dict(zip(chain.from_iterable(parts.values()), answers, strict=True))
        return [found[i] for i in range(len(texts))]

    def _divided(self, texts: Sequence[str]) -> dict[Member, Sequence[int]]:
        """Places of the texts by the bundle that decides them."""
        live, canary = self._current, self._canary
        if canary is None:
            return {live: range(len(texts))}
        # Under the salt of the audit, a small canary would have all that is audited.
        salt = self._salt + b" canary"
        chosen = [is_chosen(content_id(text), salt, self._share) for text in texts]
        places = {
            live: [i for i, one in enumerate(chosen) if not one],
            canary: [i for i, one in enumerate(chosen) if one],
        }
        return {member: where for member, where in places.items() if where}

    async def _decide(self, member: Member, texts: Sequence[str], seconds: float) -> list[Decision]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with span("student", texts=len(texts), bundle=member.name):
            scores = await member.engine.score(texts, began + seconds)
        first = member.decide(texts, scores)
        if member is self._live:
            self._show(texts, first)
        spent = loop.time() - began
        carried = [member.cascade(text, one, seconds - spent) for text, one in zip(texts, first, strict=True)]
        # Without tiers nothing is waited for, and a task a text would cost more than the text.
        decisions = await asyncio.gather(*carried) if self._tiers else [await one for one in carried]
        self._audit(member, texts, decisions)
        return [replace(one, latency_ms=one.latency_ms + 1000 * spent) for one in decisions]

    async def load(self, folder: str | Path) -> Slot:
        """Check, load and warm a bundle beside the live one; one that is loaded already is left as it is.

        Raises:
            BundleError: a bundle that must not be served, or for another policy than the tiers; the live one goes on.
        """
        async with self._changing:
            engine = await self._bases.open(Path(folder))
            known = self._members.get(version_of(engine))
            wrong = self._tiers and engine.moderator.policy.label_space != self._tiers_policy.label_space
            if wrong or known:
                await engine.close()
            if wrong:
                raise another_policy(folder, engine.moderator.policy, self._tiers_policy, CASCADE)
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

    async def canary(self, name: str, share: float) -> Slot:
        """Let a loaded bundle decide a share of the traffic, until another one is live; 0 ends that.

        The texts are chosen by a keyed hash of their content, so that the same text meets the same bundle in every
        worker; a share that grows keeps those it had.

        Raises:
            ConfigError: it is live, or there is none of this name.
            BundleError: it judges by other categories than the live one.
        """
        async with self._changing:
            member, policy = self._idle(name), self.policy
            if share and member.engine.moderator.policy.label_space != policy.label_space:
                raise another_policy(member.folder, member.engine.moderator.policy, policy, ", the live bundle")
            if share:
                self._leave(member)
                self._canary, self._share = member, share
            elif member is self._canary:
                self._canary = None
            return self._slot(member)

    async def promote(self, name: str) -> Slot:
        """Make a loaded bundle the live one; the one that was live is kept for `rollback`."""
        async with self._changing:
            member, old = self._named(name), self._previous
            if member is not self._live:
                self._make_live(member)
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
            self._make_live(self._previous)
            return self._slot(self._current)

    async def unload(self, name: str) -> None:
        """Take a bundle that is not live out of the process, when all it accepted is answered.

        Raises:
            ConfigError: it is live, or there is none of this name.
        """
        async with self._changing:
            member = self._idle(name)
            self._leave(member)
            await self._end(member)

    async def drain(self) -> None:
        """Take nothing more and answer all that was accepted."""
        async with self._changing:
            self._closing = True
            while any(member.deciding for member in self._members.values()):
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
    def _current(self) -> Member:
        if self._live is None:
            raise Closing("no bundle is live yet: wait until the service is ready")
        return self._live

    def _add(self, engine: Engine, folder: Path) -> Member:
        member = Member(version_of(engine), folder, engine, self._cascade(engine))
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
        self._later(self._compare(shadow, texts, first))

    def _audit(self, member: Member, texts: Sequence[str], decisions: Sequence[Decision]) -> None:
        """Let the teachers judge audited texts that the student decided alone; nothing but the log says which."""
        if not self._tiers or self.config.log == "off":
            return
        for text, decision in zip(texts, decisions, strict=True):
            if AUDIT in decision.reasons and len(decision.tiers) == 1:
                self._later(member.cascade.audit(text, self.config.timeout))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what nobody waits for but the end of the fleet."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _compare(self, shadow: Member, texts: Sequence[str], first: Sequence[Decision]) -> None:
        try:
            until = asyncio.get_running_loop().time() + self.config.timeout
            scores = await shadow.engine.score(texts, until)
        except ServiceError as error:
            log.info("the shadow left out %d texts: %s", len(texts), type(error).__name__)
            return
        for live, other in zip(first, shadow.decide(texts, scores), strict=True):
            shadow.agreement[live.action, other.action] += 1
            self._compared.append((live, other))

    def _make_live(self, member: Member) -> None:
        """Let a bundle decide; a share of the traffic was one beside the bundle before it, and ends."""
        self._leave(member)
        self._previous, self._live, self._canary = self._live, member, None

    def _leave(self, member: Member) -> None:
        """Take a bundle from whatever place it has."""
        self._shadow = None if self._shadow is member else self._shadow
        self._canary = None if self._canary is member else self._canary
        self._previous = None if self._previous is member else self._previous

    async def _end(self, member: Member) -> None:
        self._members.pop(member.name)
        await member.end()

    def _named(self, name: str) -> Member:
        if name not in self._members:
            raise ConfigError(f"no bundle {name!r} is loaded: load it, or take one of {', '.join(self._members)}")
        return self._members[name]

    def _idle(self, name: str) -> Member:
        member = self._named(name)
        if member is self._live:
            raise ConfigError(f"bundle {name} is live: promote another one first")
        return member

    def _slot(self, member: Member) -> Slot:
        taken: dict[Place, Member | None] = {
            "live": self._live,
            "canary": self._canary,
            "shadow": self._shadow,
            "previous": self._previous,
        }
        place: Place = next((place for place, one in taken.items() if one is member), "loaded")
        decided = self._share if self._canary else 0.0
        share = {"live": 1 - decided, "canary": decided}.get(place, 0.0)
        policy = member.engine.moderator.versions["policy"]
        return Slot(member.name, str(member.folder), place, policy, share, dict(member.agreement))
