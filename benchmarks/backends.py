"""Texts a second and the latency of one text for every backend and precision, in turns on the same texts.

    python benchmarks/backends.py --model multilingual-e5-small
    python benchmarks/backends.py --bundle runs/demo/bundle

A model gets fresh weights, which compute as fast as trained ones, and is exported for each backend that is installed; a
bundle is served as it is, beside the others when `--model` is given too. Prints the median and the range of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from train import corpus

from tamis.config import StudentConfig
from tamis.learn.student import build_student, merged
from tamis.policy import load_policy
from tamis.ship.backends import Parts
from tamis.ship.bundle import BundleSpec, Moderator, load_bundle, write_bundle
from tamis.ship.choose import candidates, rates


def exported(model: str, max_tokens: int, folder: Path) -> Iterator[tuple[str, Moderator]]:
    """The model with fresh weights, behind each backend and precision."""
    policy = load_policy("default")
    student = build_student(StudentConfig(model=model, max_tokens=max_tokens), policy)
    parts = Parts(lambda whole: merged(student, whole=whole).network)
    for backend, quantize in candidates("auto", "int4", student.network):
        spec = BundleSpec.of(student.network.pooling, student.encoder, policy, backend=backend, quantize=quantize)
        bundle = write_bundle(parts, student.encoder, policy, spec, [], folder / f"{backend}-{quantize}")
        yield f"{backend} {quantize}", load_bundle(bundle)


def told(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):8.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Time all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="catalogue name, hub id or folder")
    parser.add_argument("--bundle", type=Path, nargs="*", default=[])
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--rows", type=int, default=256, help="texts a round")
    parser.add_argument("--single", type=int, default=30, help="texts timed one at a time")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if not options.model and not options.bundle:
        parser.error("give --model, --bundle or both")
    texts = [example.text for example in corpus(load_policy("default"), options.rows)]
    with tempfile.TemporaryDirectory() as folder:
        served = {str(bundle): load_bundle(bundle) for bundle in options.bundle}
        if options.model:
            served |= exported(options.model, options.max_tokens, Path(folder))
        scorers = {name: moderator.score for name, moderator in served.items()}
        batched = rates(scorers, texts, options.rounds)
        singly: dict[str, list[float]] = {name: [] for name in scorers}
        for text in texts[: options.single]:
            for name, values in rates(scorers, [text], 1).items():
                singly[name].append(1000 / values[0])
    for name in scorers:
        print(f"{name:24} texts/s {told(batched[name])}   ms a text {told(singly[name])}")


if __name__ == "__main__":
    main()
