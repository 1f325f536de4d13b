"""Learning from hidden states and relations: any width, kept or live, cut up or not, killed or not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.config import ObjectiveConfig, StudentConfig, TrainConfig
from tamis.errors import TrainingError
from tamis.learn.batches import Knowledge, rows_of
from tamis.learn.learner import Seen
from tamis.learn.objective import Objective
from tamis.learn.student import build_student
from tamis.learn.train import Trainer, train
from tamis.policy import Policy
from tamis.records import Example, TeacherSignal, TrainSplit, ValidationSplit
from tamis.teach.features import FeatureFile, kept_states

WIDTH, LAYERS = 48, 2
MakeSignal = Callable[..., TeacherSignal]
QUICK = TrainConfig(epochs=1, learning_rate=0.01, batch_size=24, report_to=(), precision="float32", patience=9)
ALL = ObjectiveConfig.model_validate(
    {
        "distill": {"kl": 1, "hidden_l2": 1, "hidden_cosine": 1, "distance": 1, "angle": 1, "ranking": 1},
        "layers": [[-2, -2], [-1, -1]],
        "relate": "hidden",
    }
)


def states(examples: Sequence[Example]) -> np.ndarray:
    """A teacher of another width, depth and tokenizer: a state for each text and layer, and none for some rows."""
    rows = np.stack([np.random.default_rng(int(one.id[:8], 16)).normal(size=(LAYERS, WIDTH)) for one in examples])
    rows[[one.id[-1] == "0" for one in examples]] = np.nan
    return rows.astype(np.float16)


@pytest.fixture(params=["tiny_qwen", "tiny_bert"])
def base(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def splits(examples: tuple[Example, ...]) -> tuple[TrainSplit, ValidationSplit]:
    mixed = list(examples)
    random.Random(0).shuffle(mixed)
    return TrainSplit(tuple(mixed[:72])), ValidationSplit(tuple(mixed[72:]))


@pytest.fixture
def signals(splits: tuple[TrainSplit, ValidationSplit], make_signal: MakeSignal) -> dict[str, TeacherSignal]:
    return {example.id: make_signal(example) for example in splits[0].examples[::2]}


def trained(
    base: Path,
    policy: Policy,
    splits: tuple[TrainSplit, ValidationSplit],
    knowledge: Knowledge,
    out: Path,
    config: TrainConfig = QUICK,
    objective: ObjectiveConfig = ALL,
) -> dict[str, torch.Tensor]:
    settings = StudentConfig.model_validate({"model": str(base), "max_tokens": 32, "pretrained_dtype": "float32"})
    student = build_student(settings, policy)
    for module in student.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    train(student, *splits, knowledge, objective, config, out)
    return {name: weight.clone() for name, weight in student.trained().items()}


def test_kept_states_teach_what_live_ones_do(
    base: Path,
    small_policy: Policy,
    splits: tuple[TrainSplit, ValidationSplit],
    signals: dict[str, TeacherSignal],
    tmp_path: Path,
) -> None:
    file = FeatureFile(tmp_path / "kept", LAYERS * WIDTH)
    for example in reversed(splits[0].examples):
        if not np.isnan(states([example])).any():
            file.add(example.id, states([example]))
    live = trained(base, small_policy, splits, Knowledge(signals, states), tmp_path / "live")
    read = kept_states(FeatureFile.open(file.path), LAYERS, [0, 1])
    for name, weight in trained(base, small_policy, splits, Knowledge(signals, read), tmp_path / "read").items():
        torch.testing.assert_close(weight, live[name], rtol=0, atol=0)
    without = trained(base, small_policy, splits, Knowledge(signals), tmp_path / "without", objective=ObjectiveConfig())
    assert any((weight != live[name]).any() for name, weight in without.items())


@pytest.mark.parametrize("parts", [4, 8])
def test_pitfall_8_relations_hold_between_all_rows_however_a_batch_is_cut(
    base: Path,
    parts: int,
    small_policy: Policy,
    splits: tuple[TrainSplit, ValidationSplit],
    signals: dict[str, TeacherSignal],
    tmp_path: Path,
) -> None:
    knowledge = Knowledge(signals, states)
    whole = trained(base, small_policy, splits, knowledge, tmp_path / "whole")
    config = QUICK.model_copy(update={"accumulate": parts})
    for name, weight in trained(base, small_policy, splits, knowledge, tmp_path / "cut", config).items():
        torch.testing.assert_close(weight, whole[name], rtol=1e-3, atol=1e-4)


def test_a_killed_run_goes_on_through_its_stages_with_its_projections(
    tiny_bert: Path,
    small_policy: Policy,
    splits: tuple[TrainSplit, ValidationSplit],
    signals: dict[str, TeacherSignal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = [
        {"epochs": 1, "distill": {"kl": 1}, "layers": 1},
        {"epochs": 1, "ramp": 0.5},
        {"epochs": 1, "rows": "gold"},
    ]
    config = TrainConfig.model_validate(QUICK.model_dump() | {"stages": stages, "checkpoint_seconds": 0})
    knowledge = Knowledge(signals, states)
    whole = trained(tiny_bert, small_policy, splits, knowledge, tmp_path / "whole", config)
    steps = 0
    step = Trainer._step

    def dying(self: Trainer, stage: object) -> dict[str, float]:
        nonlocal steps
        steps += 1
        if steps % 3 == 0:
            raise KeyboardInterrupt
        return step(self, stage)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_step", dying)
    resumed = None
    while resumed is None:
        try:
            resumed = trained(tiny_bert, small_policy, splits, knowledge, tmp_path / "killed", config)
        except KeyboardInterrupt:
            assert steps < 60
    assert steps > 9
    for name, weight in resumed.items():
        torch.testing.assert_close(weight, whole[name], rtol=0, atol=0)


def test_a_layer_that_is_not_trained_cannot_be_compared(
    tiny_bert: Path,
    small_policy: Policy,
    splits: tuple[TrainSplit, ValidationSplit],
    signals: dict[str, TeacherSignal],
    tmp_path: Path,
) -> None:
    settings = {"model": str(tiny_bert), "max_tokens": 32, "lora": {"layers": 1}}
    student = build_student(StudentConfig.model_validate(settings), small_policy)
    with pytest.raises(TrainingError, match="compares layer -2 of the student, which is frozen"):
        train(student, *splits, Knowledge(signals, states), ALL, QUICK, tmp_path)
    deep = ALL.model_copy(update={"layers": ((-1, -3),)})
    rows = rows_of(splits[0].examples, signals, student.encoder, small_policy)
    with pytest.raises(TrainingError, match=r"names layer -3 of the student, which has 2"):
        Trainer(student, rows, splits[1], deep, QUICK, tmp_path, states)


def test_pitfall_18_losses_are_computed_in_32_bits(
    tiny_bert: Path,
    small_policy: Policy,
    splits: tuple[TrainSplit, ValidationSplit],
    signals: dict[str, TeacherSignal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[bool, torch.dtype]] = []
    terms = Objective.terms

    def watching(self: Objective, given: Seen, *rest: object) -> dict[str, torch.Tensor]:
        found = terms(self, given, *rest)  # type: ignore[arg-type]
        seen.append((torch.is_autocast_enabled("cpu"), given.state.dtype))
        return found

    monkeypatch.setattr(Objective, "terms", watching)
    config = QUICK.model_copy(update={"precision": "bfloat16"})
    trained(tiny_bert, small_policy, splits, Knowledge(signals, states), tmp_path, config)
    assert set(seen) == {(False, torch.float32)}
