"""A teacher behind an OpenAI-compatible endpoint: one text a request, bounded concurrency, refusals kept as data."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import openai
from openai import AsyncOpenAI

from tamis.config import TeacherConfig
from tamis.errors import AuthError, ConfigError, TeacherError
from tamis.policy import Policy
from tamis.records import Example, Method, Outcome, TeacherSignal
from tamis.store import Store
from tamis.teach import answers
from tamis.teach.probe import Answering, probe
from tamis.teach.prompt import Ask, Prompt, choose_style
from tamis.teach.shots import make_shots

REFUSALS = ("content exists risk", "content_filter", "content_policy", "data_inspection", "sensitive", "moderation")
"""Found in the body of a 400 by which providers refuse a text (DeepSeek, Azure, OpenAI, DashScope, Zhipu)."""

STOPPING = {
    401: "refuses the key",
    402: "wants its balance topped up",
    403: "refuses the key",
    404: "has no such model",
}


@dataclass(frozen=True)
class Reply:
    """One answer of the endpoint, refused or not."""

    outcome: Outcome
    text: str = ""
    tokens: tuple[tuple[str, float], ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    status: int = 200


@dataclass(frozen=True)
class Connection:
    """Where requests go; `start` gives the address, and brings up the server first where it is ours."""

    base_url: str
    model: str
    key: str
    start: Callable[[], str]


class EndpointTeacher:
    """Asks an endpoint; see `openai_teacher`."""

    def __init__(
        self, config: TeacherConfig, prompt: Prompt, connection: Connection, fingerprint: str, store: Store | None
    ) -> None:
        self.config = config
        self.prompt = prompt
        self.connection = connection
        self.fingerprint = fingerprint
        self.label_space = prompt.policy.label_space
        self._store = store
        self._prompt_hash = prompt.hash
        self._answering: Answering | None = None

    def ask(self, examples: Iterable[Example]) -> Generator[TeacherSignal, None, None]:
        """Signals as they are answered, `concurrency` requests at a time.

        Raises:
            AuthError: the endpoint refuses the key.
            TeacherError: it cannot be reached, or answers in no usable way.
        """
        with asyncio.Runner() as runner:
            stream = self._stream(self.connection.start(), iter(examples))
            try:
                while (signal := runner.run(_next(stream))) is not None:
                    yield signal
            finally:
                runner.run(stream.aclose())

    async def _stream(self, base_url: str, feed: Iterator[Example]) -> AsyncGenerator[TeacherSignal, None]:
        first = next(feed, None)
        if first is None:
            return
        async with self.client(base_url) as client:
            answering = await self.probed(client)
            asking = {asyncio.create_task(self.signal(client, answering, first))}
            asking |= self._more(client, answering, feed, self.config.concurrency - 1)
            try:
                while asking:
                    done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                    failed = [task for task in done if task.exception()]
                    for task in done:
                        if not task.exception():
                            yield task.result()
                    if failed:
                        failed[0].result()
                    # Only now that the answers are committed, so that a kill loses no more than `concurrency` of them.
                    asking |= self._more(client, answering, feed, len(done))
            finally:
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)

    def _more(
        self, client: AsyncOpenAI, answering: Answering, feed: Iterator[Example], n: int
    ) -> set[asyncio.Task[TeacherSignal]]:
        return {asyncio.create_task(self.signal(client, answering, example)) for example in islice(feed, n)}

    def client(self, base_url: str) -> AsyncOpenAI:
        """What requests go through."""
        # The library retries 408, 409, 429, 5xx and lost connections with jitter and honours Retry-After.
        return AsyncOpenAI(
            base_url=base_url,
            api_key=self.connection.key,
            timeout=self.config.timeout,
            max_retries=self.config.retries,
        )

    async def probed(self, client: AsyncOpenAI) -> Answering:
        """How the endpoint can be asked; found out once.

        Raises:
            TeacherError: it cannot.
        """
        if self._answering is None:
            key = f"answering {self.fingerprint}"
            # In a thread, as a service answers others while a database is slow.
            noted = await asyncio.to_thread(self._store.note, key) if self._store else None
            self._answering = Answering(**noted) if noted else await probe(self, client)
            if self._store and not noted:
                await asyncio.to_thread(self._store.set_note, key, self._answering.as_note())
        return self._answering

    async def signal(self, client: AsyncOpenAI, answering: Answering, example: Example) -> TeacherSignal:
        """What the endpoint says of one example, before any correction.

        Raises:
            TeacherError: it cannot be asked at all.
        """
        replies: list[Reply] = []
        found: list[dict[str, float]] = []
        for order in range(self.prompt.orders):
            asked = await self.answer(client, answering, example, order)
            replies += asked
            bad = next((reply.outcome for reply in asked if reply.outcome != "ok"), None)
            if bad:
                return self._record(example, answering.method, bad, {}, replies)
            found.append(self.read(asked, answering.method, order))
        outcome: Outcome = "ok" if all(found) else "unparsable"
        probabilities = answers.average(found) if all(found) else {}
        return self._record(example, answering.method, outcome, probabilities, replies)

    async def answer(self, client: AsyncOpenAI, answering: Answering, example: Example, order: int) -> list[Reply]:
        """Put the question once, or as often as there are votes."""
        times = self.config.votes if answering.method == "votes" else 1
        ask: Ask = "json" if answering.method == "verbalised" else "one"
        options: dict[str, Any] = {"temperature": 1, "max_tokens": answering.max_tokens}
        if answering.method == "logprobs":
            options |= {"logprobs": True, "top_logprobs": answering.top_logprobs}
        if answering.method == "verbalised":
            options["temperature"] = 0
        replies = []
        for _ in range(times):
            reply = await self.request(client, self.prompt.messages(example, order, ask), options)
            replies.append(reply)
            if reply.outcome != "ok":
                break
        return replies

    def read(self, replies: Sequence[Reply], method: Method, order: int) -> dict[str, float]:
        """Probabilities out of one order's replies; empty when they hold none."""
        options, policy = self.prompt.options(order), self.prompt.policy
        if method == "logprobs":
            return answers.from_logprobs(replies[0].tokens, options)
        if method == "votes":
            return answers.from_votes([reply.text for reply in replies], options, policy)
        return answers.from_json(replies[0].text, options, policy)

    async def request(self, client: AsyncOpenAI, messages: Sequence[Any], options: dict[str, Any]) -> Reply:
        """One request; a refusal or a row that fails is an outcome.

        Raises:
            AuthError: the key is refused.
            TeacherError: nothing answers there, or the model is unknown.
        """
        try:
            # As extra_body, because the library's walk over every few-shot message takes longer than the request.
            body = {"messages": list(messages)}
            done = await client.chat.completions.create(
                model=self.connection.model, messages=[], extra_body=body, **options
            )
        except openai.APIStatusError as error:
            return self._failed(error)
        except openai.APITimeoutError:
            return Reply("failed", status=408)
        except openai.APIConnectionError as error:
            reason = type(error.__cause__ or error).__name__
            raise TeacherError(
                f"cannot reach the teacher at {self.connection.base_url} ({reason}): check teacher.base_url"
                " and the network; rows already labelled are kept"
            ) from error
        except openai.APIError:
            return Reply("failed")
        except ValueError:
            # Not JSON: a proxy's page, or a body cut short.
            return Reply("failed")
        return read_reply(done)

    def _failed(self, error: openai.APIStatusError) -> Reply:
        status = error.status_code
        where = f"{self.connection.base_url} (model {self.connection.model})"
        if status in (401, 403):
            raise AuthError(
                f"the teacher at {where} {STOPPING[status]} ({status}): check ${self.config.api_key_env}"
            ) from error
        if status in STOPPING:
            raise TeacherError(f"the teacher at {where} {STOPPING[status]} ({status}): check teacher.model") from error
        body = json.dumps(error.body, ensure_ascii=False, default=str) if error.body else str(error)
        refused = status in (400, 422, 451) and any(sign in body.casefold() for sign in REFUSALS)
        return Reply("refused" if refused else "failed", status=status)

    def _record(
        self,
        example: Example,
        method: Method,
        outcome: Outcome,
        probabilities: dict[str, float],
        replies: Sequence[Reply],
    ) -> TeacherSignal:
        prompt_tokens = sum(reply.prompt_tokens for reply in replies)
        completion_tokens = sum(reply.completion_tokens for reply in replies)
        return TeacherSignal(
            example_id=example.id,
            teacher=self.fingerprint,
            label_space=self.label_space,
            method=method,
            outcome=outcome,
            probabilities=probabilities,
            known_mass=min(1.0, sum(probabilities.values())),
            risk=self.prompt.policy.risk(probabilities) if probabilities else None,
            prompt_hash=self._prompt_hash,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost=self.config.budget.cost(prompt_tokens, completion_tokens),
        )


async def _next(stream: AsyncGenerator[TeacherSignal, None]) -> TeacherSignal | None:
    return await anext(stream, None)


def read_reply(done: Any) -> Reply:
    """What matters of a chat completion; one that misses its parts has failed."""
    try:
        choice = done.choices[0]
        usage = getattr(done, "usage", None)
        content = getattr(getattr(choice, "logprobs", None), "content", None) or []
        top = content[0].top_logprobs if content else None
        message = choice.message
        refused = choice.finish_reason == "content_filter" or bool(getattr(message, "refusal", None))
        return Reply(
            outcome="refused" if refused else "ok",
            text=message.content or "",
            tokens=tuple((item.token, float(item.logprob)) for item in top or ()),
            prompt_tokens=int(getattr(usage, "prompt_tokens", 0) or 0),
            completion_tokens=int(getattr(usage, "completion_tokens", 0) or 0),
        )
    except (AttributeError, IndexError, TypeError, ValueError):
        return Reply("failed")


def openai_teacher(
    config: TeacherConfig, policy: Policy, gold: Sequence[Example], store: Store | None = None
) -> EndpointTeacher:
    """A teacher behind any OpenAI-compatible endpoint.

    Raises:
        AuthError: the environment variable of the key is empty and the endpoint is OpenAI's own.
        ConfigError: gold that does not fit the policy.
    """
    key = os.environ.get(config.api_key_env, "")
    if not key and "api.openai.com" in config.base_url:
        raise AuthError(
            f"${config.api_key_env} is not set: export the key of {config.base_url}, or set teacher.api_key_env"
        )
    connection = Connection(config.base_url, config.model, key or "none", lambda: config.base_url)
    prompt = prompt_of(config, policy, gold)
    return EndpointTeacher(config, prompt, connection, fingerprint(config, prompt, config.base_url), store)


def prompt_of(config: TeacherConfig, policy: Policy, gold: Sequence[Example]) -> Prompt:
    """The prompt a recipe asks for; endpoints show no tokenizer, so first characters decide the style.

    Raises:
        ConfigError: a several-labels policy with a method that gives one answer.
    """
    if policy.kind == "multi_label" and config.method in ("logprobs", "votes"):
        raise ConfigError(
            f"policy {policy.name} allows several labels a text and teacher.method {config.method} gives one:"
            " set it to verbalised or auto"
        )
    style = choose_style(policy, config.language)
    return Prompt(policy, config.language, style, make_shots(config.few_shot, policy, gold), config.orders)


def fingerprint(config: TeacherConfig, prompt: Prompt, weights: str) -> str:
    """Name and hash of what changes the answers: weights or endpoint, prompt, method and its votes."""
    votes = config.votes if config.method in ("auto", "votes") else 0
    parts = [config.kind, config.model, weights, config.method, votes, prompt.hash]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    name = config.model.rstrip("/").rsplit("/", 1)[-1]
    return f"{config.kind}:{name[:80]}@{digest}"
