"""The first model, from text to bundle: the file to read first.

Each stage is a function in stages.py that works in a folder of its own. A stage whose inputs have not changed is not
done again, and one that was killed goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from tamis import plan, stages
from tamis.config import RunConfig
from tamis.errors import ConfigError
from tamis.workspace import Workspace

Stage = Literal["ingest", "label", "distill", "evaluate", "report", "export"]


def run(config: RunConfig, until: Stage = "export") -> Path:
    """Make one student: ingest, label, distil, evaluate, report, export; returns the folder of the last stage.

    Args:
        config: a checked recipe.
        until: the last stage to do.

    Raises:
        TamisError: what stopped the run, in one sentence; what was done stays done.
    """
    if until not in get_args(Stage):
        raise ConfigError(f"no stage {until!r}; there are {', '.join(get_args(Stage))}")
    *assistants, config = plan.chain(config)
    if until != "ingest":
        # A student between teacher and student is a run of its own, and its bundle the teacher of the next.
        for assistant in assistants:
            run(assistant)
    plan.check(config)
    policy = plan.policy_of(config)
    steps = stages.Stages(config, policy)
    with Workspace(config.out, until) as work:
        # Text becomes examples, cleaned and de-duplicated, in four splits that share nothing.
        splits = work.run("ingest", plan.ingest_inputs(config, policy), steps.ingest, steps.load_splits)
        # The teacher says what it thinks of them, and is held against the human labels before a student is spent on it.
        labelled = work.run("label", plan.label_inputs(config), steps.label(splits), steps.load_labelled)
        # The student learns from both; the best checkpoint on the validation split is kept.
        student = work.run("distill", plan.distil_inputs(config), steps.distil(splits, labelled), steps.load_student)
        # Student, teacher and baselines are measured against human labels that nothing was chosen on.
        inputs = [config.evaluate.model_dump(), config.thresholds.model_dump(), steps.lexicon]
        measured = work.run("evaluate", inputs, steps.evaluate(splits, labelled, student), steps.load_measured)
        # The figures are told in words, tables and charts.
        work.run("report", config.report.model_dump(), steps.report(splits, labelled, measured), steps.nothing)
        # What passes the gate leaves the house as one checked folder.
        steps.require(measured)
        work.run("export", config.export.model_dump(), steps.export(splits, student, measured), steps.nothing, "bundle")
    return work.out / ("bundle" if until == "export" else until)
