"""What OpenAPI says of requests that are parsed by hand: their schema and examples, and the refusals of each API."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

REF = "#/components/schemas/{model}"
MEANINGS = {
    400: "JSON that cannot be read",
    401: "the key is missing or not known",
    403: "the key does not allow it",
    404: "not there",
    409: "refused as things are",
    413: "too large",
    422: "a field that is not as it should be",
    429: "too much at once; see `Retry-After`",
    503: "not now; see `Retry-After`",
}


def documented(
    asked: type[BaseModel], answered: type[BaseModel], error: type[BaseModel], statuses: tuple[int, ...]
) -> dict[str, Any]:
    """Arguments of a route for its request, its response and its refusals; the examples are those of the models."""
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": REF.format(model=asked.__name__)}}}}
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": error, "description": MEANINGS[status]} for status in statuses
    }
    return {
        "response_model": answered,
        "responses": refusals,
        "openapi_extra": {"requestBody": body},
    }


def install(app: FastAPI, asked: tuple[type[BaseModel], ...], about: str) -> None:
    """Let the app's OpenAPI hold the schemas of the requests too."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            page = get_openapi(title=app.title, version=app.version, description=about, routes=app.routes)
            schemas = page.setdefault("components", {}).setdefault("schemas", {})
            for model in asked:
                own = model.model_json_schema(ref_template=REF)
                schemas |= own.pop("$defs", {})
                schemas[model.__name__] = own
            app.openapi_schema = page
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
