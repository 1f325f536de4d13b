"""What a request may hold, seen before it is parsed: bytes, depth; and while it is: texts, characters, NUL, surrogates.

The parser (pydantic's) refuses lone surrogates and what is no UTF-8 by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from tamis.config import LimitsConfig
from tamis.ship.service.refusal import Refusal

STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
BRACKETS = re.compile(rb"[\[\]{}]")
NAME = re.compile(r"\w{1,40}", re.ASCII)
M = TypeVar("M", bound=BaseModel)


async def read_body(request: Request, limits: LimitsConfig) -> bytes:
    """The body of a request.

    Raises:
        Refusal: it is too large, be it announced or not.
    """
    announced = request.headers.get("content-length", "")
    body = bytearray()
    if not announced.isdecimal() or int(announced) <= limits.body:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limits.body:
                break
        else:
            return bytes(body)
    raise Refusal("body", f"a request may have {limits.body} bytes: send fewer texts at a time")


def parse(model: type[M], body: bytes, limits: LimitsConfig) -> M:
    """A body as a checked request.

    Raises:
        Refusal: JSON that cannot be read or is nested too deeply, or fields that are not as they should be.
    """
    if depth(body, limits.depth) > limits.depth:
        raise Refusal("json", f"JSON may be nested {limits.depth} levels deep: send it flat")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        # The input must not be repeated, nor keys that are no names: it may be what is moderated.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(part for part in map(str, first["loc"]) if NAME.fullmatch(part))
        if first["type"] == "json_invalid":
            raise Refusal("json", "the body is no valid JSON in UTF-8 (lone surrogates are not)") from None
        raise Refusal("fields", f"{where or 'the body'}: {first['msg']}", where) from None


def depth(body: bytes, enough: int) -> int:
    """How deep JSON is nested, brackets in strings left out; what is deeper than `enough` may be told as less deep."""
    if body.count(b"[") + body.count(b"{") <= enough:
        return 0
    level = deepest = 0
    for bracket in BRACKETS.findall(STRINGS.sub(b"", body)):
        level += 1 if bracket in b"[{" else -1
        deepest = max(deepest, level)
        if deepest > enough:
            break
    return deepest


def check_texts(texts: Sequence[str], where: str, limits: LimitsConfig) -> None:
    """See that texts can be judged; `where` names their field.

    Raises:
        Refusal: too many, one that is too long, or one that holds NUL.
    """
    if len(texts) > limits.texts:
        raise Refusal("texts", f"a request may have {limits.texts} texts, got {len(texts)}: send several", where)
    for index, text in enumerate(texts):
        name = where if len(texts) == 1 else f"{where}.{index}"
        if len(text) > limits.characters:
            raise Refusal("text", f"{name} may have {limits.characters} characters, got {len(text)}: split it", name)
        if "\0" in text:
            raise Refusal("json", f"{name} holds the character NUL: take it out", name)
