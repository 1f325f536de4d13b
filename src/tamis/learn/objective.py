"""L = alpha * L_distill + beta * L_sup over batches in which rows have a soft label, a hard label or both.

A row's loss is the weighted mean of the parts it has: with both labels alpha and beta as they are, with one label that
part alone, at the full weight of a row. Otherwise a few hundred gold rows among soft ones would count for nothing, or a
few soft rows among gold ones for everything. The mean goes over the rows of the whole optimiser batch, whose number the
caller passes: cutting a batch into smaller parts, or over workers, changes no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.config import ObjectiveConfig
from tamis.learn.losses import LOSSES, SUPERVISED


@dataclass(frozen=True)
class Targets:
    """Targets of some rows.

    `soft`: (rows, categories) teacher probabilities, NaN rows have none. `hard`: (rows,) category indices, -1 has none;
    multi-label: (rows, categories) of 0, 1 and NaN, an all-NaN row has none.
    """

    soft: Tensor
    hard: Tensor

    @property
    def has_soft(self) -> Tensor:
        """(rows,) whether the teacher has answered."""
        return ~self.soft.isnan().any(-1)

    @property
    def has_hard(self) -> Tensor:
        """(rows,) whether a person has judged."""
        return self.hard >= 0 if self.hard.ndim == 1 else ~self.hard.isnan().all(-1)

    def at(self, index: Iterable[int]) -> Targets:
        """The targets of some of the rows."""
        rows = torch.as_tensor(list(index))
        return Targets(self.soft[rows], self.hard[rows])


class Objective:
    """The weighted terms of one run; `distils` is whether any row has a teacher's answer."""

    def __init__(self, config: ObjectiveConfig, kind: str, benign: int, distils: bool) -> None:
        self.config = config
        self.kind = kind
        self.benign = benign
        # Without a teacher the human labels are all there is; their weight is then 1, whatever beta says.
        self.alpha, self.beta = (config.alpha, config.beta) if distils else (0.0, 1.0)

    def terms(self, logits: Tensor, targets: Targets, total: float) -> dict[str, Tensor]:
        """Weighted parts of the loss: logits (rows, categories) and the rows of the whole batch -> name -> number."""
        parts: dict[str, Tensor] = {}
        soft, hard = targets.has_soft, targets.has_hard
        weight = self.alpha * soft + self.beta * hard
        if self.alpha and bool(soft.any()):
            student, teacher = self._outcomes(logits[soft], targets.soft[soft])
            for name, share in self.config.distill.items():
                rows = LOSSES[name](student, teacher, self.config.temperature)
                rows = rows.mean(1) if rows.ndim == 2 else rows
                parts[name] = share * (self.alpha / weight[soft] * rows).sum() / total
        if self.beta and bool(hard.any()):
            rows = SUPERVISED[self.kind](logits[hard], targets.hard[hard], self.config.label_smoothing)
            parts["supervised"] = (self.beta / weight[hard] * rows).sum() / total
        return parts

    def _outcomes(self, logits: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Distributions over the last dimension, benign outcome first."""
        if self.kind == "multi_label":
            return torch.stack([torch.zeros_like(logits), logits], -1), torch.stack([1 - teacher, teacher], -1)
        order = [self.benign, *(i for i in range(logits.shape[-1]) if i != self.benign)]
        return logits[:, order], teacher[:, order] / teacher.sum(-1, keepdim=True)
