"""What compression costs and saves: a fine-tuned model against a PC-LoRA student of the same base, taught by it.

    python benchmarks/pclora.py --gold train.jsonl.gz --test test.jsonl.gz --out runs/pclora-bench --rank 24

`--gold` has at least 2,000 labelled rows: the teacher learns from 1,000, the student gets the labels of 300 others and
the teacher's answers on 700 more. Both steps are a `tamis run`: killed and started again, they go on. The two bundles
are timed in turns, so that a slow spell of the machine meets both. `--set` changes any setting of both runs,
`--teacher-set` then of the teacher's.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from pathlib import Path
from typing import Any

from retention import PARTS, parts_of, run
from transformers import PreTrainedModel

from tamis.data import load_splits
from tamis.factored import ranks_of
from tamis.judge.speed import measure_speed
from tamis.ship.backends import TorchBackend
from tamis.ship.bundle import Moderator, load_bundle

NAMES = ("teacher", "student")


def scores_of(options: argparse.Namespace) -> dict[str, float]:
    """Train both, or take what is there; their macro-F1 on the test file."""
    parts_of(options.gold, options.out, PARTS)
    test = {"path": str(options.test), "split": "test"}
    only = [f"policy.only={options.only}"] if options.only else []
    common = [f"student.model={options.model}", "gate.macro_f1=null", *only, *options.set]
    gold: list[dict[str, Any]] = [{"path": str(options.out / "teacher.jsonl")}, test]
    taught = [{"path": str(options.out / "student.jsonl")}]
    taught += [{"path": str(options.out / "unlabelled.jsonl"), "label": None}, test]  # type: ignore[dict-item]
    whole = [
        *([] if only else ["policy.only=[]"]),
        "student.lora.layers=null",
        "data.split={validation: 0.15, calibration: 0.1, test: 0}",
    ]
    smaller = [f"teacher.model={options.out / 'teacher' / 'bundle'}", f"student.lora.rank={options.rank}"]
    metrics = {
        "teacher": run("gold-only.yaml", options.out / "teacher", gold, *whole, *common, *options.teacher_set),
        "student": run("pclora.yaml", options.out / "student", taught, *smaller, *common),
    }
    return {name: one["models"]["student"]["metrics"]["macro_f1"]["value"] for name, one in metrics.items()}


def base_of(bundle: Moderator) -> PreTrainedModel:
    """The transformer of a bundle that torch serves."""
    assert isinstance(bundle.backend, TorchBackend)
    return bundle.backend.network.base


def weights_of(bundle: Moderator, layers: dict[str, int]) -> int:
    """Weights, without biases, of some linear layers, whole or factored."""
    modules = dict(base_of(bundle).named_modules())
    return sum(p.numel() for name in layers for p in modules[name].parameters() if p.ndim > 1)


def rates_of(bundles: dict[str, Moderator], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Texts a second of each bundle, round by round."""
    rates: dict[str, list[float]] = {name: [] for name in bundles}
    for _ in range(rounds):
        for name, bundle in bundles.items():
            rates[name].append(measure_speed(bundle.score, texts, rows=1).texts_per_second)
    return rates


def main() -> None:
    """Train both, then print what they reach, hold and do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gold", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/pclora-bench"))
    parser.add_argument("--only", nargs="*", default=[], help="category ids of the gold; all of the policy without it")
    parser.add_argument("--model", default="multilingual-e5-small")
    parser.add_argument("--rank", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of both runs")
    parser.add_argument("--teacher-set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the teacher's")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    scores = scores_of(options)
    bundles = {name: load_bundle(options.out / name / "bundle") for name in NAMES}
    layers = ranks_of(base_of(bundles["student"]).config)
    texts = [row.text for row in load_splits(options.out / "student" / "ingest").test.gold]
    rates = rates_of(bundles, texts, options.rounds)
    for name, bundle in bundles.items():
        size = sum(path.stat().st_size for path in (options.out / name / "bundle").rglob("*") if path.is_file())
        print(
            f"{name}: macro-F1 {scores[name]:.3f}; {weights_of(bundle, layers):,} weights in the compressed layers;"
            f" {size / 1e6:.1f} MB; {statistics.median(rates[name]):.0f} texts/s"
        )
    ratios = [small / whole for whole, small in zip(*rates.values(), strict=True)]
    print(f"the student is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
