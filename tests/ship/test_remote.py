"""A server computes: a real HTTP server over a real tiny model, in each of the three dialects, and its failures."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.ship.serving import serves_without_torch

from tamis.config import ExportConfig, RemoteConfig, StudentConfig
from tamis.errors import BundleError, RemoteError
from tamis.learn.score import scorer_of
from tamis.learn.student import Student, build_student, merged
from tamis.network import logits_of, pad
from tamis.records import Example
from tamis.ship.backends import Parts, Quantize
from tamis.ship.bundle import BundleSpec, Moderator, load_bundle, write_bundle
from tamis.ship.choose import export_bundle
from tamis.ship.parity import ALL
from tamis.ship.remote import ROWS

TEXTS = ["今天天气很好", "注册就送彩金", "easy money no fee", "", "日入上千私我" * 60, "a\0b\ud800"]
DIALECTS = ("tei", "vllm_classify", "vllm_pooling")


@pytest.fixture(scope="module")
def student(tiny_bert: Path, small_policy: Any) -> Student:
    settings = {"model": str(tiny_bert), "max_tokens": 24, "pretrained_dtype": "float32", "lora": {"rank": 4}}
    made = build_student(StudentConfig.model_validate(settings), small_policy)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in made.network.named_parameters():
            if "lora_B" in name or name == "head.weight":
                weight.normal_(std=0.1)
    return made


class Served:
    """The student behind HTTP; `wrong` may answer instead, with a status and bytes."""

    def __init__(self, student: Student) -> None:
        self.network = merged(student).network
        # It makes no windows of its own.
        self.encoder = replace(student.encoder, max_tokens=4096)
        self.ids = student.policy.ids
        self.wrong: Callable[[Any], tuple[int, bytes]] | None = None
        self.asked: list[tuple[str, Any, str | None]] = []
        self.url = ""

    def answer(self, path: str, body: Any) -> Any:
        if path == "/predict":
            rows = self.encoder.encode([text for (text,) in body["inputs"]]).ids
            assert (body["raw_scores"], body["truncate"]) == (True, False)
            # As the real one: the best label first.
            found = [dict(zip(self.ids, row, strict=True)) for row in logits_of(self.network, rows).tolist()]
            return [
                [{"label": name, "score": row[name]} for name in sorted(row, key=lambda n: -row[n])] for row in found
            ]
        assert body["use_activation"] is False
        if path == "/classify":
            found = logits_of(self.network, body["input"]).tolist()
            return {"data": [{"index": i, "label": "x", "probs": row} for i, row in enumerate(found)][::-1]}
        assert (path, body["task"]) == ("/pooling", "embed")
        ids, mask = pad(body["input"])
        with torch.inference_mode():
            hidden = self.network.base(input_ids=ids, attention_mask=mask).last_hidden_state
            pooled = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return {"data": [{"index": i, "object": "pooling", "data": row} for i, row in enumerate(pooled.tolist())]}


@pytest.fixture
def served(student: Student) -> Iterator[Served]:
    state = Served(student)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path, body, self.headers.get("Authorization")))
            if state.wrong:
                status, data = state.wrong(body)
            else:
                status, data = 200, json.dumps(state.answer(self.path, body)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


def _write(student: Student, config: RemoteConfig | None, folder: Path) -> Path:
    parts = Parts(lambda whole: merged(student, whole=whole).network, remote=config)
    spec = BundleSpec.of(student.network.pooling, student.encoder, student.policy, backend="remote")
    return write_bundle(parts, student.encoder, student.policy, spec, [], folder)


def _load(student: Student, served: Served, folder: Path, **changes: Any) -> Moderator:
    return load_bundle(_write(student, RemoteConfig(url=served.url, model="m", **changes), folder / "bundle"))


@pytest.mark.parametrize("speaks", DIALECTS)
def test_every_dialect_passes_the_gate(
    speaks: str, student: Student, served: Served, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    config = RemoteConfig(url=served.url, speaks=speaks, model="m")

    def write(_backend: str, _quantize: Quantize, folder: Path) -> Path:
        return _write(student, config, folder)

    parity = export_bundle(write, [("remote", "none")], scorer_of(student), examples, tmp_path / "bundle")
    assert parity[ALL].clear_flips == 0
    assert parity[ALL].largest_difference < 0.02
    moderator = load_bundle(tmp_path / "bundle")
    for scores, wanted in zip(moderator.score(TEXTS), scorer_of(student)(TEXTS), strict=True):
        assert scores.risk == pytest.approx(wanted.risk, abs=0.02)
    sizes = [len(body.get("inputs") or body.get("input")) for _, body, _ in served.asked]
    assert max(sizes) <= ROWS < sum(sizes)
    assert not list((tmp_path / "bundle").glob("model*"))


def test_it_is_served_without_torch(student: Student, served: Served, tmp_path: Path) -> None:
    _load(student, served, tmp_path)
    serves_without_torch(tmp_path / "bundle")


def test_a_server_of_another_model_does_not_pass_the_gate(
    student: Student, served: Served, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    config = RemoteConfig(url=served.url, speaks="vllm_classify")
    served.wrong = lambda body: (200, json.dumps({"data": _rows(body, [0.0, 0.0, 9.0])}).encode())

    def write(_backend: str, _quantize: Quantize, folder: Path) -> Path:
        return _write(student, config, folder)

    with pytest.raises(BundleError, match=r"the remote bundle decides .* otherwise than the student"):
        export_bundle(write, [("remote", "none")], scorer_of(student), examples, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def _told(value: Any) -> Callable[[Any], tuple[int, bytes]]:
    return lambda _body: (200, json.dumps(value).encode())


def _rows(body: Any, row: list[float]) -> list[dict[str, Any]]:
    return [{"index": i, "probs": row} for i in range(len(body["input"]))]


def _late(_body: Any) -> tuple[int, bytes]:
    time.sleep(1)
    return 200, b"{}"


WRONG: dict[str, tuple[Callable[[Any], tuple[int, bytes]], str]] = {
    "500": (lambda _body: (500, b"boom"), "/classify answers 500: see its log"),
    "a refusal": (lambda _body: (429, b"{}"), "answers 429"),
    "a redirect": (lambda _body: (302, b""), "answers 302"),
    "no JSON": (lambda _body: (200, b"\xff<html>"), "answers nothing that can be read: check export.remote"),
    "null": (_told(None), "answers nothing that can be read"),
    "no data": (_told({"error": "no"}), "answers nothing that can be read"),
    "words": (_told({"data": [{"index": 0, "probs": ["a", "b", "c"]}]}), "answers nothing that can be read"),
    "too few": (lambda body: (200, json.dumps({"data": _rows(body, [0.5] * 3)[1:]}).encode()), r"shape \("),
    "too narrow": (lambda body: (200, json.dumps({"data": _rows(body, [0.5] * 2)}).encode()), r"wanted \(\d+, 3\)"),
    "NaN": (lambda body: (200, json.dumps({"data": _rows(body, [float("nan")] * 3)}).encode()), "all finite"),
    "too late": (_late, r"does not answer \(ReadTimeout\): see that it runs"),
}


@pytest.mark.parametrize("what", WRONG)
def test_failures_are_errors_and_what_they_leave_is_reviewed(
    what: str, student: Student, served: Served, tmp_path: Path
) -> None:
    moderator = _load(student, served, tmp_path, speaks="vllm_classify", timeout=0.2)
    served.wrong, message = WRONG[what]
    with pytest.raises(RemoteError, match=message):
        moderator.score(TEXTS)
    decisions = moderator(TEXTS)
    assert [decision.action for decision in decisions] == ["review"] * len(TEXTS)
    assert {decision.reasons for decision in decisions} == {("no answer",)}


def test_an_unknown_label_is_no_answer(student: Student, served: Served, tmp_path: Path) -> None:
    moderator = _load(student, served, tmp_path, speaks="tei")
    served.wrong = _told([[{"label": name, "score": 1.0} for name in ("normal", "gambling", "weather")]])
    assert [decision.action for decision in moderator(TEXTS[:1])] == ["review"]
    # What servers call the labels of a model that names none, in the policy's order.
    served.wrong = _told([[{"label": f"LABEL_{i}", "score": float(i)} for i in (2, 0, 1)]])
    assert moderator.score(TEXTS[:1])[0].category == student.policy.ids[2]


def test_nobody_there(student: Student, tmp_path: Path) -> None:
    config = RemoteConfig(url="http://user:secret@127.0.0.1:9")
    moderator = load_bundle(_write(student, config, tmp_path / "bundle"))
    assert [decision.action for decision in moderator(TEXTS[:2])] == ["review", "review"]
    with pytest.raises(RemoteError, match=r"the server at 127\.0\.0\.1:9/pooling does not answer") as caught:
        moderator.score(TEXTS[:1])
    assert "secret" not in str(caught.value)


def test_the_key_stands_in_the_environment(
    student: Student, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDENT_KEY", "k3y")
    moderator = _load(student, served, tmp_path, api_key_env="STUDENT_KEY")
    moderator.score(TEXTS[:1])
    assert served.asked[0][2] == "Bearer k3y"
    assert "k3y" not in "".join(path.read_text() for path in (tmp_path / "bundle").glob("*.json"))
    monkeypatch.delenv("STUDENT_KEY")
    with pytest.raises(RemoteError, match=r"\$STUDENT_KEY is not set: export the key of http"):
        load_bundle(tmp_path / "bundle")


def test_an_address_is_wanted_and_only_there(student: Student, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match=r"http://host:port is no address: mend export\.remote\.url"):
        load_bundle(_write(student, RemoteConfig(url="http://host:port"), tmp_path / "nowhere"))
    with pytest.raises(BundleError, match=r"a remote bundle needs an address: set export\.remote\.url"):
        _write(student, None, tmp_path / "bundle")
    for settings in ({"backend": "remote"}, {"backend": "onnx", "remote": {"url": "http://x"}}):
        with pytest.raises(ValueError, match="goes with backend remote and no other: set both or neither"):
            ExportConfig.model_validate(settings)
    with pytest.raises(ValueError, match="onnx serves no int4: set backend to gguf, auto"):
        ExportConfig(backend="onnx", quantize="int4")
