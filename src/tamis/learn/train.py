"""The training loop: staged by epochs, selected on validation, and resumable to the same weights."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tamis.config import ObjectiveConfig, TrainConfig
from tamis.errors import TrainingError
from tamis.learn.batches import Rows, batches, micro_batches, rows_of
from tamis.learn.objective import Objective
from tamis.learn.score import Quality, labelled, quality_of
from tamis.learn.student import Student
from tamis.learn.trunk import Trunk
from tamis.network import frozen_layers, is_decoder, mixed_precision, pad, parameters_of
from tamis.records import TeacherSignal, TrainSplit, ValidationSplit

log = logging.getLogger(__name__)
BALANCE = 0.05
USUAL_RATES = {"encoder": 1e-3, "decoder": 5e-4, "full": 2e-5}


@dataclass
class State:
    """Where training stands; saved with the weights, so a killed run goes on as if nothing had happened."""

    step: int = 0
    best: Quality | None = None
    stale: int = 0
    stopped: bool = False
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One training run in one folder.

    Args:
        student: built fresh; left with the best weights.
        rows: what is learnt.
        validation: chooses the checkpoint; a test split is refused.
        objective: the weighted losses.
        config: how.
        out: folder of checkpoints and logs.

    Raises:
        TrainingError: a split of another type, or one without a human label.
    """

    def __init__(
        self,
        student: Student,
        rows: Rows,
        validation: ValidationSplit,
        objective: Objective,
        config: TrainConfig,
        out: Path,
    ) -> None:
        if not isinstance(validation, ValidationSplit):
            raise TrainingError(f"a checkpoint is chosen on a ValidationSplit, got a {type(validation).__name__}")
        labelled(validation)  # An epoch later would be a late moment to find that there is none.
        self.student, self.rows, self.validation = student, rows, validation
        self.objective, self.config, self.out = objective, config, out
        self.state = State()
        self.trunk: Trunk | None = None
        self.lengths = [len(row) for row in rows.ids]
        self.accelerator = Accelerator(
            log_with=list(config.report_to) or None, project_dir=out, cpu=not torch.cuda.is_available()
        )
        self.per_epoch = math.ceil(len(rows) / (config.batch_size * self.accelerator.num_processes))
        self.steps = max(1, math.ceil(config.epochs * self.per_epoch))
        self.optimizer = torch.optim.AdamW(self._groups())
        self.network, self.optimizer = self.accelerator.prepare(student.network, self.optimizer)

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
        self._resume()
        depth = frozen_layers(self.student.network)
        if depth and self.state.step < self.steps:
            self.trunk = Trunk(self.student.network, depth, self.rows.ids, self.config.precision, self.out)
        self.accelerator.init_trackers("training")
        saved = started = time.monotonic()
        before = self.state.seconds
        with self._bar() as bar:
            task = bar.add_task("training", total=self.steps, completed=self.state.step, note="")
            while self.state.step < self.steps and not self.state.stopped:
                values = self._step()
                bar.update(task, advance=1, note=f"loss {sum(values.values()):.3f}")
                self.state.seconds = before + time.monotonic() - started
                evaluated = self._evaluate_if_due(values)
                if evaluated or time.monotonic() - saved >= self.config.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
        self.accelerator.end_training()
        self.student.load(self.best_path)
        return self.state

    def _step(self) -> dict[str, float]:
        """One optimiser step; returns the value of each term."""
        self.network.train()
        epoch, place = divmod(self.state.step, self.per_epoch)
        # Dropout depends on the step alone, so a resumed run draws the same masks.
        torch.manual_seed(self.config.seed * 1_000_003 + self.state.step)
        self._set_rate()
        batch = self._batch(epoch, place)
        values: dict[str, float] = {}
        for part, total, last in self._parts(batch):
            with self._unsynchronised(last), mixed_precision(self.accelerator.device, self.config.precision):
                logits = self._logits(part)
                terms = self.objective.terms(logits, self.rows.targets.at(part), total)
                if self.state.step == 0 and not values:
                    self._report_balance(terms)
                self.accelerator.backward(sum(terms.values(), logits.sum() * 0) * self.accelerator.num_processes)
            for name, value in terms.items():
                values[name] = values.get(name, 0.0) + value.item()
        self._apply(values)
        return values

    def _logits(self, part: list[int]) -> Tensor:
        ids, mask = pad([self.rows.ids[i] for i in part])
        with self.trunk.of(part) if self.trunk else nullcontext():
            return self.network(ids.to(self.accelerator.device), mask.to(self.accelerator.device))

    def _apply(self, values: Mapping[str, float]) -> None:
        if not all(map(math.isfinite, values.values())):
            raise TrainingError(f"the loss is {dict(values)} at step {self.state.step}: lower train.learning_rate")
        if self.state.step == 0:
            self._check_gradients()
        self.accelerator.clip_grad_norm_(self._trained(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.step += 1

    def _batch(self, epoch: int, place: int) -> list[int]:
        """Rows of one step over all workers."""
        size = self.config.batch_size * self.accelerator.num_processes
        return batches(len(self.rows), size, self.config.seed, epoch)[place]

    def _parts(self, batch: list[int]) -> Iterator[tuple[list[int], float, bool]]:
        """This worker's micro-batches, the number of rows of the whole batch, and whether it is the last one."""
        own, total = batch[self.accelerator.process_index :: self.accelerator.num_processes], float(len(batch))
        if not own:
            # A worker without rows takes part with a gradient of zero.
            own, total = batch[:1], math.inf
        parts = list(micro_batches(own, self.lengths, self.config.micro_tokens, self.config.accumulate))
        for i, part in enumerate(parts):
            yield part, total, i == len(parts) - 1

    def _evaluate_if_due(self, values: Mapping[str, float]) -> bool:
        every = max(1, self.per_epoch // self.config.evaluations)
        if self.state.step % every and self.state.step != self.steps:
            self.accelerator.log({f"loss/{name}": value for name, value in values.items()}, step=self.state.step)
            return False
        quality = quality_of(self.student, self.validation, self.config.recall_floor)
        entry = {"step": self.state.step, "epoch": self.state.step / self.per_epoch, **values, **asdict(quality)}
        self.state.history.append(entry)
        self.accelerator.log(entry, step=self.state.step)
        log.info("step %d: %s", self.state.step, json.dumps(entry))
        if self.state.best is None or quality.beats(self.state.best):
            self.state.best, self.state.stale = quality, 0
            save_file({k: v.contiguous() for k, v in self.student.trained().items()}, self.best_path)
        else:
            self.state.stale += 1
            self.state.stopped = self.state.stale >= self.config.patience
        return True

    def _report_balance(self, terms: Mapping[str, Tensor]) -> None:
        """Log each term's value and gradient norm at the head; far apart, one of them does nothing."""
        weight = self.student.network.head.weight
        norms = {name: float(torch.autograd.grad(t, weight, retain_graph=True)[0].norm()) for name, t in terms.items()}
        log.info("loss terms at step 1: %s", {n: (round(t.item(), 5), round(norms[n], 5)) for n, t in terms.items()})
        smallest, largest = min(norms.values()), max(norms.values())
        ratio = smallest / largest if largest else 1.0
        if ratio < BALANCE:
            log.warning("a loss term's gradient is %.4f of another's: it will hardly matter, check its weight", ratio)

    def _check_gradients(self) -> None:
        """Every adapter must get a gradient; with frozen inputs and checkpointing it can silently be none."""
        silent = [n for n, p in self.student.network.named_parameters() if p.requires_grad and p.grad is None]
        if silent:
            raise TrainingError(
                f"no gradient reaches {len(silent)} trained weights, first {silent[0]}: this setup cannot learn"
            )

    def _groups(self) -> list[dict[str, object]]:
        peak = self.config.learning_rate or usual_rate(self.student)
        groups = []
        for rate, inside in ((peak, False), (self.config.head_learning_rate or peak, True)):
            params = [
                (n, p)
                for n, p in self.student.network.named_parameters()
                if p.requires_grad and n.startswith("head.") == inside
            ]
            for decay, wide in ((self.config.weight_decay, True), (0.0, False)):
                chosen = [p for _, p in params if (p.ndim > 1) == wide]
                if chosen:
                    groups.append({"params": chosen, "lr": rate, "peak": rate, "weight_decay": decay})
        return groups

    def _trained(self) -> list[Tensor]:
        return [p for p in self.student.network.parameters() if p.requires_grad]

    def _set_rate(self) -> None:
        factor = rate_factor(self.state.step, self.steps, self.config.warmup, self.config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def _unsynchronised(self, last: bool) -> nullcontext[None]:
        return nullcontext() if last else self.accelerator.no_sync(self.network)

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors = dict(self.student.trained())
        names = {id(p): n for n, p in self.student.network.named_parameters()}
        for param, moments in self.optimizer.state.items():
            tensors |= {f"{key}/{names[id(param)]}": moments[key] for key in ("exp_avg", "exp_avg_sq")}
        fresh = self.progress_path.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, fresh, {"state": json.dumps(asdict(self.state))})
        fresh.replace(self.progress_path)

    def _resume(self) -> None:
        if not self.progress_path.is_file():
            return
        with safe_open(self.progress_path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        weights = {n: t for n, t in tensors.items() if "/" not in n}
        if set(weights) != set(self.student.trained()):
            raise TrainingError(f"{self.progress_path} is of another student: remove the folder to train again")
        self.student.network.load_state_dict(weights, strict=False)
        for name, param in self.student.network.named_parameters():
            if param.requires_grad:
                moments = {key: tensors[f"{key}/{name}"] for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[param] = {"step": torch.tensor(float(state["step"])), **moments}
        best = Quality(**state.pop("best")) if state["best"] else state.pop("best")
        self.state = State(best=best, **state)

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
    signals: Mapping[str, TeacherSignal],
    objective: ObjectiveConfig,
    config: TrainConfig,
    out: Path,
) -> State:
    """Train a fresh student on human labels and teacher signals.

    Raises:
        TrainingError: nothing to learn from, or training that cannot go on.
    """
    rows = rows_of(split.examples, signals, student.encoder, student.policy)
    if rows.long:
        log.warning("%d of %d rows are longer than a window and are learnt from their first one", rows.long, len(rows))
    soft, hard = int(rows.targets.has_soft.sum()), int(rows.targets.has_hard.sum())
    policy = student.policy
    terms = Objective(objective, policy.kind, policy.ids.index(policy.benign), distils=soft > 0)
    state = Trainer(student, rows, validation, terms, config, out).run()
    trained = parameters_of(student.network)[1]
    student.facts.update(trainable_parameters=trained, soft_rows=soft, hard_rows=hard)
    return state
