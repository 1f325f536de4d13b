"""The service beside its own bare backend, mosec, LitServe and a plain FastAPI + transformers pipeline, in turns.

    python benchmarks/serve.py --model multilingual-e5-small --out runs/serve-bench

All serve one model (fresh weights: they do not change the speed) with texts of 64 tokens, a text a request, over
HTTP on loopback. Load and server share the machine; all other servers are halted meanwhile. mosec and LitServe get the
same ONNX file, batch and wait. Prints each one's texts a second, its ratio to others round by round, latency at 70 % of
its throughput, and memory.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from backends import exported, told
from load import closed, opened, request_of, run
from train import corpus
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tamis import models
from tamis.policy import load_policy
from tamis.ship.backends import logits_of
from tamis.ship.bundle import Moderator

HERE = Path(__file__).parent
TOKENS = 64


@dataclass(frozen=True)
class Server:
    """A server that runs: where, its process, and the requests it understands."""

    port: int
    process: subprocess.Popen[bytes]
    requests: Sequence[bytes]

    @property
    def megabytes(self) -> float:
        """Memory of the process and its children that no other process shares with them."""
        return float(sum(one.memory_full_info().uss for one in family(self.process))) / 2**20


@contextmanager
def alone(servers: dict[str, Server], name: str = "") -> Iterator[None]:
    """Halt all servers but one: some poll while they have nothing to do, which the others would pay for."""
    halted = [one for other, server in servers.items() if other != name for one in family(server.process)]
    for one in halted:
        one.suspend()
    try:
        if name:
            # What lay idle comes back into caches first.
            run(closed, servers[name].port, servers[name].requests, 4, 1)
        yield
    finally:
        for one in halted:
            one.resume()


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A process and all below it."""
    own = psutil.Process(process.pid)
    return [own, *own.children(recursive=True)]


def texts_of(moderator: Moderator, count: int) -> list[str]:
    """Texts of exactly 64 tokens with their template, cut from the packaged corpus."""
    tokenizer, template = moderator.encoder.tokenizer, moderator.encoder.template
    text = " ".join(example.text for example in corpus(load_policy("default"), 400)) * 20
    extra = len(tokenizer.encode(template.replace("{text}", "")).ids)
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    size = TOKENS - extra
    cut = [text[offsets[n][0] : offsets[n + size - 1][1]] for n in range(0, len(offsets) - size, size)][:count]
    return [one.strip() for one in cut]


@contextmanager
def served(command: Sequence[str], port: int, requests: Sequence[bytes], **more: str) -> Iterator[Server]:
    """A server in a process of its own, until it answers its first request."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])} | more
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            answered(port, requests[0])
            yield Server(port, process, requests)
        finally:
            # LitServe's workers would go on without it.
            for one in family(process):
                one.terminate()


def answered(port: int, request: bytes, seconds: float = 180.0) -> None:
    """Wait until a server gives a good answer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                pass
            if run(closed, port, [request], 1, 0.01).rate:
                return
        except (OSError, EOFError):
            pass
        time.sleep(0.5)
    raise SystemExit(f"nothing answers on port {port} after {seconds:.0f} s")


def bare(moderator: Moderator, texts: Sequence[str], seconds: float, batch: int = 32) -> float:
    """Texts a second of the backend alone on texts tokenised beforehand."""
    ids = moderator.encoder.encode(texts).ids
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        part = [ids[(done + n) % len(ids)] for n in range(batch)]
        logits_of(moderator.backend, part)
        done += batch
    return done / (time.perf_counter() - began)


def tamis(bundle: Path, port: int, out: Path) -> list[str]:
    """The command that serves a bundle, every decision on disk before it is answered."""
    settings = [f"store={out / f'{port}.sqlite'}", "require_key=false"]
    options = [part for setting in settings for part in ("--set", setting)]
    return [str(Path(sys.executable).with_name("tamis")), "serve", str(bundle), "--port", str(port), *options]


def python(module: str, *arguments: object) -> list[str]:
    """The command of a peer."""
    return [sys.executable, "-m", f"peers.{module}", *map(str, arguments)]


def ratio(rates: dict[str, list[float]], one: str, other: str) -> str:
    """Round by round, one over the other."""
    values = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
    return f"{one} / {other}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def overload(server: Server, peak: float, seconds: float) -> str:
    """Three times what it can do, whatever becomes of the requests before."""
    before = server.megabytes
    seen = run(opened, server.port, server.requests, 3 * peak, seconds)
    return (
        f"at 3 times the peak for {seconds:.0f} s: {seen.rate / peak:.2f} of the peak answered, statuses"
        f" {dict(seen.counts)}, 429 within {seen.quantile(0.99, 429):.0f} ms (p99), 200 within"
        f" {seen.quantile(0.99):.0f} ms; memory {before:.0f} to {server.megabytes:.0f} MB"
    )


def plain_model(name: str, folder: Path) -> Path:
    """The same base as a classifier of transformers, with its tokenizer."""
    source = models.training_folder(name)
    AutoModelForSequenceClassification.from_pretrained(source, num_labels=8).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def started(
    options: argparse.Namespace, bundles: dict[str, Moderator], texts: list[str], stack: ExitStack
) -> dict[str, Server]:
    """Every server, up and warm."""
    folders = {name: str(options.out / name.replace(" ", "-")) for name in bundles}
    ours = [request_of("/v1/decisions", {"texts": [text]}) for text in texts]
    theirs = {key: [request_of(path, {"text": text}) for text in texts] for key, path in PATHS.items()}
    plain = plain_model(options.model, options.out / "plain")
    ports = iter(range(options.port, options.port + 100))
    servers = {}
    for name, folder in folders.items():
        port = next(ports)
        servers[f"tamis {name}"] = stack.enter_context(served(tamis(Path(folder), port, options.out), port, ours))
    for name, command in PEERS.items():
        port = next(ports)
        command = [str(port) if part == "PORT" else part for part in command]
        where = {"BUNDLE": folders["onnx none"], "MODEL": str(plain)}
        servers[name] = stack.enter_context(served(command, port, theirs[name], **where))
    return servers


def main() -> None:
    """Start all, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="multilingual-e5-small")
    parser.add_argument("--out", type=Path, default=Path("runs/serve-bench"))
    parser.add_argument("--port", type=int, default=8700, help="the first of those used")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--overload", type=float, default=60, help="seconds at three times the peak")
    parser.add_argument("--backends", nargs="*", default=["onnx none", "onnx int8", "openvino none"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bundles = {name: one for name, one in exported(options.model, 256, options.out) if name in options.backends}
    texts = texts_of(next(iter(bundles.values())), 256)
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        servers = started(options, bundles, texts, stack)
        for _ in range(options.rounds):
            for name, moderator in bundles.items():
                with alone(servers):
                    rates.setdefault(f"bare {name}", []).append(bare(moderator, texts, options.seconds))
            for name, server in servers.items():
                with alone(servers, name):
                    seen = run(closed, server.port, server.requests, options.clients, options.seconds)
                rates.setdefault(name, []).append(seen.rate)
        for name, server in servers.items():
            rate = statistics.median(rates[name])
            with alone(servers, name):
                calm = run(opened, server.port, server.requests, 0.7 * rate, 3 * options.seconds)
            print(
                f"{name:24} {told(rates[name])} texts/s; at 70 %: p50 {calm.quantile(0.5):.0f} ms,"
                f" p99 {calm.quantile(0.99):.0f} ms; {server.megabytes:.0f} MB",
                flush=True,
            )
        for name in bundles:
            print(ratio(rates, f"tamis {name}", f"bare {name}"))
            print(ratio(rates, f"tamis {name}", "pipeline"))
        for peer in ("mosec", "litserve"):
            print(ratio(rates, "tamis onnx none", peer))
        for name in bundles:
            one = f"tamis {name}"
            with alone(servers, one):
                print(f"{one} {overload(servers[one], statistics.median(rates[one]), options.overload)}", flush=True)


PATHS = {"mosec": "/inference", "litserve": "/predict", "pipeline": "/predict"}

PEERS = {
    "mosec": python("mosec_app", "--port", "PORT"),
    "litserve": python("litserve_app", "PORT"),
    "pipeline": python("pipeline_app", "PORT"),
}


if __name__ == "__main__":
    main()
