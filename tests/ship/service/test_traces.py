"""Traces: a real service sends them to a real collector on loopback."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.ship.service.conftest import served

from tamis.errors import MissingExtraError
from tamis.records import Scores
from tamis.ship.cascade import Tier
from tamis.ship.service import traces

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector:
    """What was sent, as it came."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> list[Span]:
        told = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [span for one in told for r in one.resource_spans for s in r.scope_spans for span in s.spans]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    found = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_request_is_traced_under_its_caller_and_says_no_word_of_its_text(
    bundles: Sequence[Path], tmp_path: Path, collector: Collector
) -> None:
    with served(bundles[0], tmp_path) as running, running.client as client:
        parent = {"traceparent": f"00-{CALLER}-{PARENT}-01"}
        assert client.post("/v1/decisions", json={"texts": ["a secret", "no"]}, headers=parent).status_code == 200
        body = {"comment": {"text": "another secret"}, "requestedAttributes": {"FRAUD": {}}}
        client.headers.pop("authorization")
        path = "/v1alpha1/comments:analyze"
        assert client.post(path, params={"key": running.key}, json=body).status_code == 200
        assert client.post("/v1/decisions", json={"texts": ["a"]}).status_code == 401
        assert client.get("/readyz").status_code == 200
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == CALLER}
    assert set(spans) == {"POST /v1/decisions", "student", "log"}
    request = spans["POST /v1/decisions"]
    assert request.parent_span_id.hex() == PARENT
    assert {spans[name].parent_span_id for name in ("student", "log")} == {request.span_id}
    assert request.start_time_unix_nano < spans["student"].start_time_unix_nano < spans["log"].start_time_unix_nano
    texts = {a.key: a.value.int_value for a in spans["student"].attributes if a.value.HasField("int_value")}
    assert texts == {"texts": 2}
    names = {span.name for span in collector.spans}
    assert f"POST {path}" in names
    assert not any("readyz" in name for name in names)
    sent = b"".join(collector.bodies)
    assert b"secret" not in sent
    assert running.key.encode() not in sent
    assert b"tamis" in sent


def test_a_collector_that_is_down_stops_nothing(bundles: Sequence[Path], tmp_path: Path, collector: Collector) -> None:
    collector.server.shutdown()
    collector.server.server_close()
    with served(bundles[0], tmp_path) as running, running.client as client:
        assert client.post("/v1/decisions", json={"texts": ["a"]}).status_code == 200
        began = time.monotonic()
    assert time.monotonic() - began < 60
    assert running.process.returncode == -signal.SIGTERM  # uvicorn ends as it was told, when all is answered
    assert "Traceback (most recent call last)" not in running.errors.read_text()


async def _fails(text: str) -> Scores:
    raise ValueError(text)


def test_a_tier_that_fails_says_the_kind_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(traces, "_tracer", provider.get_tracer("test"))
    with pytest.raises(ValueError, match="a secret"):
        asyncio.run(traces.traced(Tier("judge", _fails)).score("a secret"))
    (span,) = kept.get_finished_spans()
    assert (span.name, dict(span.attributes or {})) == ("tier judge", {"error.type": "ValueError"})
    assert not span.events
    assert "secret" not in span.to_json()


def test_without_a_collector_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in traces.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert traces.provider() is None
    assert traces.telemetry(None, ()) == {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
    traces.check()


def test_a_collector_without_the_packages_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(traces.ENDPOINTS[0], "http://127.0.0.1:4318/v1/traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tamis\[traces\]'"):
        traces.check()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    traces.check()
