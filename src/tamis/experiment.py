"""Many students from one recipe, measured on the same rows: which knowledge, which rank, and is it more than noise?

What the variants have in common is made once: rows, teacher's answers and states, and the states above frozen layers.
Each student is a process of its own that resumes; one that fails is reported and the others go on.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tamis import models, pipeline
from tamis.config import RunConfig
from tamis.errors import ConfigError, TamisError
from tamis.jobs import GIGABYTE, Job, run_jobs, workers_for
from tamis.judge.baselines import fit_baseline
from tamis.judge.contest.measure import RANK, Candidate, contest
from tamis.judge.contest.report import ContestContext, write_contest
from tamis.judge.result import Speed
from tamis.judge.speed import measure_speed
from tamis.learn.score import scorer_of
from tamis.learn.student import load_student, merged
from tamis.matrix import ExperimentConfig
from tamis.plan import baselines, policy_of
from tamis.policy import Policy
from tamis.recipe import read_tree, variant_of
from tamis.records import Splits
from tamis.stages import Labelled, Stages, signals_scorer, teacher_facts
from tamis.variant import Answers, answers_of, make_variant, write_variant
from tamis.workspace import Workspace, fingerprint, finished

log = logging.getLogger(__name__)
SHARED = ("policy", "data", "teacher", "store")


@dataclass(frozen=True)
class Outcome:
    """The runs of one variant by seed: what its students say, and why the others are missing."""

    config: RunConfig
    answers: dict[int, Answers] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def validation(self) -> float:
        """Mean over the seeds of the best score on the validation split; it, and nothing else, chooses a variant."""
        return statistics.fmean(one.validation for one in self.answers.values()) if self.answers else float("-inf")


def run_experiment(config: ExperimentConfig) -> Path:
    """Train all variants and write the report, whose folder is returned; a killed experiment goes on where it stopped.

    Raises:
        TamisError: what stopped it, in one sentence; a variant that fails stops nothing.
    """
    tree = config.recipe if isinstance(config.recipe, dict) else read_tree(config.recipe)
    base, configs = recipes_of(config, tree)
    out, shared = Path(config.out), Path(base.out)
    steps = Stages(base, policy_of(base))
    with Workspace(out, "report") as work:
        # Rows, and what the teacher says of them, once for all.
        pipeline.run(base, until="label")
        splits, labelled = steps.load_splits(shared / "ingest"), steps.load_labelled(shared / "label")
        # Every student in a process of its own.
        outcomes = train_all(config, configs, steps.policy)
        # All of them, the teacher and the baselines against human labels that nothing was chosen on.
        candidates = candidates_of(config, outcomes, splits, labelled, steps)
        inputs = [config.model_dump(mode="json"), finished(shared, "label")["inputs"], _done(outcomes)]
        report = lambda folder: _report(config, candidates, outcomes, splits, steps, folder)  # noqa: E731
        work.run("report", inputs, report, steps.nothing)
    return out / "report"


def _done(outcomes: Mapping[str, Outcome]) -> Any:
    return {
        name: [sorted(one.answers), {str(seed): why for seed, why in one.failed.items()}]
        for name, one in outcomes.items()
    }


def recipes_of(config: ExperimentConfig, tree: Mapping[str, Any]) -> tuple[RunConfig, dict[str, RunConfig]]:
    """The recipe of what is shared, and of each variant.

    Raises:
        ConfigError: a setting no recipe has, or a variant with other rows or another teacher than the others.
    """
    shared = Path(config.out) / "shared"
    # The store, and the teacher's states beside it, stand with what is shared, not with each variant.
    common = {"store": tree.get("store") or str(shared / "store.sqlite")}
    base = variant_of(tree, common | {"out": str(shared)}, "recipe")
    configs = {}
    for name, variant in config.variants.items():
        settings = common | {"train.frozen_states": str(shared / "states"), "train.report_to": []} | variant.set
        configs[name] = variant_of(tree, settings, f"variants.{name}")
        _check_shared(name, configs[name], base)
    return base, configs


def _check_shared(name: str, config: RunConfig, base: RunConfig) -> None:
    for section in SHARED:
        alone = section == "teacher" and config.teacher.kind == "none"
        if not alone and getattr(config, section) != getattr(base, section):
            raise ConfigError(
                f"variants.{name} changes {section}, which all variants share: make an experiment of its own for it"
                " (a variant without the teacher sets teacher.kind to none)"
            )


def train_all(config: ExperimentConfig, configs: Mapping[str, RunConfig], policy: Policy) -> dict[str, Outcome]:
    """Make every student that is not there yet, several at a time, and gather what all of them say."""
    shared = Path(config.out) / "shared"
    jobs: list[Job] = []
    for seed in config.seeds:  # A seed of every variant before the next one: an early look compares like with like.
        for name, recipe in configs.items():
            folder = _folder(config, name, seed)
            fresh = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})
            if not write_variant(folder, fresh, shared):
                jobs.append(Job(f"{name}, seed {seed}", make_variant, folder))
    failed = _run(jobs, config.workers or workers_for(_memory(configs))) if jobs else {}
    outcomes = {}
    for name, recipe in configs.items():
        folders = {seed: _folder(config, name, seed) for seed in config.seeds}
        reasons = {seed: failed[folder] for seed, folder in folders.items() if folder in failed}
        answers = {seed: answers_of(folder, policy) for seed, folder in folders.items() if seed not in reasons}
        outcomes[name] = Outcome(recipe, answers, reasons)
    return outcomes


def _run(jobs: list[Job], workers: int) -> dict[Path, str]:
    """Run jobs with a bar; returns the reasons of those that failed, by folder."""
    log.info("%d students, %d at a time", len(jobs), workers)
    failed: dict[Path, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("students", total=len(jobs))
        for done in run_jobs(jobs, workers):
            bar.update(task, advance=1, description=done.job.name)
            if done.failed:
                failed[done.job.folder] = done.failed
                log.warning("%s failed: %s", done.job.name, done.failed)
    return failed


def candidates_of(
    config: ExperimentConfig, outcomes: Mapping[str, Outcome], splits: Splits, labelled: Labelled, steps: Stages
) -> list[Candidate]:
    """All models of the contest: the variants, the teacher and the baselines."""
    texts = [example.text for example in splits.test.gold]
    found = [
        Candidate(
            name,
            config.variants[name].group or name[:1],
            {seed: one.scores for seed, one in outcome.answers.items()},
            _facts(outcome),
            failed=outcome.failed,
        )
        for name, outcome in outcomes.items()
    ]
    if labelled.signals:
        told = signals_scorer(labelled.signals, steps.policy)(texts)
        found.append(Candidate("teacher", "teacher", {0: told}, teacher_facts(labelled)))
    for name in baselines(steps.config):
        scorer = fit_baseline(name, splits.train, labelled.signals, steps.policy, steps.lexicon)
        found.append(Candidate(name, "B", {0: scorer(texts)}))
    return found


def _facts(outcome: Outcome) -> dict[str, Any]:
    """Means over the seeds."""
    runs = list(outcome.answers.values())
    return {key: statistics.fmean(run.facts[key] for run in runs) for key in (runs[0].facts if runs else ())}


def with_ranks(candidates: list[Candidate], outcomes: Mapping[str, Outcome]) -> list[Candidate]:
    """Candidates of the curve of ranks with their rank: group `rank`, and those that differ from one in rank alone."""
    alike = {_but_rank(one.config) for name, one in outcomes.items() if _group(candidates, name) == RANK}
    ranks = {n: one.config.student.lora.rank for n, one in outcomes.items() if _but_rank(one.config) in alike}
    return [
        replace(one, facts={**one.facts, RANK: ranks[one.name]}) if one.name in ranks else one for one in candidates
    ]


def _group(candidates: list[Candidate], name: str) -> str:
    return next(one.group for one in candidates if one.name == name)


def _but_rank(config: RunConfig) -> str:
    settings = config.model_dump(mode="json", exclude={"student": {"lora": {"rank", "alpha"}}})
    return fingerprint(settings)


def _timed(
    config: ExperimentConfig, candidates: list[Candidate], outcomes: Mapping[str, Outcome], splits: Splits
) -> list[Candidate]:
    """Candidates with their speed; students of one architecture are timed once, one after another."""
    speeds: dict[str, Speed] = {}
    texts = [example.text for example in splits.test.gold]
    timed = []
    for one in candidates:
        outcome = outcomes.get(one.name)
        if outcome is None or not outcome.answers:
            timed.append(one)
            continue
        student = outcome.config.student
        key = fingerprint([student.model, student.mode, student.max_tokens, one.facts.get("parameters")])
        if key not in speeds:
            folder = _folder(config, one.name, min(outcome.answers)) / "distill"
            scorer = scorer_of(merged(load_student(folder)))
            speeds[key] = measure_speed(scorer, texts, outcome.config.evaluate.latency_rows)
        timed.append(replace(one, speed=speeds[key]))
    return timed


def _report(
    config: ExperimentConfig,
    candidates: list[Candidate],
    outcomes: Mapping[str, Outcome],
    splits: Splits,
    steps: Stages,
    out: Path,
) -> None:
    students = [name for name in outcomes if name != config.against and outcomes[name].answers]
    best = max(students, key=lambda name: outcomes[name].validation, default=None)
    told = with_ranks(_timed(config, candidates, outcomes, splits), outcomes)
    found = contest(told, splits.test, steps.policy, steps.config.evaluate, config.against, best)
    spent, alone = cost_of(config, outcomes)
    context = ContestContext(
        name=config.name,
        settings=config.model_dump(mode="json"),
        texts={row.id: row.text for row in splits.test.gold},
        spent_seconds=spent,
        alone_seconds=alone,
    )
    write_contest(found, context, out, steps.config.report)
    log.info("report: %s", out / "report.html")


def cost_of(config: ExperimentConfig, outcomes: Mapping[str, Outcome]) -> tuple[float, float]:
    """Seconds of the machine that the experiment took, and that its runs would have taken one by one.

    A run on one of several places uses that part of the machine. Alone, each run would have prepared its rows, and with
    a teacher labelled them; what it would have spent on frozen layers is not counted: the saving is no less than said.
    """
    prepared, labelled = (finished(Path(config.out) / "shared", stage)["seconds"] for stage in ("ingest", "label"))
    places = config.workers or workers_for(_memory({n: one.config for n, one in outcomes.items()}))
    runs = [(one.config, run.seconds / places) for one in outcomes.values() for run in one.answers.values()]
    spent = prepared + labelled + sum(seconds for _, seconds in runs)
    alone = sum(prepared + (labelled if c.teacher.kind != "none" else 0) + seconds for c, seconds in runs)
    return spent, alone


def _memory(configs: Mapping[str, RunConfig]) -> int:
    """Bytes that the largest student needs while it is trained: weights, what is added to them, and the libraries."""
    sizes = [0]
    for name in {config.student.model for config in configs.values()}:
        try:
            folder = models.training_folder(name)
        except TamisError:
            continue  # Its variants will fail and say why.
        sizes.append(sum(path.stat().st_size for path in folder.glob("*.safetensors")))
    return 3 * max(sizes) + GIGABYTE


def _folder(config: ExperimentConfig, name: str, seed: int) -> Path:
    return Path(config.out) / "variants" / f"{name}-{seed}"
