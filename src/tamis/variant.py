"""One student of an experiment: trained on rows and signals that all of them share, and asked about the test split."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis.config import RunConfig
from tamis.errors import TamisError
from tamis.jobs import PREFIX, end_with_parent
from tamis.judge.calibrate import fit_calibration
from tamis.learn.score import quality_of, scorer_of
from tamis.learn.student import Student, merged
from tamis.plan import distil_inputs, policy_of
from tamis.policy import Policy
from tamis.recipe import parse_config, read_tree
from tamis.records import Scores, Splits
from tamis.stages import Labelled, Stages, student_facts
from tamis.workspace import Workspace, fingerprint, finished

RECIPE = "recipe.json"
ANSWERS = "answers.json"
DONE = "done.txt"


@dataclass(frozen=True)
class Answers:
    """What a trained student says of the gold rows of the test split, in their order, and what is known of it."""

    scores: list[Scores]
    facts: dict[str, Any]
    validation: float
    seconds: float


def write_variant(folder: Path, config: RunConfig, shared: Path) -> bool:
    """Lay down what a process needs to make one student; returns whether it is made already."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = config.model_copy(update={"out": str(folder)}).model_dump(mode="json")
    tree = {"shared": str(shared), "made_of": finished(shared, "label")["inputs"], "recipe": recipe}
    (folder / RECIPE).write_text(json.dumps(tree, ensure_ascii=False, indent=1), encoding="utf-8")
    done = folder / DONE
    return done.is_file() and done.read_text() == fingerprint(tree)


def make_variant(folder: Path) -> None:
    """Train the student of a folder and ask it; a killed run goes on where it stopped.

    Raises:
        TamisError: what stopped it, in one sentence.
    """
    tree = read_tree(folder / RECIPE)
    config, shared = parse_config(tree["recipe"], str(folder)), Path(tree["shared"])
    steps = Stages(config, policy_of(config))
    splits = steps.load_splits(shared / "ingest")
    labelled = steps.load_labelled(shared / "label") if config.teacher.kind != "none" else Labelled({}, None)
    inputs = [distil_inputs(config), tree["made_of"]]
    with Workspace(folder, "answer") as work:
        student = work.run("distill", inputs, steps.distil(splits, labelled), steps.load_student)
        work.run("answer", None, lambda out: _ask(student, splits, out), steps.nothing)
    (folder / DONE).write_text(fingerprint(tree))


def _ask(student: Student, splits: Splits, out: Path) -> None:
    """Keep the answers of the merged student, calibrated, and its facts."""
    served = merged(student)
    score = scorer_of(served)
    calibration = score([example.text for example in splits.calibration.examples])
    fitted = fit_calibration(calibration, splits.calibration, student.policy)
    told = fitted.over(score, student.policy)([example.text for example in splits.test.gold])
    rows = [[one.probabilities[name] for name in student.policy.ids] for one in told]
    quality = quality_of(student, splits.validation, floor=0.0)
    chosen = quality.score if quality.macro_f1 is None else quality.macro_f1
    found = {"probabilities": rows, "facts": student_facts(student, served), "validation": chosen}
    (out / ANSWERS).write_text(json.dumps(found))


def answers_of(folder: Path, policy: Policy) -> Answers:
    """What `make_variant` left in a folder."""
    found = json.loads((folder / "answer" / ANSWERS).read_text())
    return Answers(
        [policy.scores(dict(zip(policy.ids, row, strict=True))) for row in found["probabilities"]],
        found["facts"],
        found["validation"],
        sum(finished(folder, stage)["seconds"] for stage in ("distill", "answer")),
    )


def main() -> None:
    """Make the student whose folder is the argument; what a user can mend is one sentence and exit code 2."""
    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        make_variant(Path(sys.argv[1]))
    except TamisError as error:
        sys.stderr.write(f"{PREFIX}{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
