"""The next model, from the running one and what people corrected.

Each stage is a function in update_stages.py that works in a folder of its own; as in pipeline.py a finished one is
reused, and one that was killed goes on where it stopped. The folder is laid out as that of a run, so that the update
after this one can go on from it.
"""

from __future__ import annotations

from pathlib import Path

from tamis import update_stages
from tamis.config import UpdateConfig
from tamis.judge.update.result import Succession
from tamis.ship.switch import switch
from tamis.workspace import Workspace


def update(config: UpdateConfig) -> Succession:
    """Make a candidate and hold it against the running model: it may follow where the result has no `refusals`.

    Args:
        config: a checked recipe of an update.

    Raises:
        TamisError: what stopped the update, in one sentence; what was done stays done.
    """
    steps = update_stages.UpdateStages(config)
    with Workspace(config.out, until="report") as work:
        # What people said since joins the rows of before; each text is in one split, and stays in it.
        splits = work.run("ingest", steps.ingest_inputs, steps.ingest, steps.load_splits)
        # The running model says what it thinks, over its own categories, and the teacher what it thinks of the misses.
        memory = work.run("label", steps.memory_inputs, steps.remember(splits), steps.load_memory)
        # The student goes on: adapters alone, one row more in the head for a new category, old rows replayed.
        student = work.run("distill", steps.continue_inputs, steps.go_on(splits, memory), steps.load_student)
        # It is calibrated and measured as the student of a run is, and becomes a bundle: the candidate.
        measured = work.run("evaluate", steps.measure_inputs, steps.measure(splits, student), steps.load_measured)
        work.run("export", steps.export_inputs, steps.ship(splits, student, measured), steps.nothing, "bundle")
        # Both are asked about frozen sets, about reviewed rows that were kept back, and one thing at a time.
        found = work.run("compare", steps.compare_inputs, steps.compare(splits, memory), steps.load_found)
        # What was lost, what was missed and why, in words and tables.
        work.run("report", steps.report_inputs, steps.tell(found), steps.nothing)
    return found


def promote(candidate: Path, link: Path, *, anyway: bool = False) -> str:
    """Let a link name a candidate in one step; returns its version. `tamis.ship.switch.roll_back` undoes it.

    Args:
        candidate: folder of a bundle.
        link: what services open.
        anyway: also where the update that made the candidate refused it.

    Raises:
        PromotionError: it was refused.
        BundleError: no sound bundle, or a link that cannot be set.
    """
    if not anyway:
        update_stages.require_allowed(candidate)
    return switch(candidate, link)
