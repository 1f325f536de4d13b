"""`POST /v1/moderations` as OpenAI's clients know it: 13 categories, and beside them what the policy itself says."""

from __future__ import annotations

import uuid
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from tamis.policy import Policy
from tamis.records import Action
from tamis.ship.service.answers import Answer, bearer, finite, respond, service_of
from tamis.ship.service.limits import parse, read_body
from tamis.ship.service.mapping import called, counterparts, probability
from tamis.ship.service.refusal import STATUS, Reason, Refusal
from tamis.ship.service.schema import documented
from tamis.taxonomies import OPENAI

PATH = "/v1/moderations"
EXAMPLE: dict[str, Any] = {
    "id": "modr-0d5f2f4a8c1e4b7f9a3c6d2e1b0f9a8c",
    "model": "tamis-3f0c9a7be201",
    "results": [
        {
            "flagged": True,
            "categories": dict.fromkeys(OPENAI, False) | {"illicit": True},
            "category_scores": dict.fromkeys(OPENAI, 0.0) | {"illicit": 0.95},
            "category_applied_input_types": {name: ["text"] for name in OPENAI},
            "tamis": {
                "id": "0d5f2f4a8c1e4b7f9a3c6d2e1b0f9a8c",
                "action": "block",
                "category": "fraud",
                "risk": 0.97,
                "categories": {"fraud": True, "spam_ad": False},
                "category_scores": {"fraud": 0.95, "spam_ad": 0.02},
            },
        }
    ],
}


class TextPart(BaseModel):
    """A text of a list; pictures are not judged."""

    type: Literal["text"]
    text: str


class ModerationsRequest(BaseModel):
    """A text, or a list of them; `model` names the tenant whose bundle decides, OpenAI's own names stand for none."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "日入上千，私我带你"}, {"input": ["a", "b"]}]})

    input: str | list[str] | list[TextPart]
    model: str | None = None


class Own(BaseModel):
    """The decision in the policy's own categories, those without a counterpart among them."""

    id: str
    action: Action
    category: str
    risk: float | None
    categories: dict[str, bool]
    category_scores: dict[str, float]


class ModerationResult(BaseModel):
    """One text: `flagged` where it does not pass, and the 13 categories the policy has counterparts for."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]
    tamis: Own


class ModerationsResponse(BaseModel):
    """One result a text, in their order."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str
    model: str
    results: list[ModerationResult]


class OpenAIErrorDetail(BaseModel):
    """An error as OpenAI says it."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """A request that got no answer."""

    error: OpenAIErrorDetail


router = APIRouter()


@router.post(
    PATH, **documented(ModerationsRequest, ModerationsResponse, OpenAIError, (400, 401, 403, 404, 413, 429, 503))
)
async def moderate(request: Request) -> Response:
    """Judge texts for a client of OpenAI's API."""
    service = service_of(request)
    with service.keyring.admit(bearer(request), "moderate") as caller:
        limits = service.config.limits
        asked = parse(ModerationsRequest, await read_body(request, limits), limits)
        given = asked.input
        texts = [given] if isinstance(given, str) else [one if isinstance(one, str) else one.text for one in given]
        if not texts:
            raise Refusal("fields", "input: there is no text in it", "input")
        judge = service.judge(caller, asked.model)
        policy = judge.policy
        return respond(response(await service.answer(judge, texts, "input", caller), policy))


def response(answers: list[Answer], policy: Policy) -> dict[str, Any]:
    """Answers as OpenAI's API gives them."""
    names = counterparts(policy, "openai")
    return {
        "id": f"modr-{uuid.uuid4().hex}",
        "model": f"tamis-{answers[0].decision.versions['model']}",
        "results": [_result(one, names, policy) for one in answers],
    }


def _result(answer: Answer, names: dict[str, tuple[str, ...]], policy: Policy) -> dict[str, Any]:
    decision = answer.decision
    about, told = called(decision, policy), decision.probabilities
    return {
        "flagged": decision.action != "pass",
        "categories": {name: not about.isdisjoint(names.get(name, ())) for name in OPENAI},
        "category_scores": {name: probability(told, names.get(name, ()), policy) for name in OPENAI},
        "category_applied_input_types": APPLIED,
        "tamis": {
            "id": answer.id,
            "action": decision.action,
            "category": decision.category,
            "risk": finite(decision.risk),
            "categories": {name: name in about for name in told if name != policy.benign},
            "category_scores": {name: p for name, p in told.items() if name != policy.benign},
        },
    }


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal, of which OpenAI has fewer kinds."""
    status = FEWER.get(refusal.reason, STATUS[refusal.reason])
    kind = "invalid_request_error" if status < 429 else "rate_limit_error" if status == 429 else "server_error"
    code = CODES.get(refusal.reason, refusal.reason)
    return status, {"error": {"message": refusal.message, "type": kind, "param": refusal.where, "code": code}}


APPLIED = {name: ["text"] for name in OPENAI}
FEWER: dict[Reason, int] = {"fields": 400, "text": 400, "texts": 400}
CODES: dict[Reason, str] = {
    "key": "invalid_api_key",
    "model": "model_not_found",
    "text": "string_above_max_length",
    "texts": "array_above_max_length",
    "rate": "rate_limit_exceeded",
    "busy": "rate_limit_exceeded",
    "overload": "rate_limit_exceeded",
    "fields": "invalid_value",
    "json": "invalid_json",
}
