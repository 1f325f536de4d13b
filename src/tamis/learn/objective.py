"""L = alpha * L_distill + beta * L_sup over batches in which rows have a soft label, a hard label or both.

A row's loss is the weighted mean of the parts it has: with both labels alpha and beta as they are, with one label that
part alone, at the full weight of a row. Otherwise a few hundred gold rows among soft ones would count for nothing, or a
few soft rows among gold ones for everything. The mean goes over the rows of the whole optimiser batch, whose number the
caller passes: cutting a batch into smaller parts, or over workers, changes no gradient. A relation is a mean over the
pairs of the rows it is given, which are all rows of a worker's batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.config import ObjectiveConfig
from tamis.errors import TrainingError
from tamis.learn.learner import Seen
from tamis.learn.losses import FEATURE, RELATION, RESPONSE, RISK_RELATION, SMALLEST, SUPERVISED, risk_error, soften


@dataclass(frozen=True)
class Targets:
    """Targets of some rows.

    `soft`: (rows, categories) teacher probabilities, NaN rows have none; a category that is NaN in the others too is
    one the teacher does not know. `hard`: (rows,) category indices, -1 has none; multi-label: (rows, categories) of 0,
    1 and NaN, an all-NaN row has none. `states`: (rows, layers, width) hidden states of the teacher, NaN rows have
    none; None where no term asks for them. `score`: (rows,) human risk scores, NaN rows have none; None where no row
    has one.
    """

    soft: Tensor
    hard: Tensor
    states: Tensor | None = None
    score: Tensor | None = None

    @property
    def has_soft(self) -> Tensor:
        """(rows,) whether the teacher has answered."""
        return ~self.soft.isnan().all(-1)

    @property
    def has_hard(self) -> Tensor:
        """(rows,) whether a person has judged, by a label or by a score."""
        return self.has_label | self.has_score

    @property
    def has_label(self) -> Tensor:
        """(rows,) whether a person has named a category."""
        return self.hard >= 0 if self.hard.ndim == 1 else ~self.hard.isnan().all(-1)

    @property
    def has_score(self) -> Tensor:
        """(rows,) whether a person has given a risk score."""
        return torch.zeros_like(self.has_label) if self.score is None else ~self.score.isnan()

    def at(self, index: Iterable[int]) -> Targets:
        """The targets of some of the rows."""
        rows = torch.as_tensor(list(index))
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> Targets:
        """The same on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Targets:
        states, score = (None if one is None else change(one) for one in (self.states, self.score))
        return Targets(change(self.soft), change(self.hard), states, score)


Weights = Mapping[str, float]
"""alpha, beta and the weight of every term of L_distill."""


def weights_of(config: ObjectiveConfig, distils: bool) -> Weights:
    """The weights an objective asks for; `distils` is whether any row has a teacher's answer.

    Without a teacher the human labels are all there is; their weight is then 1, whatever beta says.
    """
    alpha, beta = (config.alpha, config.beta) if distils else (0.0, 1.0)
    return {"alpha": alpha, "beta": beta, **config.distill}


class Objective:
    """The weighted terms of a run under one policy; the weights come with each call, because a stage changes them.

    Args:
        config: the terms of L_distill, and their temperature.
        kind: of the policy.
        harm: risk of each category, 0 of the benign one alone; see `Policy.harm`.
    """

    def __init__(self, config: ObjectiveConfig, kind: str, harm: Sequence[float]) -> None:
        self.config = config
        self.kind = kind
        self.benign = harm.index(0)
        self.order = [self.benign, *(i for i in range(len(harm)) if i != self.benign)]
        self.harm = torch.tensor(harm)

    def terms(self, seen: Seen, targets: Targets, total: float, weights: Weights) -> dict[str, Tensor]:
        """Weighted parts of the loss, by name.

        Args:
            seen: what the student says of some rows.
            targets: of the same rows.
            total: rows of the whole batch.
            weights: of `weights_of`.
        """
        alpha, beta = weights["alpha"], weights["beta"]
        soft, hard = targets.has_soft, targets.has_hard
        whole = alpha * soft + beta * hard
        parts: dict[str, Tensor] = {}
        if alpha and bool(soft.any()):
            share = alpha / whole[soft]
            for name, rows in self._distilled(seen, targets, soft, weights).items():
                # A number a row is weighed as the row is; the mean over pairs or triplets stands for all their rows.
                mean = rows.sum() / max(1, rows.numel())
                whole_part = (share * rows).sum() if rows.ndim == 1 else alpha * mean * len(share)
                parts[name] = weights[name] * whole_part / total
        if beta:
            for name, (judged, rows) in self._supervised(seen.logits, targets).items():
                parts[name] = (beta / whole[judged] * rows).sum() / total
        return parts

    def _supervised(self, logits: Tensor, targets: Targets) -> dict[str, tuple[Tensor, Tensor]]:
        """The terms of L_sup: which rows have a human label, or a human score, and a number for each of them."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        if bool((judged := targets.has_label).any()):
            rows = SUPERVISED[self.kind](logits[judged], targets.hard[judged], self.config.label_smoothing)
            found["supervised"] = judged, rows
        if targets.score is not None and bool((judged := targets.has_score).any()):
            risk = self._risk_logit(self._outcomes(logits[judged], self.order), self.order)
            found["score_error"] = judged, risk_error(risk, targets.score[judged])
        return found

    def _distilled(self, seen: Seen, targets: Targets, soft: Tensor, weights: Weights) -> dict[str, Tensor]:
        """Each term of L_distill over the rows the teacher has answered, and over the categories it knows.

        An old model that teaches its successor says nothing of a category it never had: what the student gives to that
        one is left out on both sides (Li and Hoiem, 2016, arXiv 1606.09282).
        """
        names = [name for name, weight in weights.items() if weight and name not in ("alpha", "beta")]
        answers = targets.soft[soft]
        order = [i for i in self.order if not bool(answers[:, i].isnan().any())]
        student, teacher = self._outcomes(seen.logits[soft], order), self._answers(answers, order)
        found: dict[str, Tensor] = {}
        for name in names:
            if name in RESPONSE:
                rows = RESPONSE[name](student, teacher, self.config.temperature)
                found[name] = rows.mean(1) if rows.ndim == 2 else rows
            elif name in FEATURE:
                found[name] = self._features(name, seen, targets, soft)
            elif name in RELATION:
                found[name] = RELATION[name](*self._related(seen, targets, soft, student, teacher))
            else:
                logits = student, teacher.clamp(min=SMALLEST).log()
                found[name] = RISK_RELATION[name](*(self._risk_logit(one, order) for one in logits))
        return found

    def _features(self, name: str, seen: Seen, targets: Targets, soft: Tensor) -> Tensor:
        """A number for each row the teacher has answered, the mean over the layer pairs; 0 without a state."""
        states = _states(targets)[soft]
        known = ~states.isnan().any(-1).any(-1)
        wanted = torch.nan_to_num(states)
        each = [FEATURE[name](own[soft], wanted[:, i]) for i, own in enumerate(seen.hidden)]
        return torch.stack(each).mean(0) * known

    def _related(
        self, seen: Seen, targets: Targets, soft: Tensor, student: Tensor, teacher: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The vectors whose relations are compared: outcomes at the temperature, or hidden states of the last pair."""
        if self.config.relate == "outputs":
            own = (student / self.config.temperature).softmax(-1)
            return own.flatten(1), soften(teacher, self.config.temperature).flatten(1)
        wanted = _states(targets)[soft][:, -1]
        known = ~wanted.isnan().any(-1)
        return seen.state[soft][known], wanted[known]

    def _risk_logit(self, logits: Tensor, order: Sequence[int]) -> Tensor:
        """Log-odds of the risk, (rows,), of what `_outcomes` gives; under multi-label those of the likeliest harm.

        The risk is the mean harm of the outcomes, so its odds are sum p h over sum p (1 - h).
        """
        harm = logits.new_tensor([0.0, 1.0]) if self.kind == "multi_label" else self.harm[list(order)].to(logits)
        odds = (logits + harm.log()).logsumexp(-1) - (logits + (1 - harm).log()).logsumexp(-1)
        return odds if odds.ndim == 1 else odds[:, 1:].amax(-1)

    def _outcomes(self, logits: Tensor, order: Sequence[int]) -> Tensor:
        """The student's logits of these categories, the benign one first, as those of a distribution over the last one.

        With several labels each category has two outcomes, (rows, categories, 2).
        """
        chosen = logits[:, list(order)]
        return torch.stack([torch.zeros_like(chosen), chosen], -1) if self.kind == "multi_label" else chosen

    def _answers(self, teacher: Tensor, order: Sequence[int]) -> Tensor:
        """The teacher's probabilities of the same outcomes."""
        chosen = teacher[:, list(order)]
        if self.kind == "multi_label":
            return torch.stack([1 - chosen, chosen], -1)
        return chosen / chosen.sum(-1, keepdim=True)


def _states(targets: Targets) -> Tensor:
    if targets.states is None:
        raise TrainingError(
            "objective.distill compares hidden states and the teacher gave none: set teacher.features, with a teacher"
            " of kind bundle or transformers"
        )
    return targets.states
