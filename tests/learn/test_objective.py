from __future__ import annotations

import pytest
import torch

from tamis.config import ObjectiveConfig
from tamis.learn.losses import kl
from tamis.learn.objective import Objective, Targets

NAN = float("nan")
TARGETS = Targets(
    soft=torch.tensor([[0.8, 0.1, 0.1], [NAN, NAN, NAN], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]),
    hard=torch.tensor([0, 1, -1, 2]),
)
LOGITS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.5, 0.0, 0.1], [0.0, 0.0, 0.0]])


def loss(logits: torch.Tensor, targets: Targets, total: float = 4, distils: bool = True) -> torch.Tensor:
    objective = Objective(ObjectiveConfig(), "single_label", 0, distils)
    return sum(objective.terms(logits, targets, total).values(), torch.zeros(()))


def test_rows_with_both_labels_are_nine_tenths_soft_and_rows_with_one_learn_from_it_alone() -> None:
    soft = [None if i == 1 else kl(LOGITS[[i]], TARGETS.soft[[i]], 2.0).item() for i in range(4)]
    hard = torch.nn.functional.cross_entropy(LOGITS, TARGETS.hard.clamp(min=0), reduction="none").tolist()
    expected = 0.9 * soft[0] + 0.1 * hard[0] + hard[1] + soft[2] + 0.9 * soft[3] + 0.1 * hard[3]
    assert loss(LOGITS, TARGETS).item() == pytest.approx(expected / 4, rel=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_pitfall_8_accumulation_changes_no_gradient(parts: int) -> None:
    whole = LOGITS.clone().requires_grad_()
    loss(whole, TARGETS).backward()
    cut = LOGITS.clone().requires_grad_()
    for index in torch.arange(4).chunk(parts):
        loss(cut[index], TARGETS.at(index.tolist())).backward()
    torch.testing.assert_close(cut.grad, whole.grad)


def test_without_a_teacher_the_human_labels_have_weight_one() -> None:
    hard = torch.nn.functional.cross_entropy(LOGITS[[0, 1, 3]], torch.tensor([0, 1, 2]))
    assert loss(LOGITS, TARGETS, total=3, distils=False).item() == pytest.approx(hard.item())


def test_teacher_mass_that_is_missing_is_not_taught() -> None:
    halved = Targets(TARGETS.soft / 2, TARGETS.hard)
    assert loss(LOGITS, halved).item() == pytest.approx(loss(LOGITS, TARGETS).item(), rel=1e-5)


def test_multi_label_is_a_mean_over_categories() -> None:
    objective = Objective(ObjectiveConfig(alpha=1, beta=0), "multi_label", 0, distils=True)
    targets = Targets(torch.tensor([[0.5, 0.5]]), torch.tensor([[NAN, NAN]]))
    value = objective.terms(torch.tensor([[2.0, 2.0]]), targets, 1)["kl"]
    assert value.item() == pytest.approx(0.480459, abs=1e-5)
