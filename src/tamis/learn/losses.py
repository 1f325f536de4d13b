"""Distillation and supervised losses: `(student, teacher, **params) -> one number per row`.

`student` are logits and `teacher` probabilities, (..., outcomes); the last dimension is the distribution. A multi-label
student comes as two outcomes a category, (rows, categories, 2). Masks, weights and means live in objective.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-6
"""Floor of a teacher probability: log-probabilities that stop at the top 20 leave exact zeros behind."""


def soften(teacher: Tensor, temperature: float) -> Tensor:
    """Probabilities at a temperature: softmax(log p / T), normalised over the last dimension."""
    return F.softmax(teacher.clamp(min=SMALLEST).log() / temperature, dim=-1)


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 * KL(teacher || student), both at temperature T (Hinton et al., 2015, arXiv 1503.02531)."""
    target = soften(teacher, temperature)
    logs = F.log_softmax(student / temperature, dim=-1)
    return temperature**2 * (target * (target.log() - logs)).sum(-1)


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 * KL(student || teacher): seeks the teacher's modes (Gu et al., 2023, arXiv 2306.08543)."""
    target = soften(teacher, temperature)
    logs = F.log_softmax(student / temperature, dim=-1)
    return temperature**2 * (logs.exp() * (logs - target.log())).sum(-1)


def js(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 * Jensen-Shannon divergence in nats, symmetric and at most T^2 ln 2 (Lin, 1991)."""
    target = soften(teacher, temperature)
    own = F.softmax(student / temperature, dim=-1)
    middle = ((target + own) / 2).clamp(min=1e-12).log()
    halves = target * (target.log() - middle) + own * (own.clamp(min=1e-12).log() - middle)
    return temperature**2 * halves.sum(-1) / 2


def soft_ce(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 * cross-entropy of the student under the teacher's soft labels; the gradient of `kl`."""
    return -(temperature**2) * (soften(teacher, temperature) * F.log_softmax(student / temperature, dim=-1)).sum(-1)


def mse_logits(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean squared difference of centred logits, the limit of `kl` for a large T (Ba and Caruana, 2014).

    A teacher's log-probabilities are its logits up to a constant, which the centring removes; T plays no part.
    """
    del temperature
    logits = teacher.clamp(min=SMALLEST).log()
    centred = (student - student.mean(-1, keepdim=True)) - (logits - logits.mean(-1, keepdim=True))
    return centred.square().mean(-1)


def mse_score(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Squared difference of the risk scores, 1 - p of the first outcome, which is the benign one."""
    del temperature
    return (F.softmax(student, dim=-1)[..., 0] - teacher[..., 0]).square()


def cross_entropy(student: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with human labels: logits (rows, categories), target (rows,) of category indices."""
    return F.cross_entropy(student, target, reduction="none", label_smoothing=smoothing)


def binary_cross_entropy(student: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean binary cross-entropy over a row's known categories (multi-label).

    Logits and targets are (rows, categories); a NaN target is unknown and counts for nothing.
    """
    known = ~target.isnan()
    wanted = torch.nan_to_num(target) * (1 - smoothing) + smoothing / 2
    each = F.binary_cross_entropy_with_logits(student, wanted, reduction="none") * known
    return each.sum(-1) / known.sum(-1).clamp(min=1)


Loss = Callable[[Tensor, Tensor, float], Tensor]

LOSSES: dict[str, Loss] = {
    "kl": kl,
    "reverse_kl": reverse_kl,
    "js": js,
    "soft_ce": soft_ce,
    "mse_logits": mse_logits,
    "mse_score": mse_score,
}
SUPERVISED: dict[str, Loss] = {"single_label": cross_entropy, "multi_label": binary_cross_entropy}
