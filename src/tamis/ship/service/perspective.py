"""`POST /v1alpha1/comments:analyze` for clients of Perspective, whose own service ends on 2026-12-31.

Beside Perspective's attributes that the policy has counterparts for, each of its categories is one of its own name in
capitals (`FRAUD`), so that none is out of reach.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tamis.languages import language
from tamis.policy import Policy
from tamis.records import Action, Decision
from tamis.ship.service.answers import Answer, bearer, respond, service_of
from tamis.ship.service.limits import parse, read_body
from tamis.ship.service.mapping import counterparts, probability
from tamis.ship.service.refusal import STATUS, Reason, Refusal
from tamis.ship.service.schema import documented
from tamis.taxonomies import PERSPECTIVE

PATH = "/v1alpha1/comments:analyze"
PLACE = re.compile(r"characters (\d+) to (\d+)")
EMPTY = "comment.text is empty"
DETAILS = "type.googleapis.com/google.commentanalyzer.v1alpha1.Error"
SUMMARY = {"summaryScore": {"value": 0.91, "type": "PROBABILITY"}}
ANALYSIS: dict[str, Any] = {
    "attributeScores": {"TOXICITY": SUMMARY},
    "languages": ["en"],
    "detectedLanguages": ["en"],
    "tamis": {"id": "0d5f2f4a8c1e4b7f9a3c6d2e1b0f9a8c", "action": "block", "category": "abuse"},
}


class Comment(BaseModel):
    """The text to score."""

    text: str
    type: Literal["PLAIN_TEXT", "TEXT_TYPE_UNSPECIFIED"] = "PLAIN_TEXT"


class Wanted(BaseModel):
    """How an attribute is told; scores below the threshold are left out."""

    scoreType: Literal["PROBABILITY", "SCORE_TYPE_UNSPECIFIED"] = "PROBABILITY"
    scoreThreshold: Annotated[float, Field(ge=0, le=1)] | None = None


class AnalyzeRequest(BaseModel):
    """A comment and the attributes it is scored for; `context`, `sessionId`, `communityId` are not used."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"comment": {"text": "You are trash."}, "requestedAttributes": {"TOXICITY": {}}}]
        }
    )

    comment: Comment
    requestedAttributes: dict[str, Wanted] = Field(min_length=1)
    languages: list[str] = []
    spanAnnotations: bool = False
    doNotStore: bool = False
    clientToken: str | None = None
    sessionId: str | None = None
    communityId: str | None = None
    context: dict[str, Any] | None = None


class Value(BaseModel):
    """A probability."""

    value: float
    type: Literal["PROBABILITY"]


class SpanScore(BaseModel):
    """The score of a part of the comment, whose characters count from `begin` to before `end`."""

    begin: int
    end: int
    score: Value


class AttributeScore(BaseModel):
    """An attribute's score, and those of parts of the comment where they were asked for."""

    summaryScore: Value
    spanScores: list[SpanScore] | None = None


class Decided(BaseModel):
    """What is done with the comment, whichever attributes were asked for."""

    id: str
    action: Action
    category: str


class AnalyzeResponse(BaseModel):
    """Scores by attribute."""

    model_config = ConfigDict(json_schema_extra={"examples": [ANALYSIS]})

    attributeScores: dict[str, AttributeScore]
    languages: list[str]
    detectedLanguages: list[str]
    clientToken: str | None = None
    tamis: Decided


class GoogleErrorDetail(BaseModel):
    """An error as Google's APIs say it."""

    code: int
    message: str
    status: str
    details: list[dict[str, str]]


class GoogleError(BaseModel):
    """A request that got no answer."""

    error: GoogleErrorDetail


router = APIRouter()


@router.post(
    PATH,
    **documented(AnalyzeRequest, AnalyzeResponse, GoogleError, (400, 401, 403, 404, 413, 429, 503)),
)
async def analyze(request: Request) -> Response:
    """Score a comment for a client of Perspective."""
    service = service_of(request)
    with service.keyring.admit(_key(request), "moderate") as caller:
        limits = service.config.limits
        asked = parse(AnalyzeRequest, await read_body(request, limits), limits)
        judge = service.judge(caller)
        policy = judge.policy
        attributes = attributes_of(asked, policy)
        if not asked.comment.text.strip():
            raise Refusal("fields", "comment.text: the comment is empty", EMPTY)
        answers = await service.answer(judge, [asked.comment.text], "comment.text", caller, keep=not asked.doNotStore)
        return respond(response(asked, attributes, answers[0], policy))


def _key(request: Request) -> str | None:
    return request.query_params.get("key") or request.headers.get("x-goog-api-key") or bearer(request)


def attributes_of(asked: AnalyzeRequest, policy: Policy) -> dict[str, tuple[str, ...]]:
    """The policy's categories behind each attribute that is asked for.

    Raises:
        Refusal: the policy has nothing that stands for one.
    """
    known = {name.upper(): (name,) for name in policy.ids} | counterparts(policy, "perspective")
    for place, name in enumerate(asked.requestedAttributes):
        if name not in known:
            # What is no attribute of Perspective may be anything, and is not repeated.
            said = name if name in PERSPECTIVE else f"number {place + 1}"
            have = ", ".join(sorted(known))
            raise Refusal("fields", f"policy {policy.name} has nothing for attribute {said}; it has {have}")
    return {name: known[name] for name in asked.requestedAttributes}


def response(
    asked: AnalyzeRequest, attributes: dict[str, tuple[str, ...]], answer: Answer, policy: Policy
) -> dict[str, Any]:
    """An answer as Perspective gives it."""
    decision, detected = answer.decision, language(asked.comment.text)
    scores = {}
    for name, ids in attributes.items():
        value, least = probability(decision.probabilities, ids, policy), asked.requestedAttributes[name].scoreThreshold
        if decision.probabilities and value >= (least or 0):
            summary = {"value": value, "type": "PROBABILITY"}
            scores[name] = {"summaryScore": summary} | (
                {"spanScores": spans(decision, summary)} if asked.spanAnnotations else {}
            )
    token = {} if asked.clientToken is None else {"clientToken": asked.clientToken}
    return {
        "attributeScores": scores,
        "languages": asked.languages or [detected],
        "detectedLanguages": [detected],
        **token,
        "tamis": {"id": answer.id, "action": decision.action, "category": decision.category},
    }


def spans(decision: Decision, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Where the window that speaks for a long text is, with the score of the whole; nothing for a short one."""
    found = [PLACE.fullmatch(one) for one in decision.scores.evidence]
    return [{"begin": int(one[1]), "end": int(one[2]), "score": summary} for one in found if one]


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal."""
    status = FEWER.get(refusal.reason, STATUS[refusal.reason])
    kind = "COMMENT_EMPTY" if refusal.where == EMPTY else ERROR_TYPES.get(refusal.reason)
    details = [{"@type": DETAILS, "errorType": kind}] if kind else []
    body = {
        "code": status,
        "message": refusal.message,
        "status": WORDS.get(status, "INVALID_ARGUMENT"),
        "details": details,
    }
    return status, {"error": body}


FEWER: dict[Reason, int] = {"fields": 400, "text": 400, "texts": 400}
ERROR_TYPES: dict[Reason, str] = {"text": "COMMENT_TOO_LONG"}
WORDS = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
