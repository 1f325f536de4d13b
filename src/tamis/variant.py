"""One student of an experiment: trained on rows and signals that all of them share, and asked about the test split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis.config import RunConfig, TrainConfig
from tamis.judge.calibrate import fit_calibration
from tamis.learn.score import deciding, quality_of
from tamis.learn.student import Student, merged
from tamis.learn.trunk import constant_depth, logits_above
from tamis.plan import distil_inputs, policy_of
from tamis.policy import Policy
from tamis.recipe import parse_config, read_tree
from tamis.records import Example, Scores, Splits
from tamis.stages import Labelled, Stages, student_facts
from tamis.windows import Array, scores_of
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
        work.run("answer", None, lambda out: _ask(student, splits, config.train, out), steps.nothing)
    (folder / DONE).write_text(fingerprint(tree))


def _ask(student: Student, splits: Splits, config: TrainConfig, out: Path) -> None:
    """Keep the answers of the merged student, calibrated, and its facts."""
    served, depth, policy = merged(student), constant_depth(student.network), student.policy

    def read(rows: Sequence[Example]) -> tuple[Array, list[int]]:
        windows = student.encoder.encode([row.text for row in rows])
        return logits_above(served.network, depth, windows.ids, config, out), windows.owner

    calibration, test, deciders = splits.calibration.examples, splits.test.gold, deciding(splits.validation)
    fitted = fit_calibration(scores_of(*read(calibration), policy), splits.calibration, policy)
    told = fitted.apply(scores_of(*read(test), policy), policy)
    rows = [[one.probabilities[name] for name in policy.ids] for one in told]
    quality = quality_of(*read(deciders), deciders, policy, floor=0.0)
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
