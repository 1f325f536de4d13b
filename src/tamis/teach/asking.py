"""A teacher behind an endpoint, asked one text at a time by an event loop that runs already: a tier of the cascade."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeGuard

from openai import AsyncOpenAI

from tamis.config import TeacherConfig
from tamis.errors import TeacherError
from tamis.policy import Policy
from tamis.records import Example, TeacherSignal
from tamis.store import Store
from tamis.teach.endpoint import EndpointTeacher
from tamis.teach.prior import content_free, correct, prior_of
from tamis.teach.probe import Answering
from tamis.teach.teachers import make_teacher

Ways = tuple[Answering, dict[str, float]]
Keep = Callable[[TeacherSignal], None]

REMEMBERED = 1000
"""Questions whose answers are held in memory: a wave of one text costs one question and no look into the store."""


@dataclass
class Asking:
    """A teacher of one event loop, which is asked nothing that it has answered before; see `asking`."""

    teacher: EndpointTeacher
    client: AsyncOpenAI
    policy: Policy
    store: Store
    keep: Keep
    _said: dict[str, asyncio.Task[TeacherSignal]] = field(default_factory=dict)
    _under_way: set[asyncio.Task[TeacherSignal]] = field(default_factory=set)
    _prepared: asyncio.Task[Ways] | None = None

    async def ask(self, example: Example) -> TeacherSignal:
        """What the teacher says of an example, its prior divided out; who asks at the same time gets the same answer.

        A question that was put goes on when its caller waits no longer, as it is paid for.

        Raises:
            TeacherError: it cannot be asked.
        """
        task = self._said.get(example.id) or self._begin(example)
        return await self._corrected(await asyncio.shield(task))

    async def known(self, example: Example) -> TeacherSignal | None:
        """What the teacher said of an example before, or is about to say to another caller; None where that is nothing.

        Raises:
            TeacherError: its prior is not known yet, and it does not tell.
            ConfigError: the store cannot be read.
        """
        found = None if example.id in self._said else await self._stored(example)
        # While the store was looked into, another caller may have asked.
        if not _answered(found) and (task := self._said.get(example.id)):
            found = await asyncio.shield(task)
        return await self._corrected(found) if _answered(found) else None

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [*self._under_way, *([self._prepared] if self._prepared else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, example: Example) -> asyncio.Task[TeacherSignal]:
        task = asyncio.create_task(self._put(example))
        self._said[example.id] = task
        self._under_way.add(task)
        task.add_done_callback(lambda done: self._end(example.id, done))
        if len(self._said) > REMEMBERED:
            del self._said[next(iter(self._said))]
        return task

    def _end(self, name: str, done: asyncio.Task[TeacherSignal]) -> None:
        """Let what went wrong be tried again."""
        self._under_way.discard(done)
        if done.cancelled() or done.exception() or done.result().outcome == "failed":
            self._said.pop(name, None)

    async def _stored(self, example: Example) -> TeacherSignal | None:
        key = (self.teacher.fingerprint, self.teacher.label_space, example.id)
        return await asyncio.to_thread(self.store.signal, *key)

    async def _put(self, example: Example) -> TeacherSignal:
        answering, _ = await self._ways()
        return await self._asked(answering, example)

    async def _asked(self, answering: Answering, example: Example) -> TeacherSignal:
        signal = await self.teacher.signal(self.client, answering, example)
        self.keep(signal)
        return signal

    async def _corrected(self, signal: TeacherSignal) -> TeacherSignal:
        _, prior = await self._ways()
        return correct(signal, prior, self.policy)

    async def _ways(self) -> Ways:
        """How the teacher can be asked, and its prior; found out once, for all who wait for it."""
        task = self._prepared
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._prepared = asyncio.create_task(self._prepare())
        return await asyncio.shield(task)

    async def _prepare(self) -> Ways:
        answering = await self.teacher.probed(self.client)
        if not self.teacher.config.prior_correction:
            return answering, {}
        asked = content_free(self.teacher.config.language)
        signals = await asyncio.gather(*(self._content_free(answering, example) for example in asked))
        if any(signal.outcome == "failed" for signal in signals):
            name = self.teacher.fingerprint
            raise TeacherError(f"teacher {name} did not answer what its prior is told by: it is asked again")
        return answering, prior_of(signals, self.policy)

    async def _content_free(self, answering: Answering, example: Example) -> TeacherSignal:
        found = await self._stored(example)
        return found if _answered(found) else await self._asked(answering, example)


def _answered(signal: TeacherSignal | None) -> TypeGuard[TeacherSignal]:
    return signal is not None and signal.outcome != "failed"


@asynccontextmanager
async def asking(config: TeacherConfig, policy: Policy, store: Store, keep: Keep) -> AsyncIterator[Asking]:
    """A teacher that answers one question at a time, over connections that are kept until the block ends.

    How the endpoint can be asked, and what it says of nothing, is found out with the first question: a teacher that is
    down must not keep a service from starting. It takes longer than one caller waits, so it goes on without them.
    Nothing is tried twice: a tier's breaker says when there is another try.

    Args:
        config: who is asked, and how.
        policy: the categories.
        store: holds what was answered before, by labelling too.
        keep: is given each answer as it arrives, before any correction, and puts it into the store.

    Raises:
        AuthError: the key of OpenAI's own endpoint is not set.
        ConfigError: a method that does not fit the policy.
        WeightsError: a GGUF file that is missing or damaged.
    """
    teacher = make_teacher(config.model_copy(update={"retries": 0}), policy, store=store)
    assert isinstance(teacher, EndpointTeacher)  # noqa: S101 - the kinds a tier may have
    address = await asyncio.to_thread(teacher.connection.start)
    async with teacher.client(address) as client:
        opened = Asking(teacher, client, policy, store, keep)
        try:
            yield opened
        finally:
            await opened.close()
