"""A client of the service: `Client("http://127.0.0.1:8000", key).decide(["..."])`, and the same with `await`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Self

import httpx

from tamis.errors import AuthError, ConfigError, Overloaded, ServiceError, TamisError
from tamis.records import Action

SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the service answered about one text; `repeated` where its idempotency key had been answered before.

    `risk` is None where nobody had an answer, which is reviewed.
    """

    id: str
    content: str
    action: Action
    category: str
    risk: float | None
    probabilities: Mapping[str, float]
    evidence: Sequence[str]
    reasons: Sequence[str]
    tiers: Sequence[str]
    versions: Mapping[str, str]
    latency_ms: float
    repeated: bool


class Client:
    """Asks a service; use it as a context manager."""

    def __init__(self, url: str, key: str | None = None, timeout: float = SECONDS) -> None:
        """Connect when first asked.

        Args:
            url: of the service.
            key: what `tamis keys add` printed; None where the service asks for none.
            timeout: seconds to wait for an answer.
        """
        self._http = httpx.Client(base_url=url, headers=_headers(key), timeout=timeout)

    def decide(self, texts: Sequence[str], keys: Sequence[str | None] = (), model: str | None = None) -> list[Verdict]:
        """Verdicts on texts, in their order.

        Args:
            texts: what is judged, in one request.
            keys: an idempotency key a text, or None; a text that is asked about again with it gets the first answer.
            model: the tenant whose bundle decides; without it the one the key is for, or the service's own.

        Raises:
            Overloaded: the service, or the key, is at its limit; ask again in `retry_after` seconds.
            AuthError: it refuses the key.
            ConfigError: it refuses the request.
            ServiceError: it cannot be reached, or cannot answer now.
        """
        try:
            return _verdicts(self._http.post(PATH, json=_asked(texts, keys, model)))
        except httpx.TransportError as error:
            raise _unreachable(error) from error

    def __enter__(self) -> Self:
        self._http.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.__exit__(kind, error, trace)


class AsyncClient:
    """`Client` for an event loop; use it as an asynchronous context manager."""

    def __init__(self, url: str, key: str | None = None, timeout: float = SECONDS) -> None:
        """See `Client`."""
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout)

    async def decide(
        self, texts: Sequence[str], keys: Sequence[str | None] = (), model: str | None = None
    ) -> list[Verdict]:
        """See `Client.decide`."""
        try:
            return _verdicts(await self._http.post(PATH, json=_asked(texts, keys, model)))
        except httpx.TransportError as error:
            raise _unreachable(error) from error

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def _asked(texts: Sequence[str], keys: Sequence[str | None], model: str | None) -> dict[str, Any]:
    if keys and len(keys) != len(texts):
        raise ConfigError(f"got {len(keys)} idempotency keys for {len(texts)} texts: give each text one, or None")
    pairs = zip(texts, keys or [None] * len(texts), strict=True)
    told = {"texts": [{"text": text, "idempotency_key": key} for text, key in pairs]}
    return told if model is None else told | {"model": model}


def _verdicts(response: httpx.Response) -> list[Verdict]:
    if response.status_code == httpx.codes.OK:
        return [Verdict(**{name: one[name] for name in NAMES}) for one in response.json()["decisions"]]
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise Overloaded(float(response.headers.get("retry-after", 1)))
    kind = KINDS.get(response.status_code, ServiceError if response.is_server_error else ConfigError)
    raise kind(f"the service says: {_message(response)}")


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}, which is no answer of tamis: check the URL"


def _unreachable(error: httpx.TransportError) -> ServiceError:
    return ServiceError(f"the service cannot be reached ({type(error).__name__}): check the URL and that it runs")


KINDS: dict[int, type[TamisError]] = {401: AuthError, 403: AuthError}
PATH = "/v1/decisions"
NAMES = [field.name for field in fields(Verdict)]
