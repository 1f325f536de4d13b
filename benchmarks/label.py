"""Signals a second of labelling against the limit of the server that answers them.

    python benchmarks/label.py --model qwen2.5-coder-0.5b-instruct --rows 32 --rounds 3

A GGUF model is served on loopback. In turn the same number of fresh rows is put to it by bare threads that do nothing
with the answers, and by `tamis label` with its store; the ratio of the two is what labelling keeps of the limit.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from train import corpus

from tamis.config import TeacherConfig
from tamis.policy import load_policy
from tamis.records import Example
from tamis.store import Store
from tamis.teach.endpoint import EndpointTeacher
from tamis.teach.gguf import gguf_teacher
from tamis.teach.label import ask_all


def bare(teacher: EndpointTeacher, examples: Sequence[Example], concurrency: int) -> float:
    """Seconds for the questions alone."""
    url = f"{teacher.connection.start()}/chat/completions"
    client = httpx.Client(timeout=300, limits=httpx.Limits(max_keepalive_connections=concurrency))
    settings = {"model": "m", "max_tokens": 1, "temperature": 1, "logprobs": True, "top_logprobs": 20}

    def post(example: Example) -> None:
        client.post(url, json=settings | {"messages": teacher.prompt.messages(example, 0)}).raise_for_status()

    started = time.perf_counter()
    with client, ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(post, examples))
    return time.perf_counter() - started


def main() -> None:
    """Take turns and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    policy = load_policy("default")
    config = TeacherConfig.model_validate({"kind": "gguf", "model": options.model, "few_shot": {"kind": "none"}})
    rows = corpus(policy, (2 * options.rounds + 1) * options.rows)
    parts = [rows[i : i + options.rows] for i in range(0, len(rows), options.rows)]
    limits, rates = [], []
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store.sqlite") as store:
        teacher = gguf_teacher(config, policy, (), store)
        ask_all(parts.pop()[:4], teacher, store, config)
        while len(parts) >= 2:
            limits.append(options.rows / bare(teacher, parts.pop(), config.concurrency))
            started = time.perf_counter()
            ask_all(parts.pop(), teacher, store, config)
            rates.append(options.rows / (time.perf_counter() - started))
    ratios = [rate / limit for rate, limit in zip(rates, limits, strict=True)]
    print(f"server alone {statistics.median(limits):.2f} answers/s, labelling {statistics.median(rates):.2f} signals/s")
    print(f"labelling keeps {statistics.median(ratios):.0%} of the limit ({min(ratios):.0%} to {max(ratios):.0%})")


if __name__ == "__main__":
    main()
