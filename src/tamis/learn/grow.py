"""A student that goes on: with its own adapters or new ones, and a row more in the head for each new category."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tamis.config import LoraConfig, StudentConfig
from tamis.errors import TrainingError
from tamis.learn.learner import Learner
from tamis.learn.student import Student, student_on
from tamis.network import Pooling, mixed_precision, pad
from tamis.policy import Policy
from tamis.records import Example
from tamis.windows import Encoder, by_length

TOKENS = 4096
TINY = 1e-12


@dataclass(frozen=True)
class Merged:
    """A student of which only the merged weights are left.

    `base` is a transformers folder, `head` the file of the head.
    """

    base: Path
    head: Path
    encoder: Encoder
    policy: Policy
    pooling: Pooling


def on_merged(weights: Merged, lora: LoraConfig, seed: int = 0) -> Student:
    """A student that says what merged weights say, with adapters that have learnt nothing yet.

    Raises:
        WeightsError: the folder holds no model.
        ConfigError: LoRA targets that the base does not have.
    """
    config = StudentConfig(
        model=str(weights.base),
        lora=lora,
        max_tokens=weights.encoder.max_tokens,
        template=weights.encoder.template,
        pooling=weights.pooling,
    )
    student = student_on(weights.encoder, config, weights.policy, seed)
    student.network.head.load_state_dict(load_file(weights.head))
    return student


def grown(student: Student, policy: Policy, examples: Sequence[Example]) -> Student:
    """The student under a policy that may have more categories; its network is changed in place.

    What the head says of an old category stays as it was to the last bit. The row of a new one points from the mean
    state of all examples to the mean of its own, as weight imprinting has it (Qi, Brown and Lowe, 2018,
    arXiv 1712.07136), with the norm the other rows have; its bias makes it as likely, at the mean of all, as it is
    frequent among them.

    Args:
        student: of the old policy.
        policy: the new one, see `Policy.grown_from`.
        examples: training rows, of which some belong to each new category.

    Raises:
        PolicyError: a policy that has not only grown.
        TrainingError: a new category without an example.
    """
    added = policy.grown_from(student.policy)
    if not added:
        return replace(student, policy=policy)
    judged = [example for example in examples if example.is_labelled]
    belongs = {name: [bool(policy.verdicts(example).get(name)) for example in judged] for name in added}
    for name, where in belongs.items():
        if not any(where):
            raise TrainingError(
                f"category {name} is new and none of the {len(judged)} labelled training rows is of it: label some"
            )
    states, old = _states(student, judged), student.network.head
    head = nn.Linear(old.in_features, len(policy.ids)).to(old.weight)
    with torch.no_grad():
        for place, name in enumerate(policy.ids):
            if name in added:
                row = _imprinted(states, torch.tensor(belongs[name]), student)
            else:
                kept = student.policy.ids.index(name)
                row = old.weight[kept], old.bias[kept]
            head.weight[place], head.bias[place] = row
    student.network.head = head
    return replace(student, policy=policy)


def _imprinted(states: Tensor, own: Tensor, student: Student) -> tuple[Tensor, Tensor]:
    """Weight, (width,), and bias of a new category from states, (rows, width), of which some are its `own`, (rows,)."""
    head, every = student.network.head, states.mean(0)
    apart = states[own].mean(0) - every
    weight = apart / apart.norm().clamp(min=TINY) * head.weight.norm(dim=1).mean()
    rivals = head(every).logsumexp(-1) if student.policy.kind == "single_label" else every.new_zeros(())
    odds = math.log(int(own.sum()) / (int((~own).sum()) + 1))
    return weight, rivals + odds - weight @ every


@torch.no_grad()
def _states(student: Student, examples: Sequence[Example]) -> Tensor:
    """What the head reads of each example's first window, (rows, width)."""
    windows = student.encoder.encode([example.text for example in examples])
    ids = [windows.ids[i] for i in np.unique(windows.owner, return_index=True)[1]]
    learner = Learner(student.network).eval()
    device = student.network.head.weight.device
    found = torch.empty(len(ids), student.network.head.in_features, device=device)
    for batch in by_length([len(row) for row in ids], TOKENS):
        with mixed_precision(device):
            found[batch] = learner(*(part.to(device) for part in pad([ids[i] for i in batch]))).state.float()
    return found
