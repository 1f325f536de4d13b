"""How an endpoint can be asked: by log-probabilities, by votes, or by probabilities in words."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import TeacherError
from tamis.records import Example, content_id
from tamis.teach import answers

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from tamis.teach.endpoint import EndpointTeacher, Reply

LEAST_MASS = 0.1
"""Options must hold this much of the first token, or the model begins with something else than an option."""
TOP = (20, 5)
SHORT, LONG = 16, 4096
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answering:
    """The method that works at an endpoint, and its settings."""

    method: Literal["logprobs", "votes", "verbalised"]
    max_tokens: int = 1
    top_logprobs: int = 20

    def as_note(self) -> dict[str, Any]:
        """As JSON, for the store."""
        return asdict(self)


async def probe(teacher: EndpointTeacher, client: AsyncOpenAI) -> Answering:
    """Ask about a harmless text until a method answers: log-probabilities, votes, then words.

    Raises:
        TeacherError: none does.
    """
    wanted = teacher.config.method
    allowed = ("logprobs", "votes", "verbalised") if wanted == "auto" else (wanted,)
    if teacher.prompt.policy.kind == "multi_label":
        allowed = ("verbalised",)
    for way in _ways(allowed):
        if await _works(teacher, client, way):
            if way.method != allowed[0]:
                _log.warning("%s gives no usable log-probabilities: asking by %s", teacher.fingerprint, way.method)
            return way
    raise TeacherError(
        f"the teacher at {teacher.connection.base_url} (model {teacher.connection.model}) answers the test question"
        f" in no usable way (tried {', '.join(allowed)}): check that it is a chat model, or set teacher.method"
    )


def _ways(allowed: tuple[str, ...]) -> list[Answering]:
    ways = [Answering("logprobs", 1, top) for top in TOP]
    ways += [Answering("votes", tokens) for tokens in (SHORT, LONG)]
    ways += [Answering("verbalised", tokens) for tokens in (SHORT * 16, LONG)]
    return [way for way in ways if way.method in allowed]


async def _works(teacher: EndpointTeacher, client: AsyncOpenAI, way: Answering) -> bool:
    text = {"zh": "今天天气不错。", "en": "The weather is nice today."}[teacher.prompt.language]
    example = Example(content_id(text), text, teacher.prompt.language, "probe")
    replies = await teacher.answer(client, way, example, order=0)
    bad = next((reply for reply in replies if reply.outcome != "ok"), None)
    if bad and bad.status not in (200, 400, 422):
        raise TeacherError(
            f"the teacher at {teacher.connection.base_url} answers the test question with status {bad.status}"
            f" even after {teacher.config.retries} retries: try again later, or raise teacher.timeout or retries"
        )
    return bad is None and _is_usable(teacher, way, replies)


def _is_usable(teacher: EndpointTeacher, way: Answering, replies: list[Reply]) -> bool:
    mass = sum(teacher.read(replies, way.method, 0).values())
    if way.method == "logprobs":
        return answers.logprobs_are_usable(replies[0].tokens) and mass >= LEAST_MASS
    return mass > 0
