"""`POST /v1/decisions`: the service's own API."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tamis.records import Action
from tamis.ship.service.answers import Answer, bearer, finite, respond, service_of
from tamis.ship.service.limits import parse, read_body
from tamis.ship.service.refusal import STATUS, Refusal
from tamis.ship.service.schema import documented

PATH = "/v1/decisions"
VERSIONS = {"policy": "default 1.0", "model": "3f0c9a7be201", "tamis": "0.1.0"}
EXAMPLE: dict[str, Any] = {
    "id": "0d5f2f4a8c1e4b7f9a3c6d2e1b0f9a8c",
    "content": "4f2a9c0e1b7d3856",
    "action": "block",
    "category": "fraud",
    "risk": 0.97,
    "probabilities": {"normal": 0.03, "fraud": 0.95, "spam_ad": 0.02},
    "evidence": [],
    "reasons": ["risk calls for block"],
    "tiers": ["student"],
    "versions": VERSIONS,
    "latency_ms": 8.4,
    "repeated": False,
}


class Item(BaseModel):
    """A text with an idempotency key: asked again with it, the text gets the first answer."""

    model_config = ConfigDict(extra="forbid")

    text: str
    idempotency_key: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")] | None = None


class DecisionsRequest(BaseModel):
    """Texts to judge, each alone or with an idempotency key; `model` names the tenant whose bundle decides."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"texts": ["日入上千，私我带你", {"text": "hello", "idempotency_key": "m-4711"}]}]
        },
    )

    texts: list[str | Item] = Field(min_length=1)
    model: str | None = None


class DecisionOut(BaseModel):
    """What is done with one text, and on which grounds; `risk` is null where nobody had an answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str
    content: str
    action: Action
    category: str
    risk: float | None
    probabilities: dict[str, float]
    evidence: list[str]
    reasons: list[str]
    tiers: list[str]
    versions: dict[str, str]
    latency_ms: float
    repeated: bool


class DecisionsResponse(BaseModel):
    """Decisions in the order of the texts."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"decisions": [EXAMPLE]}]})

    decisions: list[DecisionOut]


class ErrorDetail(BaseModel):
    """Why there is no answer; `code` is for programs, `where` the field that is meant."""

    code: str
    message: str
    where: str | None


class ErrorResponse(BaseModel):
    """A request that got no answer."""

    error: ErrorDetail


router = APIRouter()


@router.post(
    PATH,
    **documented(DecisionsRequest, DecisionsResponse, ErrorResponse, (400, 401, 403, 404, 409, 413, 422, 429, 503)),
)
async def decide(request: Request) -> Response:
    """Judge texts: one decision a text, in their order."""
    service = service_of(request)
    with service.keyring.admit(bearer(request), "moderate") as caller:
        limits = service.config.limits
        asked = parse(DecisionsRequest, await read_body(request, limits), limits)
        texts = [one if isinstance(one, str) else one.text for one in asked.texts]
        keys = [None if isinstance(one, str) else one.idempotency_key for one in asked.texts]
        answers = await service.answer(service.judge(caller, asked.model), texts, "texts", caller, keys)
        return respond({"decisions": [told(one) for one in answers]})


def told(answer: Answer) -> dict[str, Any]:
    """An answer as JSON."""
    decision = answer.decision
    return {
        "id": answer.id,
        "content": decision.id,
        "action": decision.action,
        "category": decision.category,
        "risk": finite(decision.risk),
        "probabilities": dict(decision.probabilities),
        "evidence": list(decision.scores.evidence),
        "reasons": list(decision.reasons),
        "tiers": list(decision.tiers),
        "versions": dict(decision.versions),
        "latency_ms": decision.latency_ms,
        "repeated": answer.repeated,
    }


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal."""
    return STATUS[refusal.reason], {
        "error": {"code": refusal.reason, "message": refusal.message, "where": refusal.where}
    }
