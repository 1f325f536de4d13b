"""The training loop: in stages, selected on validation, and resumable to the same weights."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from tamis.config import ObjectiveConfig, TrainConfig
from tamis.errors import TrainingError
from tamis.learn.batches import Knowledge, Rows, States, batches, micro_batches, rows_of
from tamis.learn.learner import Learner, Seen
from tamis.learn.losses import FEATURE, RELATION, RISK_RELATION
from tamis.learn.objective import Objective, Targets, Weights
from tamis.learn.pclora import compressed, fade, faded
from tamis.learn.progress import State, load_progress, save_progress, save_tensors
from tamis.learn.schedule import Stage, plan
from tamis.learn.score import Quality, deciding, quality_of
from tamis.learn.student import Student, hold_still
from tamis.learn.trunk import Trunk, constant_depth
from tamis.network import is_decoder, layers_of, logits_of, mixed_precision, pad
from tamis.records import TrainSplit, ValidationSplit

log = logging.getLogger(__name__)
BALANCE = 0.05
RELATIONS = (*RELATION, *RISK_RELATION)
USUAL_RATES = {"encoder": 1e-3, "decoder": 5e-4, "full": 2e-5}


class Trainer:
    """One training run in one folder.

    Args:
        student: built fresh; left with the best weights.
        rows: what is learnt.
        validation: chooses the checkpoint; a test split is refused.
        objective: the losses, their weights and what they compare.
        config: how.
        out: folder of checkpoints and logs.
        states: the teacher's hidden states, where the objective compares them.

    Raises:
        TrainingError: a split of another type or without a human verdict, or a stage or layer that cannot be.
    """

    def __init__(
        self,
        student: Student,
        rows: Rows,
        validation: ValidationSplit,
        objective: ObjectiveConfig,
        config: TrainConfig,
        out: Path,
        states: States | None = None,
    ) -> None:
        if not isinstance(validation, ValidationSplit):
            raise TrainingError(f"a checkpoint is chosen on a ValidationSplit, got a {type(validation).__name__}")
        self.student, self.rows, self.validation = student, rows, validation
        self.config, self.out, self.states = config, out, states
        policy = student.policy
        self.objective = Objective(objective, policy.kind, policy.harm)
        self.state = State()
        self.asked = student.encoder.encode([example.text for example in deciding(validation)])
        self.trunk: Trunk | None = None
        self.held: Trunk | None = None
        self.lengths = [len(row) for row in rows.ids]
        self.accelerator = _accelerator(config, out)
        self.stages = plan(objective, config, rows.targets, config.batch_size * self.accelerator.num_processes)
        self.learner = _learner(student, objective, rows, states, config.seed)
        self.weights = {n: p for n, p in self.learner.named_parameters() if p.requires_grad}
        # In one pass over the weights: with all of an encoder's embedding, several of them are half of a step.
        self.optimizer = torch.optim.AdamW(self._groups(), fused=True)
        self.network, self.optimizer = self.accelerator.prepare(self.learner, self.optimizer)

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return self.stages[-1].end

    @property
    def best_path(self) -> Path:
        """File of the best weights so far."""
        return self.out / "best.safetensors"

    @property
    def progress_path(self) -> Path:
        """File of weights, optimiser moments and `State` to go on from."""
        return self.out / "progress.safetensors"

    def run(self) -> State:
        """Train to the end, or go on from the last checkpoint; the student then has the best weights.

        Raises:
            TrainingError: a checkpoint of another student, or a loss that is not a number.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        if self.progress_path.is_file():
            self.state = load_progress(self.progress_path, self.weights, self.optimizer)
        self.accelerator.init_trackers("training")
        with self._bar() as bar:
            task = bar.add_task("training", total=self.steps, completed=self.state.step, note="")
            for stage in self.stages:
                if self.state.step < stage.end:
                    self._run_stage(stage, lambda note: bar.update(task, completed=self.state.step, note=note))
        self.accelerator.wait_for_everyone()  # The best weights are one worker's to write and every worker's to read.
        self.student.load(self.best_path)
        self.accelerator.end_training()
        return self.state

    def _run_stage(self, stage: Stage, show: Callable[[str], None]) -> None:
        """The steps of a stage that are left; it ends early where the validation score has not risen for long."""
        saved = started = time.monotonic()
        before = self.state.seconds
        self._prepare(stage)
        while self.state.step < stage.end:
            values = self._step(stage)
            self.state.seconds = before + time.monotonic() - started
            evaluated = self._evaluate_if_due(stage, values)
            if self.state.stale >= self.config.patience:
                self.state.step, self.state.stale = stage.end, 0
            show(f"loss {sum(values.values()):.3f}")
            if evaluated or time.monotonic() - saved >= self.config.checkpoint_seconds:
                self._save()
                saved = time.monotonic()

    def _prepare(self, stage: Stage) -> None:
        """Let the adapters below the stage's layers rest, and compute the layers that do not change once."""
        network = self.student.network
        hold_still(self.student, stage.layers)
        depth = constant_depth(network)
        layers = len(layers_of(network.base))
        compared = self.learner.layers if any(stage.weights.get(name) for name in FEATURE) else ()
        for layer in compared:
            if layers + layer < depth:
                raise TrainingError(
                    f"objective.layers compares layer {layer} of the student, which is frozen: adapt more layers"
                    " (student.lora.layers) or compare an upper one"
                )
        self.trunk, self.held = (
            Trunk(network, depth, rows, self.config, self.out) if depth else None
            for rows in (self.rows.ids, self.asked.ids)
        )

    def _step(self, stage: Stage) -> dict[str, float]:
        """One optimiser step; returns the value of each term."""
        self.network.train()
        # Dropout depends on the step alone, so a resumed run draws the same masks.
        torch.manual_seed(self.config.seed * 1_000_003 + self.state.step)
        self._set_rate()
        self._fade()
        weights = stage.weights_at(self.state.step)
        batch = self._batch(stage)
        values: dict[str, float] = {}
        for group, total, last in self._shares(batch, weights):
            with self._unsynchronised(last):
                with mixed_precision(self.accelerator.device, self.config.precision):
                    seen = Seen.joined([self._seen(part) for part in group])
                # Losses are computed in 32 bits: in 16, inner products of a relation lose what tells rows apart.
                terms = self.objective.terms(seen, self._targets([i for part in group for i in part]), total, weights)
                if self.state.step == 0 and not values:
                    self._report_balance(terms)
                self.accelerator.backward(sum(terms.values(), seen.nothing) * self.accelerator.num_processes)
            for name, value in terms.items():
                values[name] = values.get(name, 0.0) + value.item()
        self._apply(values)
        return values

    def _seen(self, part: list[int]) -> Seen:
        ids, mask = pad([self.rows.ids[i] for i in part])
        with self.trunk.of(part) if self.trunk else nullcontext():
            seen: Seen = self.network(ids.to(self.accelerator.device), mask.to(self.accelerator.device))
        return seen

    def _targets(self, rows: list[int]) -> Targets:
        targets = self.rows.targets.at(rows)
        if self.states:
            states = torch.from_numpy(self.states([self.rows.examples[i] for i in rows])).float()
            targets = replace(targets, states=states)
        return targets.to(self.accelerator.device)

    def _apply(self, values: Mapping[str, float]) -> None:
        if not all(map(math.isfinite, values.values())):
            raise TrainingError(f"the loss is {dict(values)} at step {self.state.step}: lower train.learning_rate")
        if self.state.step == 0:
            self._check_gradients()
        self.accelerator.clip_grad_norm_(list(self.weights.values()), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.step += 1

    def _batch(self, stage: Stage) -> list[int]:
        """Rows of one step over all workers."""
        size = self.config.batch_size * self.accelerator.num_processes
        epoch, place = stage.place(self.state.step)
        return [stage.rows[i] for i in batches(len(stage.rows), size, self.config.seed, epoch)[place]]

    def _shares(self, batch: list[int], weights: Weights) -> Iterator[tuple[list[list[int]], float, bool]]:
        """This worker's micro-batches, in groups with one backward pass each; rows of the batch; is it the last group.

        A relation is between all rows of the worker, so its micro-batches are one group; else each is its own.
        """
        own, total = batch[self.accelerator.process_index :: self.accelerator.num_processes], float(len(batch))
        if not own:
            # A worker without rows takes part with a gradient of zero.
            own, total = batch[:1], math.inf
        parts = list(micro_batches(own, self.lengths, self.config.micro_tokens, self.config.accumulate))
        groups = [parts] if any(weights.get(name) for name in RELATIONS) else [[part] for part in parts]
        for i, group in enumerate(groups):
            yield group, total, i == len(groups) - 1

    def _evaluate_if_due(self, stage: Stage, values: Mapping[str, float]) -> bool:
        every = max(1, stage.per_epoch // self.config.evaluations)
        step = self.state.step
        if (step - stage.start) % every and step != stage.end:
            self.accelerator.log({f"loss/{name}": value for name, value in values.items()}, step=step)
            return False
        self._fade()
        # One worker's score decides for all: where sums differ in a last bit, one would stop and the others wait.
        [quality] = broadcast_object_list([self._quality()])
        epoch = stage.epoch + (step - stage.start) / stage.per_epoch
        known = {name: value for name, value in asdict(quality).items() if value is not None}
        entry = {"step": step, "epoch": epoch, **values, **known}
        self.state.history.append(entry)
        self.accelerator.log(entry, step=step)
        log.info("step %d: %s", step, json.dumps(entry))
        if not faded(self.student.network):
            return True  # What still leans on weights that will be gone is no checkpoint, however good.
        if self.state.best is None or quality.beats(self.state.best):
            self.state.best, self.state.stale = quality, 0
            if self.accelerator.is_main_process:
                save_tensors(self.student.trained(), self.best_path)
        else:
            self.state.stale += 1
        return True

    def _quality(self) -> Quality:
        logits = self.held.logits() if self.held else logits_of(self.student.network, self.asked.ids)
        owner, policy = self.asked.owner, self.student.policy
        return quality_of(logits, owner, deciding(self.validation), policy, self.config.recall_floor)

    def _report_balance(self, terms: Mapping[str, Tensor]) -> None:
        """Log each term's value and gradient norm at the trained weights; far apart, one of them does nothing."""
        trained = [weight for weight in self.weights.values() if weight.requires_grad]
        norms = {name: _gradient_norm(term, trained) for name, term in terms.items()}
        log.info("loss terms at step 1: %s", {n: (round(t.item(), 5), round(norms[n], 5)) for n, t in terms.items()})
        smallest, largest = min(norms.values()), max(norms.values())
        ratio = smallest / largest if largest else 1.0
        if ratio < BALANCE:
            log.warning("a loss term's gradient is %.4f of another's: it will hardly matter, check its weight", ratio)

    def _check_gradients(self) -> None:
        """Every adapter must get a gradient; with frozen inputs and checkpointing it can silently be none."""
        silent = [name for name, weight in self.weights.items() if weight.requires_grad and weight.grad is None]
        if silent:
            raise TrainingError(
                f"no gradient reaches {len(silent)} trained weights, first {silent[0]}: this setup cannot learn"
            )

    def _groups(self) -> list[dict[str, object]]:
        peak = self.config.learning_rate or usual_rate(self.student)
        groups = []
        for rate, inside in ((peak, False), (self.config.head_learning_rate or peak, True)):
            params = [p for n, p in self.weights.items() if n.startswith("network.head.") == inside]
            for decay, wide in ((self.config.weight_decay, True), (0.0, False)):
                chosen = [p for p in params if (p.ndim > 1) == wide]
                if chosen:
                    groups.append({"params": chosen, "lr": rate, "peak": rate, "weight_decay": decay})
        return groups

    def _set_rate(self) -> None:
        factor = rate_factor(self.state.step, self.steps, self.config.warmup, self.config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def _fade(self) -> None:
        """Fade what fades as far as it is at this step; a resumed run goes on from there."""
        until = self.steps * self.student.config.pclora.until
        fade(self.student.network, self.state.step / until)

    def _unsynchronised(self, last: bool) -> nullcontext[None]:
        return nullcontext() if last else self.accelerator.no_sync(self.network)

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            save_progress(self.progress_path, self.weights, self.optimizer, self.state)

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=not self.accelerator.is_main_process,
        )


def _accelerator(config: TrainConfig, out: Path) -> Accelerator:
    # With layers that rest for a stage, workers must not wait for the gradients of their adapters.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=any(stage.layers for stage in config.stages))]
    trackers = list(config.report_to) or None
    return Accelerator(log_with=trackers, project_dir=out, cpu=not torch.cuda.is_available(), kwargs_handlers=handlers)


def _learner(student: Student, objective: ObjectiveConfig, rows: Rows, states: States | None, seed: int) -> Learner:
    """The network, with a projection for each pair of layers where a term of any stage compares states."""
    if states is None:
        return Learner(student.network)
    width = states(rows.examples[:1]).shape[-1]
    torch.manual_seed(seed)
    return Learner(student.network, [own for _, own in objective.layers], width)


def _gradient_norm(term: Tensor, weights: Sequence[nn.Parameter]) -> float:
    """Norm of a term's gradient over all weights; those it does not depend on count as 0."""
    found = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
    return float(torch.stack([one.norm() for one in found]).norm())


def usual_rate(student: Student) -> float:
    """Peak learning rate of a recipe that names none; measured in docs/experiments."""
    if student.config.mode == "full":
        return USUAL_RATES["full"]
    return USUAL_RATES["decoder" if is_decoder(student.network.base) else "encoder"]


def rate_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """Share of the peak learning rate at a step (0-based): a linear rise, then linear, cosine or constant."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    left = (steps - step) / max(1, steps - rise)
    if schedule == "cosine":
        return (1 - math.cos(math.pi * left)) / 2
    return left if schedule == "linear" else 1.0


def train(
    student: Student,
    split: TrainSplit,
    validation: ValidationSplit,
    knowledge: Knowledge,
    objective: ObjectiveConfig,
    config: TrainConfig,
    out: Path,
) -> State:
    """Train a student, fresh or one that goes on, on human labels and what a teacher knows.

    Raises:
        TrainingError: nothing to learn from, or training that cannot go on.
    """
    rows = rows_of(split.examples, knowledge.signals, student.encoder, student.policy, knowledge.policy)
    if rows.long:
        log.warning("%d of %d rows are longer than a window and are learnt from their first one", rows.long, len(rows))
    soft, hard = int(rows.targets.has_soft.sum()), int(rows.targets.has_hard.sum())
    state = Trainer(student, rows, validation, objective, config, out, knowledge.states).run()
    trained = sum(weight.numel() for weight in student.trained().values())
    student.facts.update(trainable_parameters=trained, soft_rows=soft, hard_rows=hard, **compressed(student.network))
    return state
