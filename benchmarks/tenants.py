"""Texts a second of several adapters over one base, in common batches, against one bundle that has all the traffic.

    python benchmarks/tenants.py [--model NAME] [--tenants N] [--texts N] [--times N]

Students are untrained, of rank 16 in all layers; a request is one text, 64 at a time, and tenants take turns. Prints
for each case the median of its rounds and what the process has grown by.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tamis.config import BatchConfig, StudentConfig
from tamis.learn.student import build_student, merged
from tamis.policy import load_policy
from tamis.ship.backends import Name, Parts
from tamis.ship.bundle import BundleSpec, write_bundle
from tamis.ship.service.bases import Bases
from tamis.ship.service.engine import Engine

AT_ONCE = 64
TEXTS = (
    "今天天气很好，我们去公园走走",
    "注册就送彩金，加群领取",
    "easy money, no fee, write me on telegram",
    "we met at noon " * 6,
)


def write(model: str, backend: Name, folder: Path, seed: int) -> Path:
    """A bundle of a student whose adapters change something."""
    import torch

    torch.manual_seed(seed)
    student = build_student(StudentConfig(model=model), load_policy("default"))
    with torch.no_grad():
        for name, weight in student.network.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.01)
    spec = BundleSpec.of(student.network.pooling, student.encoder, student.policy, backend=backend)
    parts = Parts(lambda whole: merged(student, whole=whole).network, student.network, model)
    return write_bundle(parts, student.encoder, student.policy, spec, [], folder)


async def pace(engines: Sequence[Engine], texts: int) -> float:
    """Texts a second, the engines in turn."""
    room, until = asyncio.Semaphore(AT_ONCE), asyncio.get_running_loop().time() + 3600

    async def ask(i: int) -> None:
        async with room:
            await engines[i % len(engines)].score([TEXTS[i // len(engines) % len(TEXTS)]], until)

    began = time.monotonic()
    await asyncio.gather(*(ask(i) for i in range(texts)))
    return texts / (time.monotonic() - began)


async def measure(case: str, folders: Sequence[Path], apart: bool, texts: int, times: int) -> None:
    """Print a line."""
    process = psutil.Process()
    before, bases = process.memory_info().rss, Bases(BatchConfig(wait=3600))
    engines = [await (Bases(BatchConfig(wait=3600)) if apart else bases).open(folder) for folder in folders]
    await pace(engines, texts // 4)
    found = [await pace(engines, texts) for _ in range(times)]
    grown = (process.memory_info().rss - before) / 2**20
    print(f"{case:32} {statistics.median(found):8.1f} texts/s {grown:8.0f} MiB")
    for engine in engines:
        await engine.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="multilingual-e5-small")
    parser.add_argument("--tenants", type=int, default=4)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, n = Path(place), asked.tenants
        several = [write(asked.model, "adapter", folder / f"adapter{i}", i) for i in range(n)]
        whole = [write(asked.model, "torch", folder / "torch", 0)]
        for case, folders, apart in (
            ("one bundle for torch", whole, False),
            ("one bundle for adapter", several[:1], False),
            (f"{n} adapters over one base", several, False),
            (f"{n} adapters, a base each", several, True),
        ):
            asyncio.run(measure(case, folders, apart, asked.texts, asked.times))


if __name__ == "__main__":
    main()
