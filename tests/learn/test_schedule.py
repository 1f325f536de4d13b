from __future__ import annotations

import pytest
import torch

from tamis.config import ObjectiveConfig, TrainConfig
from tamis.errors import TrainingError
from tamis.learn.objective import Targets
from tamis.learn.schedule import Stage, compares_states, plan

NAN = float("nan")
# Rows 0 to 3 have both labels, 4 to 6 a teacher's answer, 7 to 9 a human label.
TARGETS = Targets(
    soft=torch.tensor([[0.5, 0.5]] * 7 + [[NAN, NAN]] * 3), hard=torch.tensor([0, 1, 0, 1, -1, -1, -1, 0, 1, 1])
)


def stages(*changes: dict[str, object], **objective: object) -> tuple[Stage, ...]:
    train = TrainConfig.model_validate({"epochs": 2, "stages": changes})
    return plan(ObjectiveConfig.model_validate(objective), train, TARGETS, 4)


def test_without_stages_there_is_one_of_all_rows() -> None:
    (one,) = stages()
    assert (one.start, one.end, one.per_epoch, one.rows) == (0, 6, 3, tuple(range(10)))
    assert one.weights_at(0) == {"alpha": 0.9, "beta": 0.1, "kl": 1.0}
    assert [one.place(step) for step in (0, 2, 3, 5)] == [(0, 0), (0, 2), (1, 0), (1, 2)]


def test_stages_lie_end_to_end_and_have_rows_of_their_own() -> None:
    first, second, third = stages({"epochs": 1}, {"epochs": 2, "rows": "gold"}, {"epochs": 0.5, "rows": "signals"})
    assert [(one.start, one.end) for one in (first, second, third)] == [(0, 3), (3, 7), (7, 8)]
    assert second.rows == (0, 1, 2, 3, 7, 8, 9)
    assert third.rows == tuple(range(7))
    assert [second.place(step) for step in (3, 4, 5)] == [(1, 0), (1, 1), (2, 0)]
    assert third.place(7) == (3, 0)


def test_rows_whose_labels_weigh_nothing_are_not_visited() -> None:
    (answers,) = stages(alpha=1, beta=0)
    assert answers.rows == tuple(range(7))
    (labels,) = stages(alpha=0, beta=1)
    assert labels.rows == (0, 1, 2, 3, 7, 8, 9)


def test_a_ramp_moves_the_weights_step_by_step() -> None:
    first, second = stages(
        {"epochs": 1}, {"epochs": 4, "distill": {"kl": 0.5, "hidden_l2": 1.0}, "alpha": 0.5, "ramp": 0.5}
    )
    assert second.steps == 12
    assert second.ramp == 6
    at = second.weights_at(first.end + 2)
    assert at == pytest.approx({"alpha": 0.7, "beta": 0.1, "kl": 0.75, "hidden_l2": 0.5})
    assert second.weights_at(second.end - 1) == {"alpha": 0.5, "beta": 0.1, "kl": 0.5, "hidden_l2": 1.0}


def test_without_answers_the_human_labels_have_weight_one() -> None:
    targets = Targets(torch.full((2, 2), NAN), torch.tensor([0, 1]))
    (one,) = plan(ObjectiveConfig(), TrainConfig(), targets, 4)
    assert (one.weights["alpha"], one.weights["beta"]) == (0.0, 1.0)


def test_a_stage_without_rows_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"stage 2 of training has no row .* its rows are gold"):
        stages({"epochs": 1}, {"epochs": 1, "rows": "gold", "beta": 0})


@pytest.mark.parametrize(
    ("objective", "train", "wanted"),
    [
        ({}, {}, False),
        ({"distill": {"hidden_l2": 0.1}}, {}, True),
        ({"distill": {"hidden_l2": 0.0}}, {}, False),
        ({"distill": {"angle": 1.0}}, {}, False),
        ({"distill": {"angle": 1.0}, "relate": "hidden"}, {}, True),
        ({}, {"stages": [{"epochs": 1}, {"epochs": 1, "distill": {"hidden_cosine": 1}}]}, True),
    ],
)
def test_hidden_states_are_wanted_where_a_stage_compares_them(
    objective: dict[str, object], train: dict[str, object], wanted: bool
) -> None:
    found = compares_states(ObjectiveConfig.model_validate(objective), TrainConfig.model_validate(train))
    assert found is wanted
