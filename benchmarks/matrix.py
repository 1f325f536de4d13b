"""What each kind of knowledge adds: the variants of recipes/matrix.yaml under a fine-tuned 1.5 B teacher.

    python benchmarks/matrix.py --gold train.jsonl.gz --teach dev.jsonl.gz --test test.jsonl.gz --out runs/matrix

The teacher learns from `--teach`. Of `--gold` 300 rows keep their labels (for training, validation and calibration); on
the other rows there is the teacher's answer alone, so no row is labelled by a teacher that learnt from it. Killed and
started again, every step goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

from retention import RECIPES, parts_of, run

from tamis.experiment import run_experiment
from tamis.recipe import load_experiment

GOLD = 300


def main() -> None:
    """Train the teacher, then all variants, and say how long the variants took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gold", type=Path, required=True)
    parser.add_argument("--teach", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/matrix"))
    parser.add_argument("--only", nargs="*", default=[], help="category ids of the gold; all of the policy without it")
    parser.add_argument("--variants", nargs="*", default=[], help="names of the variants; all without it")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the experiment, as `tamis experiment --set`")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parts_of(options.gold, options.out, {"gold": (0, GOLD), "unlabelled": (GOLD, 10**9)})
    test = {"path": str(options.test), "split": "test"}
    only = [f"policy.only={json.dumps(options.only)}"] if options.only else []
    run("bundle-teacher.yaml", options.out / "teacher", [{"path": str(options.teach)}, test], *only)
    sources: list[dict[str, Any]] = [
        {"path": str(options.out / "gold.jsonl")},
        {"path": str(options.out / "unlabelled.jsonl"), "label": None},
        test,
    ]
    settings = [
        f"out={options.out / 'matrix'}",
        f"recipe.data.sources={json.dumps(sources)}",
        f"recipe.teacher.model={options.out / 'teacher' / 'bundle'}",
        *(f"recipe.{setting}" for setting in only),
        *options.set,
    ]
    config = load_experiment(RECIPES / "matrix.yaml", settings)
    kept = {name: config.variants[name] for name in options.variants or config.variants}
    started = time.monotonic()
    run_experiment(config.model_copy(update={"variants": kept}))
    print(
        f"the experiment took {(time.monotonic() - started) / 60:.1f} min; report: {options.out / 'matrix' / 'report'}"
    )


if __name__ == "__main__":
    main()
