"""Losses that compare hidden states and relations, against numbers worked out by hand and the reference."""

from __future__ import annotations

import math

import pytest
import torch

from tamis.learn.losses import (
    FEATURE,
    RELATION,
    RISK_RELATION,
    angle,
    distance,
    hidden_cosine,
    hidden_l2,
    ranking,
    score_difference,
    similarity,
)

DOUBLE = torch.float64
STUDENT = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 5.0]], dtype=DOUBLE)
TEACHER = torch.tensor([[0.0], [1.0], [3.0]], dtype=DOUBLE)


def random(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def test_hidden_l2_is_a_mean_over_the_width() -> None:
    assert hidden_l2(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).tolist() == [2.5]


def test_hidden_cosine_by_hand() -> None:
    one, other = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-2.0, 0.0]])
    torch.testing.assert_close(hidden_cosine(one, other), torch.tensor([1 - 24 / 25, 2.0]))


def test_distance_by_hand() -> None:
    # Student distances 5, 5 and sqrt(10), over their mean; teacher distances 1, 3 and 2, over 2.
    mean = (10 + math.sqrt(10)) / 3
    gaps = {(0, 1): 5 / mean - 0.5, (0, 2): 5 / mean - 1.5, (1, 2): math.sqrt(10) / mean - 1}
    found = distance(STUDENT, TEACHER)
    for (i, j), gap in gaps.items():
        assert found[i, j].item() == pytest.approx(gap**2 / 2 if abs(gap) < 1 else abs(gap) - 0.5)
    assert found.diagonal().abs().max() == 0


def test_angle_by_hand() -> None:
    # At row 0: student directions (3, 4)/5 and (0, 1), cosine 0.8; on the teacher's line both point up, cosine 1.
    assert angle(STUDENT, TEACHER)[0, 1, 2].item() == pytest.approx(0.2**2 / 2)
    # At row 1 the teacher's other rows lie on opposite sides, cosine -1; the student's (-3, -4)/5 and (-3, 1)/sqrt(10).
    cosine = (9 - 4) / 5 / math.sqrt(10)
    assert angle(STUDENT, TEACHER)[1, 0, 2].item() == pytest.approx(cosine + 1 - 0.5)


def test_similarity_by_hand() -> None:
    student, teacher = torch.eye(2, dtype=DOUBLE), torch.ones(2, 1, dtype=DOUBLE)
    half = 1 / math.sqrt(2)
    expected = torch.tensor([[(1 - half) ** 2, half**2], [half**2, (1 - half) ** 2]], dtype=DOUBLE)
    torch.testing.assert_close(similarity(student, teacher), expected)


def test_score_difference_by_hand() -> None:
    student, teacher = torch.tensor([0.0, 0.0]), torch.tensor([0.0, math.log(3)])
    assert score_difference(student, teacher)[0, 1].item() == pytest.approx(0.25**2)


def test_ranking_by_hand_and_a_tie_draws_to_no_order() -> None:
    student, teacher = torch.tensor([1.0, -1.0, 0.0]), torch.logit(torch.tensor([0.9, 0.2, 0.18]))
    found = ranking(student, teacher)
    assert found[0, 1].item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert found[1, 2].item() == pytest.approx(math.log(1 + math.exp(1)) / 2 + math.log(1 + math.exp(-1)) / 2)
    tied = torch.zeros(2, requires_grad=True)
    ranking(tied, torch.zeros(2)).sum().backward()
    assert tied.grad is not None
    assert tied.grad.abs().max() == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_reference_implementation_agrees(seed: int) -> None:
    levels = pytest.importorskip("torchdistill.losses.mid_level", reason="`make setup` installs torchdistill")
    student, teacher = random(6, 5, seed), random(6, 9, seed + 100)
    outputs = ({"s": {"output": student}}, {"t": {"output": teacher}})
    apart = levels.RKDLoss("s", "t", dist_factor=1.0, angle_factor=0.0, reduction="mean")
    assert distance(student, teacher).mean().item() == pytest.approx(apart(*outputs).item(), abs=1e-5)
    turned = levels.RKDLoss("s", "t", dist_factor=0.0, angle_factor=1.0, reduction="mean")
    assert angle(student, teacher).mean().item() == pytest.approx(turned(*outputs).item(), abs=1e-5)
    # It normalises rows to a sum of magnitudes of 1, the paper to a length of 1.
    alike = levels.SPKDLoss("s", "t", reduction="batchmean")
    assert similarity(student, teacher, norm=1.0).mean().item() == pytest.approx(alike(*outputs).item(), abs=1e-5)
    projected = random(6, 9, seed + 200)
    hints = torch.nn.functional.mse_loss(projected, teacher)  # What its FitNets recipes name as the criterion.
    assert hidden_l2(projected, teacher).mean().item() == pytest.approx(hints.item(), abs=1e-5)


@pytest.mark.parametrize("name", [*FEATURE, *RELATION])
def test_gradients_of_losses_over_vectors(name: str) -> None:
    loss = (FEATURE | RELATION)[name]
    student, teacher = random(4, 3, 1).requires_grad_(), random(4, 3, 2)
    assert torch.autograd.gradcheck(lambda one: loss(one, teacher), (student,))


@pytest.mark.parametrize("name", sorted(RISK_RELATION))
def test_gradients_of_losses_over_risks(name: str) -> None:
    student, teacher = random(1, 5, 3)[0].requires_grad_(), random(1, 5, 4)[0]
    assert torch.autograd.gradcheck(lambda one: RISK_RELATION[name](one, teacher), (student,))


@pytest.mark.parametrize("name", sorted(RELATION))
def test_a_relation_does_not_mind_the_order_of_rows_nor_equal_ones(name: str) -> None:
    student, teacher = random(5, 3, 5), random(5, 4, 6)
    order = torch.tensor([3, 1, 4, 0, 2])
    loss = RELATION[name]
    assert loss(student[order], teacher[order]).mean().item() == pytest.approx(loss(student, teacher).mean().item())
    same = torch.ones(3, 2, dtype=DOUBLE, requires_grad=True)
    loss(same, same.detach()).sum().backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()
