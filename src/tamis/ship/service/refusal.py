"""Why a request is not answered, in words that each API then says in its own shape."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "key", "scope", "rate", "busy", "overload", "body", "texts", "text", "json", "fields", "conflict", "missing",
    "model", "method", "refused", "late", "closing", "broken", "bug",
]  # fmt: skip


class Refusal(Exception):
    """A request that gets no answer; its message holds nothing of the request but numbers and names of fields.

    Args:
        reason: see `STATUS`.
        message: one sentence.
        where: the field, where one is meant.
        retry_after: seconds after which it may be tried again.
    """

    def __init__(
        self, reason: Reason, message: str, where: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.message, self.where, self.retry_after = message, where, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        headers = {} if self.retry_after is None else {"retry-after": str(max(1, round(self.retry_after)))}
        # What was not read of a body would be taken for the next request.
        return headers | ({"connection": "close"} if self.reason == "body" else {})


STATUS: dict[Reason, int] = {
    "key": 401,
    "scope": 403,
    "rate": 429,
    "busy": 429,
    "overload": 429,
    "body": 413,
    "texts": 413,
    "text": 413,
    "json": 400,
    "fields": 422,
    "conflict": 409,
    "missing": 404,
    "model": 404,
    "method": 405,
    "refused": 409,
    "late": 503,
    "closing": 503,
    "broken": 503,
    "bug": 500,
}
"""The status of each reason where an API does not prescribe another."""
