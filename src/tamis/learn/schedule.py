"""Which rows, which weights and which layers at which step: stages laid end to end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tamis.config import ObjectiveConfig, StageConfig, TrainConfig
from tamis.errors import TrainingError
from tamis.learn.losses import FEATURE, RELATION
from tamis.learn.objective import Targets, Weights, weights_of


@dataclass(frozen=True)
class Stage:
    """A stretch of steps.

    `start` and `steps` count optimiser steps, `epoch` the passes before it. `rows` are places in `Rows`. Over the first
    `ramp` steps the weights move from `before` to `weights`.
    """

    start: int
    steps: int
    epoch: int
    per_epoch: int
    rows: tuple[int, ...]
    before: Weights
    weights: Weights
    ramp: int
    layers: int | None

    @property
    def end(self) -> int:
        """The step after its last one."""
        return self.start + self.steps

    def place(self, step: int) -> tuple[int, int]:
        """Epoch, counted over all stages, and the batch in it."""
        epoch, place = divmod(step - self.start, self.per_epoch)
        return self.epoch + epoch, place

    def weights_at(self, step: int) -> Weights:
        """Weights at a step; a term that one side lacks has weight 0 there."""
        share = min(1.0, (step - self.start + 1) / self.ramp) if self.ramp else 1.0
        names = dict.fromkeys((*self.before, *self.weights))
        return {n: (1 - share) * self.before.get(n, 0.0) + share * self.weights.get(n, 0.0) for n in names}


def plan(objective: ObjectiveConfig, config: TrainConfig, targets: Targets, rows_a_step: int) -> tuple[Stage, ...]:
    """The stages of a run; without `train.stages` a single one.

    Args:
        objective: what a stage does not say.
        config: stages, or epochs.
        targets: of all rows.
        rows_a_step: over all workers.

    Raises:
        TrainingError: a stage that no row can be learnt in.
    """
    soft, hard = targets.has_soft.tolist(), targets.has_hard.tolist()
    stages: list[Stage] = []
    for number, wanted in enumerate(config.stages or (StageConfig(epochs=config.epochs),), 1):
        weights = weights_of(_objective(objective, wanted), distils=any(soft))
        rows = _rows(wanted, weights, soft, hard)
        if not rows:
            raise TrainingError(
                f"stage {number} of training has no row to learn from: its rows are {wanted.rows}, its alpha is"
                f" {weights['alpha']:g} and its beta {weights['beta']:g}"
            )
        per_epoch = math.ceil(len(rows) / rows_a_step)
        steps = max(1, math.ceil(wanted.epochs * per_epoch))
        last = stages[-1] if stages else None
        stages.append(
            Stage(
                start=last.end if last else 0,
                steps=steps,
                epoch=last.epoch + math.ceil(last.steps / last.per_epoch) if last else 0,
                per_epoch=per_epoch,
                rows=rows,
                before=last.weights if last else dict.fromkeys(weights, 0.0),
                weights=weights,
                ramp=round(wanted.ramp * steps),
                layers=wanted.layers,
            )
        )
    return tuple(stages)


def compares_states(objective: ObjectiveConfig, config: TrainConfig) -> bool:
    """Whether any stage has a term over the teacher's hidden states."""
    stages = config.stages or (StageConfig(epochs=config.epochs),)
    names = {name for stage in stages for name, weight in _objective(objective, stage).distill.items() if weight}
    return bool(names & FEATURE.keys()) or (objective.relate == "hidden" and bool(names & RELATION.keys()))


def _objective(objective: ObjectiveConfig, stage: StageConfig) -> ObjectiveConfig:
    own = stage.model_dump(include={"alpha", "beta", "distill"}, exclude_none=True)
    return objective.model_copy(update=own)


def _rows(stage: StageConfig, weights: Weights, soft: Sequence[bool], hard: Sequence[bool]) -> tuple[int, ...]:
    """Rows that the stage wants and whose labels weigh something in it."""
    learnt = [(weights["alpha"] > 0 and s, weights["beta"] > 0 and h) for s, h in zip(soft, hard, strict=True)]
    wanted = {"all": any, "signals": lambda pair: pair[0], "gold": lambda pair: pair[1]}[stage.rows]
    return tuple(i for i, pair in enumerate(learnt) if wanted(pair))
