"""Which rows are learnt from, in which batches: functions of the seed alone, so a killed run finds its place again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tamis.errors import TrainingError
from tamis.learn.objective import Targets
from tamis.policy import Policy
from tamis.records import Example, TeacherSignal
from tamis.windows import Encoder, by_length

States = Callable[[Sequence[Example]], npt.NDArray[np.float16]]
"""A teacher's hidden states of some examples, (rows, layers, width); a row it has none of is NaN."""


@dataclass(frozen=True)
class Knowledge:
    """What a teacher gives: its answers by example id, and its hidden states where the objective compares them.

    `policy` is that of the teacher where it knows only some of the student's categories.
    """

    signals: Mapping[str, TeacherSignal] = field(default_factory=dict)
    states: States | None = None
    policy: Policy | None = None


@dataclass(frozen=True)
class Rows:
    """Token ids and targets of all rows that have a target, in one order.

    `long` counts the rows that are longer than a window; they are learnt from their first one.
    """

    ids: list[list[int]]
    targets: Targets
    examples: tuple[Example, ...]
    long: int

    def __len__(self) -> int:
        return len(self.ids)


def rows_of(
    examples: Sequence[Example],
    signals: Mapping[str, TeacherSignal],
    encoder: Encoder,
    policy: Policy,
    told: Policy | None = None,
) -> Rows:
    """Match examples and signals by content id and encode them.

    Args:
        examples: in their order.
        signals: by example id.
        encoder: the student's.
        policy: the student's.
        told: the teacher's, where it knows only some of the student's categories.

    Raises:
        TrainingError: no row has a target, or a signal belongs to another example or label space.
    """
    told = told or policy
    usable = [e for e in examples if answered(signals.get(e.id), e, told) or e.is_gold]
    if not usable:
        raise TrainingError(
            "no training row has a human label, a risk score or a teacher's answer: label first, or add gold"
        )
    windows = encoder.encode([example.text for example in usable])
    first = np.unique(windows.owner, return_index=True)[1]
    soft = torch.stack([_soft(signals.get(example.id), policy, told) for example in usable])
    hard = torch.stack([_hard(example, policy) for example in usable])
    score = torch.tensor([float("nan") if e.score is None else e.score for e in usable])
    ids = [windows.ids[i] for i in first]
    long = int((np.bincount(windows.owner) > 1).sum())
    return Rows(ids, Targets(soft, hard, score=score), tuple(usable), long)


def answered(signal: TeacherSignal | None, example: Example, policy: Policy) -> bool:
    """Whether the teacher has said something of this example that can be learnt.

    Raises:
        TrainingError: the signal is of another example or label space.
    """
    if signal is None:
        return False
    if signal.example_id != example.id or signal.label_space != policy.label_space:
        raise TrainingError(
            f"the signal for {example.id} is of {signal.example_id} in another label space: label again"
        )
    return signal.outcome == "ok"


def _soft(signal: TeacherSignal | None, policy: Policy, told: Policy) -> Tensor:
    if signal is None or signal.outcome != "ok":
        return torch.full((len(policy.ids),), float("nan"))
    known = {name: signal.probabilities.get(name, 0.0) for name in told.ids}
    return torch.tensor([known.get(name, float("nan")) for name in policy.ids])


def _hard(example: Example, policy: Policy) -> Tensor:
    if policy.kind != "multi_label":
        return torch.tensor(-1 if example.label is None else policy.ids.index(example.label))
    judged = policy.verdicts(example)
    return torch.tensor([float(judged.get(name, "nan")) for name in policy.ids])


def batches(count: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    """Random batches of one epoch: every row once, the last batch may be smaller."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return [order[start : start + size] for start in range(0, count, size)]


def micro_batches(batch: Sequence[int], lengths: Sequence[int], tokens: int, parts: int) -> Iterator[list[int]]:
    """Cut one batch into parts of similar length: little padding, and still the gradient of a random batch."""
    most = max(1, len(batch) // parts)
    for group in by_length([lengths[i] for i in batch], tokens):
        for start in range(0, len(group), most):
            yield [batch[i] for i in group[start : start + most]]
