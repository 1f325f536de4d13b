"""What a recipe asks for, before any of it is done: its runs, what is refused, and what decides each stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import LoggerType

from tamis.config import ExportConfig, GateConfig, RunConfig, TeachingConfig, ThresholdsConfig
from tamis.data.sources import files, is_local
from tamis.errors import ConfigError
from tamis.judge.baselines import BASELINES, NAMES, TOLD
from tamis.learn.losses import LOSSES
from tamis.learn.schedule import compares_states
from tamis.policy import Policy, load_policy
from tamis.records import Example, digest_of


def chain(config: RunConfig) -> list[RunConfig]:
    """The runs of a recipe: one for each assistant, then its own, each with the bundle before as the teacher.

    Teacher assistants: Mirzadeh et al., 2020, arXiv 1902.03393. An assistant is asked about the rows without a human
    label alone, since it has learnt the others by heart.
    """
    runs, teacher = [], config.teacher
    for number, assistant in enumerate(config.assistants, 1):
        out = Path(config.out) / f"assistant{number}"
        own = {name: getattr(assistant, name) for name in ("student", "objective", "train")}
        alone = {"name": f"{config.name}, assistant {number}", "out": str(out), "gate": GateConfig(), "assistants": ()}
        # It is served to nobody, and by torch alone it shows the hidden states that the next one may learn from.
        alone |= {"export": ExportConfig(), "thresholds": ThresholdsConfig()}
        runs.append(config.model_copy(update={"teacher": teacher} | own | alone))
        kept = config.teacher.model_dump(include={"limit", "features", "live"})
        teacher = TeachingConfig(kind="bundle", model=str(out / "bundle"), label="unlabelled", self_check=0, **kept)
    return [*runs, config.model_copy(update={"teacher": teacher, "assistants": ()})]


def policy_of(config: RunConfig) -> Policy:
    """The policy a recipe names, with the categories it keeps."""
    policy = load_policy(config.policy.path)
    return policy.only(config.policy.only) if config.policy.only else policy


def ingest_inputs(config: RunConfig, policy: Policy) -> Any:
    """What decides the splits: settings, policy, and what the files hold now."""
    local = [path for source in config.data.sources if is_local(source) for path in files(source)]
    # Not a time stamp: a copy, a checkout or a fresh mount of the same bytes would have everything done again.
    held = [[str(path), digest_of(path)] for path in local]
    # What a category is called elsewhere changes no model.
    judged = policy.model_dump(mode="json", exclude={"categories": {"__all__": {"counterparts"}}})
    return [config.data.model_dump(mode="json"), judged, held]


def label_inputs(config: RunConfig) -> Any:
    """What decides the teachers' answers: settings, and their weights where they are local files."""
    held = [_weights(teacher.model) for teacher in (config.teacher, *config.teacher.members)]
    return [config.teacher.model_dump(), config.report.language, held]


def _weights(model: str) -> str | None:
    manifest = Path(model) / "manifest.json"
    weights = manifest if manifest.is_file() else Path(model)
    return digest_of(weights) if weights.is_file() else None


def check(config: RunConfig) -> None:
    """Refuse names that no registry has before any work is done.

    Raises:
        ConfigError: an unknown baseline, loss or tracker, or a baseline of the labels of no teacher.
    """
    named: dict[str, tuple[str, Iterable[str], Iterable[str]]] = {
        "evaluate.baselines": ("baseline", baselines(config), NAMES),
        "objective.distill": ("loss", config.objective.distill, LOSSES),
        "train.stages": ("loss", [name for stage in config.train.stages for name in stage.distill or ()], LOSSES),
        "train.report_to": ("tracker", config.train.report_to, LoggerType.list()),
    }
    for setting, (what, names, known) in named.items():
        for name in names:
            if name not in known:
                raise ConfigError(f"{setting} names no {what} {name!r}; there are {', '.join(known)}")
    for name in baselines(config):
        if name.endswith(TOLD) and config.teacher.kind == "none":
            bare = name.removesuffix(TOLD)
            raise ConfigError(f"evaluate.baselines names {name!r} and there is no teacher: set one, or name {bare!r}")
    if compares_states(config.objective, config.train):
        _check_layers(config)


def _check_layers(config: RunConfig) -> None:
    """A term over hidden states needs a teacher that shows its own, of the layers it names."""
    if config.teacher.kind not in ("bundle", "transformers"):
        raise ConfigError(
            f"objective.distill compares hidden states, which a teacher of kind {config.teacher.kind} does not show:"
            " use kind bundle or transformers, or terms over answers"
        )
    for theirs, _ in config.objective.layers:
        if theirs not in config.teacher.features:
            raise ConfigError(
                f"objective.layers compares layer {theirs} of the teacher and teacher.features keeps"
                f" {list(config.teacher.features)}: add it there"
            )


def baselines(config: RunConfig) -> tuple[str, ...]:
    """The baselines named, or all of them; with a teacher also the linear model of its labels, a hard one to beat."""
    if config.evaluate.baselines is not None:
        return config.evaluate.baselines
    return (*BASELINES, *(["svm_teacher"] if config.teacher.kind != "none" else []))


def distil_inputs(config: RunConfig) -> Any:
    """What decides the student; where progress is reported to and how often it is saved do not."""
    idle = {"report_to", "checkpoint_seconds", "frozen_states"}
    return [config.student.model_dump(), config.objective.model_dump(), config.train.model_dump(exclude=idle)]


def to_label(examples: Sequence[Example], config: RunConfig) -> list[Example]:
    """The training rows the teacher is asked about."""
    rows = [example for example in examples if config.teacher.label == "all" or not example.is_gold]
    # Ids are hashes: in their order a limit takes a sample, where the order of the files would take the first class.
    return sorted(rows, key=lambda example: example.id)[: config.teacher.limit]
