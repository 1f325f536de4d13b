"""How much of a fine-tuned teacher its students keep: a 1.5 B teacher on part of the gold, students on the rest.

    python benchmarks/retention.py --gold train.jsonl.gz --test test.jsonl.gz --out runs/retention

`--gold` has at least 2,000 labelled rows. The teacher learns from 1,000 of them; a student gets the labels of 300
others and the teacher's answers on 700 more, so no row is labelled by a teacher that learnt from it. Every step is a
`tamis run` of a shipped recipe: killed and started again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from rows import read_rows, write_rows

from tamis import pipeline
from tamis.recipe import load_config

RECIPES = Path(__file__).parent.parent / "recipes"
STUDENTS = ("multilingual-e5-small", "qwen2.5-coder-0.5b-instruct")
PARTS = {"teacher": (0, 1000), "student": (1000, 1300), "unlabelled": (1300, 2000)}


def parts_of(gold: Path, folder: Path, parts: dict[str, tuple[int, int]]) -> None:
    """Cut the gold into parts, in the order of the hashes of its texts."""
    rows = read_rows(gold)
    for name, (start, end) in parts.items():
        write_rows(rows[start:end], folder / f"{name}.jsonl")


def run(recipe: str, out: Path, sources: list[dict[str, Any]], *settings: str) -> dict[str, Any]:
    """One run; returns its metrics."""
    where = [f"out={out}", f"data.sources={json.dumps(sources, ensure_ascii=False)}", *settings]
    pipeline.run(load_config(RECIPES / recipe, where))
    metrics: dict[str, Any] = json.loads((out / "report" / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def main() -> None:
    """Train the teacher, then each student, and print what they reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gold", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/retention"))
    parser.add_argument("--only", nargs="*", default=[], help="category ids of the gold; all of the policy without it")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parts_of(options.gold, options.out, PARTS)
    test = {"path": str(options.test), "split": "test"}
    only = [f"policy.only={json.dumps(options.only)}"] if options.only else []
    teacher = options.out / "teacher"
    run("bundle-teacher.yaml", teacher, [{"path": str(options.out / "teacher.jsonl")}, test], *only)
    for student in STUDENTS:
        sources: list[dict[str, Any]] = [
            {"path": str(options.out / "student.jsonl")},
            {"path": str(options.out / "unlabelled.jsonl"), "label": None},
            test,
        ]
        settings = [*only, f"teacher.model={teacher / 'bundle'}", f"student.model={student}", "gate.retention=null"]
        settings.append(f"store={options.out / 'store.sqlite'}")  # The teacher answers once, for both students.
        metrics = run("bundle-student.yaml", options.out / student, sources, *settings)
        scores = {name: model["metrics"]["macro_f1"] for name, model in metrics["models"].items()}
        kept = metrics["comparisons"]["teacher"]["retention"]
        print(f"{student}: macro-F1 {json.dumps(scores)}; of the teacher it keeps {json.dumps(kept)}", flush=True)


if __name__ == "__main__":
    main()
