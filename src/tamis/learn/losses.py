"""Distillation and supervised losses: `(student, teacher, ...) -> one number per row, per pair or per triplet`.

Response losses: `student` are logits and `teacher` probabilities, (..., outcomes); the last dimension is the
distribution. A multi-label student comes as two outcomes a category, (rows, categories, 2). Feature losses: hidden
states of one layer each, (rows, width), the student's already projected to the teacher's width. Relation losses: any
vectors of the two, (rows, width) each of its own width, or risk scores, (rows,). Masks, weights and means live in
objective.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-6
"""Floor of a teacher probability: log-probabilities that stop at the top 20 leave exact zeros behind."""
TINY = 1e-12


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
    """Squared difference of 1 - p of the first outcome, the benign one: the risk, and of levels that of any harm."""
    del temperature
    return (F.softmax(student, dim=-1)[..., 0] - teacher[..., 0]).square()


def hidden_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two states: the hints of FitNets (Romero et al., 2015, arXiv 1412.6550)."""
    return (student - teacher).square().mean(-1)


def hidden_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of projected and given state, as in DistilBERT (Sanh et al., 2019, arXiv 1910.01108)."""
    return 1 - F.cosine_similarity(student, teacher, dim=-1)


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """(rows, rows): smooth L1 of Euclidean distances over their mean, RKD-D (Park et al., 2019, arXiv 1904.05068)."""
    return F.smooth_l1_loss(_distances(student), _distances(teacher), reduction="none")


def _distances(vectors: Tensor) -> Tensor:
    """(rows, rows) distances divided by the mean of those that are not 0."""
    squares = (vectors.unsqueeze(0) - vectors.unsqueeze(1)).square().sum(-1)
    apart = squares > 0
    # The root's gradient at 0 is infinite; a row's distance to itself stays out of it.
    far = torch.where(apart, squares, 1.0).sqrt() * apart
    return far / (far.sum() / apart.sum().clamp(min=1)).clamp(min=TINY)


def angle(student: Tensor, teacher: Tensor) -> Tensor:
    """(rows, rows, rows): smooth L1 of the cosines of the angles triplets of rows make, RKD-A (Park et al., 2019)."""
    return F.smooth_l1_loss(_angles(student), _angles(teacher), reduction="none")


def _angles(vectors: Tensor) -> Tensor:
    """[j, i, k] is the cosine of the angle at row j between rows i and k."""
    apart = F.normalize(vectors.unsqueeze(0) - vectors.unsqueeze(1), dim=2)
    return apart @ apart.transpose(1, 2)


def similarity(student: Tensor, teacher: Tensor, norm: float = 2.0) -> Tensor:
    """(rows, rows): squared difference of row-normalised inner products (Tung and Mori, 2019, arXiv 1907.09682)."""
    own, wanted = (F.normalize(vectors @ vectors.T, p=norm, dim=1) for vectors in (student, teacher))
    return (own - wanted).square()


def score_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """(rows, rows): squared difference of s_i - s_j and t_i - t_j; risk scores are log-odds, (rows,), on both sides."""
    own, wanted = (F.sigmoid(scores) for scores in (student, teacher))
    return ((own.unsqueeze(1) - own) - (wanted.unsqueeze(1) - wanted)).square()


def ranking(student: Tensor, teacher: Tensor, tie: float = 0.05) -> Tensor:
    """(rows, rows): RankNet's cross-entropy of which row is riskier (Burges et al., 2005); log-odds, (rows,), both.

    Two rows whose risks differ by at most `tie` for the teacher are a tie: its target is one half, so that the student
    is drawn to no order rather than to the teacher's noise.
    """
    risk = F.sigmoid(teacher)
    ahead = risk.unsqueeze(1) - risk
    target = torch.where(ahead.abs() <= tie, 0.5, (ahead > 0).to(student.dtype))
    return F.binary_cross_entropy_with_logits(student.unsqueeze(1) - student, target, reduction="none")


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


def risk_error(student: Tensor, target: Tensor) -> Tensor:
    """Squared error (Brier, 1950) of the student's risk, given as log-odds, against human scores in [0, 1]: (rows,)."""
    return (F.sigmoid(student) - target).square()


Loss = Callable[[Tensor, Tensor, float], Tensor]
Comparison = Callable[[Tensor, Tensor], Tensor]

RESPONSE: dict[str, Loss] = {
    "kl": kl,
    "reverse_kl": reverse_kl,
    "js": js,
    "soft_ce": soft_ce,
    "mse_logits": mse_logits,
    "mse_score": mse_score,
}
FEATURE: dict[str, Comparison] = {"hidden_l2": hidden_l2, "hidden_cosine": hidden_cosine}
RELATION: dict[str, Comparison] = {"distance": distance, "angle": angle, "similarity": similarity}
RISK_RELATION: dict[str, Comparison] = {"score_difference": score_difference, "ranking": ranking}
LOSSES: tuple[str, ...] = (*RESPONSE, *FEATURE, *RELATION, *RISK_RELATION)
"""Every name that `objective.distill` may give a weight."""
SUPERVISED: dict[str, Loss] = {
    "single_label": cross_entropy,
    "multi_label": binary_cross_entropy,
    "ordinal": cross_entropy,
}
"""By the kind of the policy, what a human label teaches; of levels the likelihood of the cumulative link."""
