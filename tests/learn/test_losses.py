from __future__ import annotations

import math

import pytest
import torch

from tamis.learn.losses import (
    RESPONSE,
    binary_cross_entropy,
    cross_entropy,
    js,
    kl,
    mse_logits,
    mse_score,
    risk_error,
    soften,
)

STUDENT = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.5, 0.5]], dtype=torch.float64)


def by_hand(temperature: float) -> float:
    """KL of (.5, .5) from softmax([2, 0] / T), times T squared."""
    p = 1 / (1 + math.exp(-2 / temperature))
    return temperature**2 * (0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p)))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_pitfall_6_kl_has_t_squared_and_no_division_by_classes(temperature: float) -> None:
    assert kl(STUDENT, TEACHER, temperature).item() == pytest.approx(by_hand(temperature), rel=1e-9)


def test_kl_value_at_two_is_a_known_number() -> None:
    # p = 0.7310585786; 4 * (0.5 ln(0.5/p) + 0.5 ln(0.5/(1-p))) = 0.4804590...
    assert kl(STUDENT, TEACHER, 2.0).item() == pytest.approx(0.480459, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_pitfall_6_kl_gradient_is_t_times_the_difference(temperature: float) -> None:
    student = STUDENT.clone().requires_grad_()
    kl(student, TEACHER, temperature).sum().backward()
    expected = temperature * (torch.softmax(STUDENT / temperature, -1) - TEACHER)
    torch.testing.assert_close(student.grad, expected)


@pytest.mark.parametrize("name", sorted(RESPONSE))
def test_every_loss_has_one_number_a_row_and_a_right_gradient(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(5, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.softmax(torch.randn(5, 4, dtype=torch.float64, generator=generator), -1)
    assert RESPONSE[name](student, teacher, 2.0).shape == (5,)
    assert torch.autograd.gradcheck(lambda x: RESPONSE[name](x, teacher, 2.0), (student,))


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "js", "mse_logits", "mse_score"])
def test_a_student_that_agrees_has_no_loss(name: str) -> None:
    teacher = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    assert RESPONSE[name](teacher.log() + 3.0, teacher, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_js_is_symmetric_and_bounded() -> None:
    certain, other = torch.tensor([[40.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert js(certain, other).item() == pytest.approx(math.log(2), rel=1e-4)


def test_mse_logits_and_mse_score_by_hand() -> None:
    teacher = torch.softmax(torch.tensor([[1.0, 0.0]], dtype=torch.float64), -1)
    # centred logits (1, -1) against (0.5, -0.5): the mean of 0.25 and 0.25
    assert mse_logits(STUDENT, teacher).item() == pytest.approx(0.25)
    assert mse_score(STUDENT, TEACHER).item() == pytest.approx((1 / (1 + math.exp(-2)) - 0.5) ** 2)


def test_soften_keeps_an_answer_that_left_exact_zeros_behind() -> None:
    soft = soften(torch.tensor([[1.0, 0.0, 0.0]]), 2.0)
    assert torch.isfinite(soft).all()
    assert soft.sum().item() == pytest.approx(1.0)


def test_supervised_losses_by_hand_and_unknown_labels_count_for_nothing() -> None:
    assert cross_entropy(STUDENT, torch.tensor([1])).item() == pytest.approx(2 + math.log(1 + math.exp(-2)))
    target = torch.tensor([[1.0, float("nan")]], dtype=torch.float64)
    assert binary_cross_entropy(STUDENT, target).item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_the_error_of_a_risk_by_hand_and_its_gradient() -> None:
    odds = torch.tensor([0.0, math.log(3)], dtype=torch.float64, requires_grad=True)
    human = torch.tensor([1.0, 0.25], dtype=torch.float64)
    # (0.5 - 1)^2 and (0.75 - 0.25)^2
    assert risk_error(odds, human).tolist() == pytest.approx([0.25, 0.25])
    assert torch.autograd.gradcheck(lambda x: risk_error(x, human), (odds,))
