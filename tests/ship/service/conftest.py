"""A real server on loopback: the command's own process, with a tiny real bundle that needs no torch."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import pytest
import yaml

from tamis.config import StudentConfig
from tamis.policy import Policy, load_policy
from tamis.ship.backends import Parts
from tamis.ship.bundle import BundleSpec, write_bundle
from tamis.ship.service.keys import add_key
from tamis.store import Store

SLOW_START = 200.0


@dataclass(frozen=True)
class Running:
    """A server and what it takes to ask it."""

    bundle: Path
    url: str
    key: str
    admin: str
    store: Path
    process: subprocess.Popen[str]
    errors: Path

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=30)


def _write(
    folder: Path,
    base: Path,
    policy: Policy,
    seed: int,
    backend: Literal["onnx", "adapter"] = "onnx",
    **settings: object,
) -> Path:
    import torch

    from tamis.learn.student import build_student, merged

    named = {"model": str(base), "max_tokens": 24, "pretrained_dtype": "float32"} | settings
    student = build_student(StudentConfig.model_validate(named), policy)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in student.network.named_parameters():
            if "lora_B" in name or name == "head.weight":
                weight.normal_(std=0.5)
    spec = BundleSpec.of(student.network.pooling, student.encoder, policy, backend=backend)
    parts = Parts(lambda whole: merged(student, whole=whole).network, student.network, str(base))
    return write_bundle(parts, student.encoder, policy, spec, [], folder)


@pytest.fixture(scope="session")
def bundles(tiny_bert: Path, small_policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles of one policy, served by ONNX Runtime."""
    folder = tmp_path_factory.mktemp("served")
    return _write(folder / "one", tiny_bert, small_policy, 1), _write(folder / "two", tiny_bert, small_policy, 2)


@pytest.fixture(scope="session")
def over_one_base(tiny_bert: Path, small_policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles over one base: two with adapters, one with another policy and window, and one that is a head alone."""
    folder = tmp_path_factory.mktemp("adapters")
    made = {
        "forum": (small_policy, {"lora": {"rank": 2}}),
        "chat": (load_policy("default"), {"lora": {"rank": 8}, "max_tokens": 40}),
        "bare": (small_policy, {"mode": "head"}),
    }
    return {
        name: _write(folder / name, tiny_bert, policy, seed, "adapter", **settings)
        for seed, (name, (policy, settings)) in enumerate(made.items(), 3)
    }


@contextmanager
def served(bundle: Path, folder: Path, *options: str, settings: dict[str, object] | None = None) -> Iterator[Running]:
    """The real command, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    store, errors = folder / "s.db", folder / "stderr.txt"
    with Store.open(store) as opened:
        key, admin = add_key(opened, "shop"), add_key(opened, "operator", ["moderate", "admin"])
    (folder / "serve.yaml").write_text(
        yaml.safe_dump({"store": str(store), "watch": 0.2, "drain": 0.5} | (settings or {}))
    )
    port = _free_port()
    command = [str(Path(sys.executable).parent / "tamis"), "serve", str(bundle), "--port", str(port)]
    command += ["--config", str(folder / "serve.yaml"), *options]
    with errors.open("w") as said, subprocess.Popen(command, stderr=said, text=True) as process:
        running = Running(bundle, f"http://127.0.0.1:{port}", key, admin, store, process, errors)
        try:
            _wait(running)
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def _wait(running: Running) -> None:
    until = time.monotonic() + SLOW_START
    while time.monotonic() < until and running.process.poll() is None:
        try:
            if httpx.get(f"{running.url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(running.errors.read_text())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return opened.getsockname()[1]


@pytest.fixture(scope="session")
def server(bundles: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests that leave it as it is."""
    with served(bundles[0], tmp_path_factory.mktemp("server")) as running:
        yield running
