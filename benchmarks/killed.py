"""A run killed by SIGKILL while it labels and again while it trains, against the same run left in peace.

    python benchmarks/killed.py --gold train.jsonl.gz --test test.jsonl.gz --only normal abuse --out runs/killed

The teacher is a real OpenAI-compatible server on loopback, behind a relay that counts how often each text is asked
about. Prints the questions asked more than once and whether the two students have the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

from tamis import models
from tamis.teach.gguf import GgufServer

CONCURRENCY = 4


class Relay(ThreadingHTTPServer):
    """Passes requests on to the server and counts the questions that it answered, and those that it was asked."""

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.client = httpx.Client(base_url=server, timeout=300)
        self.asked: Counter[str] = Counter()
        self.answered = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """Base URL for a recipe."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: object) -> None:
        """A caller that was killed has hung up; that is what is tried here."""


class _Handler(BaseHTTPRequestHandler):
    server: Relay
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked[json.loads(body)["messages"][-1]["content"]] += 1
        answer = self.server.client.post(
            self.path.removeprefix("/v1"), content=body, headers={"Content-Type": "application/json"}
        )
        self.server.answered += 1
        self.send_response(answer.status_code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None:
        """Nothing: the counts are the log."""


def recipe_of(options: argparse.Namespace, teacher: str) -> dict[str, Any]:
    """The run that is killed."""
    return {
        "name": "killed",
        "out": str(options.out / "killed"),
        "policy": {"only": options.only} if options.only else {},
        "data": {
            "sources": [{"path": str(options.gold)}, {"path": str(options.test), "split": "test"}],
            "gold": options.rows,
            "split": {"validation": 0.05, "calibration": 0.05, "test": 0},
        },
        "teacher": {
            "kind": "openai",
            "model": options.teacher,
            "base_url": teacher,
            "few_shot": {"kind": "none"},
            "concurrency": CONCURRENCY,
            "label": "unlabelled",
            "limit": options.limit,
            "self_check": 0,
        },
        "student": {"model": options.student, "max_tokens": 128},
        "train": {"epochs": 2, "checkpoint_seconds": 5},
        "evaluate": {"bootstrap": 100},
    }


def start(recipe: Path, *settings: str) -> subprocess.Popen[bytes]:
    """`tamis distill` in a process of its own."""
    sets = [part for setting in settings for part in ("--set", setting)]
    return subprocess.Popen([Path(sys.executable).with_name("tamis"), "distill", str(recipe), *sets])


def kill_when(child: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """SIGKILL as soon as `ready`."""
    while not ready():
        if child.poll() is not None:
            sys.exit("the run ended before it could be killed: give it more rows")
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def weights_hash(out: Path) -> str:
    """Of the trained weights."""
    return hashlib.sha256((out / "distill" / "trained.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Kill twice, finish, run in peace, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gold", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="category ids of the gold; all of the policy without it")
    parser.add_argument("--out", type=Path, default=Path("runs/killed"))
    parser.add_argument("--teacher", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--student", default="multilingual-e5-small")
    parser.add_argument("--rows", type=int, default=600, help="training rows that keep their human label")
    parser.add_argument("--limit", type=int, default=100, help="training rows the teacher labels")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    server = GgufServer(models.resolve(options.teacher), 1)  # It stops when nothing holds it any more.
    relay = Relay(server.address())
    recipe = options.out / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(options, relay.address), allow_unicode=True))
    killed, whole = options.out / "killed", options.out / "whole"
    kill_when(start(recipe), lambda: relay.answered > options.limit)
    kill_when(start(recipe), (killed / "distill" / "progress.safetensors").is_file)
    status = start(recipe).wait()
    again = {text: count - 1 for text, count in relay.asked.items() if count > 1}
    status |= start(recipe, f"out={whole}", f"store={killed / 'store.sqlite'}").wait()
    print(f"{len(relay.asked)} questions; asked again: {sum(again.values())} (at most {CONCURRENCY} were in flight,")
    print("and the probe of an endpoint is asked at each start)", *again.items(), sep="\n  ")
    print(f"same weights: {status == 0 and weights_hash(killed) == weights_hash(whole)}")


if __name__ == "__main__":
    main()
