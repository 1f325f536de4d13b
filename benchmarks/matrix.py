"""What each kind of knowledge adds: the variants of recipes/matrix.yaml under a fine-tuned teacher.

    python benchmarks/matrix.py --gold train.jsonl.gz --teach dev.jsonl.gz --test test.jsonl.gz --out runs/matrix

Of `--gold` 300 rows keep their labels; the teacher's run has these and `--teach`, and the teacher is asked about the
others alone. Those of the 300 that it learnt from train the students too, the rest chooses checkpoints and calibrates:
no row is labelled by a teacher that learnt from it. Killed and started again, every step goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

from retention import RECIPES, parts_of, run
from rows import read_rows, write_rows

from tamis.data import load_splits
from tamis.experiment import run_experiment
from tamis.recipe import load_experiment
from tamis.records import content_id

GOLD = 300


def sides_of(gold: Path, teacher: Path) -> dict[str, Path]:
    """The gold rows the teacher learnt from, and the others, in a file each."""
    learnt = {row.id for row in load_splits(teacher / "ingest").train.examples}
    rows = [(row, content_id(row["text"]) in learnt) for row in read_rows(gold)]
    return {
        side: write_rows((row for row, own in rows if own == inside), gold.with_name(f"gold-{side}.jsonl"))
        for side, inside in (("learnt", True), ("held-out", False))
    }


def main() -> None:
    """Train the teacher, then all variants, and say how long the variants took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gold", type=Path, required=True)
    parser.add_argument("--teach", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/matrix"))
    parser.add_argument("--only", nargs="*", default=[], help="category ids of the gold; all of the policy without it")
    parser.add_argument("--variants", nargs="*", default=[], help="names of the variants; all without it")
    parser.add_argument("--teacher-set", nargs="*", default=[], help="settings of the teacher's own run")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the experiment, as `tamis experiment --set`")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parts_of(options.gold, options.out, {"gold": (0, GOLD), "unlabelled": (GOLD, 10**9)})
    test = {"path": str(options.test), "split": "test"}
    only = [f"policy.only={json.dumps(options.only)}"] if options.only else []
    gold = {"path": str(options.out / "gold.jsonl")}
    told = [{"path": str(options.teach)}, gold, test]
    run("bundle-teacher.yaml", options.out / "teacher", told, *only, *options.teacher_set)
    sides = sides_of(options.out / "gold.jsonl", options.out / "teacher")
    sources: list[dict[str, Any]] = [
        {"path": str(sides["learnt"]), "split": "train"},
        {"path": str(sides["held-out"])},
        {"path": str(options.out / "unlabelled.jsonl"), "label": None},
        test,
    ]
    settings = [
        f"out={options.out / 'matrix'}",
        f"recipe.data.sources={json.dumps(sources)}",
        "recipe.data.split={validation: 0.67, calibration: 0.33, test: 0}",
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
