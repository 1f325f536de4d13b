from __future__ import annotations

import math

import pytest
import torch

from tamis.config import ObjectiveConfig
from tamis.errors import TrainingError
from tamis.learn.learner import Seen
from tamis.learn.losses import distance, hidden_l2, kl
from tamis.learn.objective import Objective, Targets, weights_of

NAN = float("nan")
HARM = (0.0, 1.0, 1.0)
TARGETS = Targets(
    soft=torch.tensor([[0.8, 0.1, 0.1], [NAN, NAN, NAN], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]),
    hard=torch.tensor([0, 1, -1, 2]),
)
LOGITS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.5, 0.0, 0.1], [0.0, 0.0, 0.0]])


def loss(logits: torch.Tensor, targets: Targets, total: float = 4, distils: bool = True) -> torch.Tensor:
    config = ObjectiveConfig()
    weights = weights_of(config, distils)
    terms = Objective(config, "single_label", HARM).terms(Seen(logits, logits), targets, total, weights)
    return sum(terms.values(), torch.zeros(()))


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
    config = ObjectiveConfig(alpha=1, beta=0)
    targets = Targets(torch.tensor([[0.5, 0.5]]), torch.tensor([[NAN, NAN]]))
    logits = torch.tensor([[2.0, 2.0]])
    terms = Objective(config, "multi_label", HARM[:2]).terms(
        Seen(logits, logits), targets, 1, weights_of(config, distils=True)
    )
    value = terms["kl"]
    assert value.item() == pytest.approx(0.480459, abs=1e-5)


def everything(relate: str) -> ObjectiveConfig:
    names = ("kl", "hidden_l2", "hidden_cosine", "distance", "angle", "similarity", "score_difference", "ranking")
    return ObjectiveConfig.model_validate({"distill": dict.fromkeys(names, 1.0), "relate": relate})


def seen_of(rows: int = 4, categories: int = 3) -> tuple[Seen, Targets]:
    torch.manual_seed(0)
    state = torch.randn(rows, 5)
    seen = Seen(torch.randn(rows, categories, requires_grad=True), state, (torch.randn(rows, 7), torch.randn(rows, 7)))
    states = torch.randn(rows, 2, 7)
    states[1:2] = NAN
    return seen, Targets(TARGETS.soft[:rows], TARGETS.hard[:rows], states)


def test_a_row_without_a_state_has_no_part_in_what_compares_states() -> None:
    seen, targets = seen_of()
    config = everything("hidden")
    terms = Objective(config, "single_label", HARM).terms(seen, targets, 4, weights_of(config, distils=True))
    # Rows 0, 2 and 3 have an answer, and a state each: weights 0.9 of 1, 1 and 0.9 of 1.
    assert targets.states is not None
    each = [torch.stack([hidden_l2(own, targets.states[:, i]) for i, own in enumerate(seen.hidden)]).mean(0)]
    expected = (0.9 * each[0][0] + each[0][2] + 0.9 * each[0][3]) / 4
    assert terms["hidden_l2"].item() == pytest.approx(expected.item(), rel=1e-5)
    kept = [0, 2, 3]
    related = distance(seen.state[kept], targets.states[kept][:, -1]).mean()
    assert terms["distance"].item() == pytest.approx(0.9 * 3 / 4 * related.item(), rel=1e-5)


@pytest.mark.parametrize("relate", ["outputs", "hidden"])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_all_terms_are_finite_and_reach_the_student_whatever_the_number_of_rows(rows: int, relate: str) -> None:
    seen, targets = seen_of(rows)
    config = everything(relate)
    terms = Objective(config, "single_label", HARM).terms(seen, targets, rows, weights_of(config, distils=True))
    assert set(terms) == {*config.distill, "supervised"}
    sum(terms.values(), torch.zeros(())).backward()
    assert seen.logits.grad is not None
    assert torch.isfinite(seen.logits.grad).all()


def test_the_risk_of_several_labels_leaves_the_benign_one_out() -> None:
    config = ObjectiveConfig.model_validate({"distill": {"score_difference": 1.0}, "alpha": 1, "beta": 0})
    logits = torch.tensor([[9.0, 0.0, -1.0], [9.0, -1.0, 0.0]])
    targets = Targets(torch.tensor([[0.9, 0.5, 0.1], [0.1, 0.2, 0.5]]), torch.full((2, 3), NAN))
    terms = Objective(config, "multi_label", HARM).terms(
        Seen(logits, logits), targets, 2, weights_of(config, distils=True)
    )
    assert terms["score_difference"].item() == pytest.approx(0.0, abs=1e-9)


def test_states_that_are_missing_altogether_are_said() -> None:
    seen, targets = seen_of()
    config = everything("hidden")
    with pytest.raises(TrainingError, match=r"set teacher\.features"):
        Objective(config, "single_label", HARM).terms(
            seen, Targets(targets.soft, targets.hard), 4, weights_of(config, distils=True)
        )


@pytest.mark.parametrize(
    ("kind", "harm", "logits", "risk"),
    [
        ("single_label", HARM, [0.0, 0.0, 0.0], 2 / 3),
        ("ordinal", (0.0, 0.5, 1.0), [0.0, 0.0, 0.0], 0.5),
        ("ordinal", (0.0, 1 / 3, 2 / 3, 1.0), [math.log(p) for p in (0.5, 0.2, 0.2, 0.1)], 0.3),
        ("multi_label", HARM, [9.0, 0.0, math.log(3)], 0.75),
    ],
)
def test_a_score_teaches_the_risk_of_every_kind_of_policy(
    kind: str, harm: tuple[float, ...], logits: list[float], risk: float
) -> None:
    rows = torch.tensor([logits], requires_grad=True)
    hard = torch.full((1, len(harm)), NAN) if kind == "multi_label" else torch.tensor([-1])
    targets = Targets(torch.full((1, len(harm)), NAN), hard, score=torch.tensor([0.1]))
    config = ObjectiveConfig()
    terms = Objective(config, kind, harm).terms(Seen(rows, rows), targets, 1, weights_of(config, distils=False))
    assert set(terms) == {"score_error"}
    assert terms["score_error"].item() == pytest.approx((risk - 0.1) ** 2, rel=1e-4)
    terms["score_error"].backward()
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()
    assert rows.grad.abs().sum() > 0


def test_labels_and_scores_share_a_batch_row_by_row() -> None:
    config, uniform = ObjectiveConfig(), torch.zeros(4, 3)
    targets = Targets(torch.full((4, 3), NAN), torch.tensor([0, -1, 2, -1]), score=torch.tensor([NAN, 0.5, NAN, NAN]))
    assert targets.has_hard.tolist() == [True, True, True, False]
    objective, weights = Objective(config, "ordinal", (0.0, 0.5, 1.0)), weights_of(config, distils=False)
    terms = objective.terms(Seen(uniform, uniform), targets, 4, weights)
    assert terms["supervised"].item() == pytest.approx(2 * math.log(3) / 4)
    assert terms["score_error"].item() == pytest.approx(0.0, abs=1e-12)
    halves = [objective.terms(Seen(uniform[i], uniform[i]), targets.at(i), 4, weights) for i in ([0, 3], [1, 2])]
    assert sum(sum(half.values()).item() for half in halves) == pytest.approx(sum(terms.values()).item())


def test_a_teacher_of_fewer_categories_teaches_those_alone() -> None:
    config = ObjectiveConfig(alpha=1, beta=0)
    told = torch.tensor([[0.8, NAN, 0.2], [NAN, NAN, NAN]])
    targets = Targets(told, torch.tensor([-1, -1]))
    assert targets.has_soft.tolist() == [True, False]
    logits = torch.tensor([[1.0, 5.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    terms = Objective(config, "single_label", HARM).terms(Seen(logits, logits), targets, 1, weights_of(config, True))
    # sigmoid(1 / 2) of the old mass is on the first; the teacher, softened, has 0.8^0.5 / (0.8^0.5 + 0.2^0.5) = 2 / 3.
    own, wanted = 1 / (1 + math.exp(-0.5)), 2 / 3
    expected = 4 * (wanted * math.log(wanted / own) + (1 - wanted) * math.log((1 - wanted) / (1 - own)))
    assert terms["kl"].item() == pytest.approx(expected, rel=1e-5)
    terms["kl"].backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0, "what a new category is given is nothing the old model can judge"
    assert logits.grad[0, 0] == -logits.grad[0, 2] != 0


@pytest.mark.parametrize("name", ["mse_score", "ranking", "distance", "score_difference"])
@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_under_every_term_a_category_the_teacher_lacks_has_no_part(name: str, kind: str) -> None:
    config = ObjectiveConfig(alpha=1, beta=0, distill={name: 1.0})
    old = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.1]])
    weights = weights_of(config, True)

    def term(logits: torch.Tensor, soft: torch.Tensor, harm: tuple[float, ...]) -> float:
        hard = torch.full((3,), -1) if kind == "single_label" else torch.full(soft.shape, NAN)
        return Objective(config, kind, harm).terms(Seen(logits, logits), Targets(soft, hard), 3, weights)[name].item()

    wide = torch.cat([logits[:, :1], torch.tensor([[3.0], [-1.0], [0.0]]), logits[:, 1:]], 1)
    soft = torch.cat([old[:, :1], torch.full((3, 1), NAN), old[:, 1:]], 1)
    assert term(wide, soft, HARM) == pytest.approx(term(logits, old, (0.0, 1.0)))
