"""Traces for OpenTelemetry: where the time of a request went, and no word of what it held.

They are sent where the environment names a collector, as for any program that has them; what else OTEL_ variables say
(sampling, headers, the service's name) holds too. FastAPI makes a request's own span, under that of its caller
(`traceparent`); its metrics are ours already, and its logs would hold messages of exceptions, which may hold the text.
"""

from __future__ import annotations

import os
from collections.abc import Container, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

import tamis
from tamis.errors import need
from tamis.records import Scores
from tamis.ship.cascade import Tier

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
OFF = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)
SECONDS = 3
"""For which the end of a process waits for a collector that does not answer."""

_tracer = trace.get_tracer("tamis")


def span(name: str, **attributes: str | int) -> AbstractContextManager[Any]:
    """A part of the time of the request that is being answered; nothing where no collector is named."""
    # An exception's message may hold the text.
    return _tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    )


def traced(tier: Tier) -> Tier:
    """The tier, with a span a question; its failure is an attribute, as the kind alone."""

    async def score(text: str) -> Scores:
        with span(f"tier {tier.name}") as one:
            try:
                return await tier.score(text)
            except BaseException as error:
                one.set_attribute("error.type", type(error).__name__)
                raise

    return replace(tier, score=score)


def wanted() -> bool:
    """Whether a collector is named."""
    return any(map(os.environ.get, ENDPOINTS)) and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"


def check() -> None:
    """Refuse to start where a collector is named and nothing can be sent to it.

    Raises:
        MissingExtraError: the packages for it are not installed.
    """
    if wanted():
        _packages()


def _packages() -> list[Any]:
    modules = ("sdk.resources", "sdk.trace", "sdk.trace.export", "exporter.otlp.proto.http.trace_exporter")
    return [need(f"opentelemetry.{name}", "traces") for name in modules]


def provider() -> TracerProvider | None:
    """What sends spans from now on, if a collector is named.

    Raises:
        MissingExtraError: the packages for it are not installed.
    """
    if not wanted():
        return None
    resources, sdk, export, exporter = _packages()
    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "tamis"), "service.version": tamis.__version__}

    class NoQuery(sdk.SpanProcessor):  # type: ignore[name-defined]
        """Takes the query out of an address: Perspective's clients send their key in it."""

        def on_start(self, span: Any, parent_context: object = None) -> None:
            if "url.query" in span.attributes:
                span.set_attribute("url.query", "")

    made: TracerProvider = sdk.TracerProvider(resource=resources.Resource.create(named), shutdown_on_exit=False)
    made.add_span_processor(NoQuery())
    made.add_span_processor(export.BatchSpanProcessor(exporter.OTLPSpanExporter()))
    trace.set_tracer_provider(made)
    return made


def end(made: TracerProvider | None) -> None:
    """Send what is left, but wait no longer than `SECONDS` for a collector that does not answer."""
    if made is not None:
        last = Thread(target=made.shutdown, daemon=True)
        last.start()
        last.join(SECONDS)


def telemetry(made: TracerProvider | None, quiet: Container[str]) -> TelemetryConfig:
    """What FastAPI is to tell of requests: their spans, and those only where something sends them.

    Args:
        made: what sends them.
        quiet: paths without spans, which machines ask every few seconds.
    """
    if made is None:
        return OFF

    def is_quiet(scope: MutableMapping[str, Any]) -> bool:
        return scope.get("path") in quiet

    return OFF | TelemetryConfig(tracing=True, operation_spans=False, tracer_provider=made, exclude=is_quiet)
