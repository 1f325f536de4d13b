"""A teacher behind an endpoint, asked one text at a time by an event loop that runs already: a tier of the cascade."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from openai import AsyncOpenAI

from tamis.config import TeacherConfig
from tamis.errors import TeacherError
from tamis.policy import Policy
from tamis.records import Example, TeacherSignal
from tamis.teach.endpoint import EndpointTeacher
from tamis.teach.prior import content_free, correct, prior_of
from tamis.teach.probe import Answering
from tamis.teach.teachers import make_teacher

Ask = Callable[[Example], Awaitable[TeacherSignal]]
Ways = tuple[Answering, dict[str, float]]


@asynccontextmanager
async def asking(config: TeacherConfig, policy: Policy) -> AsyncIterator[Ask]:
    """A function that puts one question, over connections that are kept until the block ends.

    How the endpoint can be asked, and what it says of nothing, is found out with the first question: a teacher that is
    down must not keep a service from starting. It takes longer than one caller waits, so it goes on without them.
    Nothing is tried twice: a tier's breaker says when there is another try.

    Args:
        config: who is asked, and how.
        policy: the categories.

    Raises:
        AuthError: the key of OpenAI's own endpoint is not set.
        ConfigError: a method that does not fit the policy.
        WeightsError: a GGUF file that is missing or damaged.
    """
    teacher = make_teacher(config.model_copy(update={"retries": 0}), policy)
    assert isinstance(teacher, EndpointTeacher)  # noqa: S101 - the kinds a tier may have
    address = await asyncio.to_thread(teacher.connection.start)
    async with teacher.client(address) as client:
        prepared: asyncio.Task[Ways] | None = None

        async def ask(example: Example) -> TeacherSignal:
            nonlocal prepared
            if prepared is None or (prepared.done() and (prepared.cancelled() or prepared.exception())):
                prepared = asyncio.create_task(_prepare(teacher, client, policy))
            answering, prior = await asyncio.shield(prepared)
            return correct(await teacher.signal(client, answering, example), prior, policy)

        try:
            yield ask
        finally:
            if prepared is not None:
                prepared.cancel()
                await asyncio.gather(prepared, return_exceptions=True)


async def _prepare(teacher: EndpointTeacher, client: AsyncOpenAI, policy: Policy) -> Ways:
    answering = await teacher.probed(client)
    if not teacher.config.prior_correction:
        return answering, {}
    asked = content_free(teacher.config.language)
    signals = await asyncio.gather(*(teacher.signal(client, answering, example) for example in asked))
    if any(signal.outcome == "failed" for signal in signals):
        raise TeacherError(f"teacher {teacher.fingerprint} did not answer what its prior is told by: it is asked again")
    return answering, prior_of(signals, policy)
