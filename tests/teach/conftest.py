"""A real HTTP server that speaks chat completions, and small policies to ask about."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tamis.config import TeacherConfig
from tamis.policy import Policy, load_policy
from tamis.records import Example, content_id
from tamis.store import Store

SIX = ("normal", "pornography", "gambling", "abuse", "fraud", "spam_ad")


def example(text: str, label: str | None = None) -> Example:
    return Example(content_id(text), text, "zh", "test", label=label)


def completion(text: str, top: list[tuple[str, float]] | None = None, finish: str = "stop") -> dict[str, Any]:
    logprobs = None
    if top is not None:
        tokens = [{"token": token, "bytes": None, "logprob": value} for token, value in top]
        first = tokens[0] if tokens else {"token": text, "bytes": None, "logprob": 0.0}
        logprobs = {"content": [{**first, "top_logprobs": tokens}]}
    message = {"role": "assistant", "content": text}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51},
    }


def judged(text: str) -> dict[str, Any]:
    """A fair judge: most of the mass on the word the text holds, some on normal, some on no option."""
    word = next((word for word in ("色情", "赌博", "辱骂", "欺诈", "广告") if word in text), "正常")
    rest = "广告" if word == "正常" else "正常"
    return completion(word, [(word, math.log(0.7)), (rest, math.log(0.2)), ("其他", math.log(0.1))])


Answer = tuple[int, Any, dict[str, str]]
Rule = Callable[[dict[str, Any], str, int], "Answer | None"]


@dataclass
class FakeEndpoint:
    """Counts what it is asked; `rule(body, text, times)` may answer instead of the fair judge."""

    rule: Rule | None = None
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    flying: int = 0
    most_flying: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def reply(self, body: dict[str, Any]) -> Answer:
        text = body["messages"][-1]["content"].split("\n类别：")[0].split("\nCategory:")[0]
        text = text.removeprefix("文本：").removeprefix("Text: ")
        with self.lock:
            self.bodies.append(body)
            self.asked[text] += 1
            times = self.asked[text]
            self.flying += 1
            self.most_flying = max(self.most_flying, self.flying)
        try:
            return (self.rule(body, text, times) if self.rule else None) or (200, judged(text), {})
        finally:
            with self.lock:
                self.flying -= 1
                self.answered[text] += 1


def serve(endpoint: FakeEndpoint) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, payload, headers = endpoint.reply(body)
            data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            """A client that is killed is part of the test."""

    server = Server(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


@contextmanager
def running() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    server = serve(fake)
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def second() -> Iterator[FakeEndpoint]:
    """Another one, for whom the first refuses."""
    with running() as fake:
        yield fake


@pytest.fixture
def policy() -> Policy:
    return load_policy("default").only(SIX)


@pytest.fixture
def store(tmp_path: Any) -> Iterator[Store]:
    with Store.open(tmp_path / "store.db") as opened:
        yield opened


@pytest.fixture
def config(endpoint: FakeEndpoint) -> TeacherConfig:
    return settings(endpoint)


def settings(endpoint: FakeEndpoint, **changes: Any) -> TeacherConfig:
    tree = {"kind": "openai", "model": "fake", "base_url": endpoint.url, "retries": 3, "prior_correction": False}
    return TeacherConfig.model_validate(tree | {"few_shot": {"kind": "none"}} | changes)


ROWS = [
    example(text)
    for text in ("今天吃什么", "加我看色情", "来赌博网站", "我要辱骂你", "欺诈教程", "广告代发", "明天开会", "又见赌博")
]
