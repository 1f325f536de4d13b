from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from tamis.config import ObjectiveConfig, StudentConfig, TrainConfig
from tamis.errors import ConfigError
from tamis.factored import Factored
from tamis.learn.batches import Knowledge, rows_of
from tamis.learn.pclora import Fading, compressed, constant_layers, fade, faded
from tamis.learn.score import scorer_of
from tamis.learn.student import Student, build_student, load_student, merged
from tamis.learn.train import Trainer, train
from tamis.network import frozen_layers, load_base, parameters_of
from tamis.policy import Policy
from tamis.records import Example, TrainSplit, ValidationSplit

RANK = 4
QUICK = TrainConfig(epochs=8, learning_rate=0.02, batch_size=24, report_to=(), precision="float32", evaluations=2)
Splits = tuple[TrainSplit, ValidationSplit]


def config_of(folder: Path, **changes: object) -> StudentConfig:
    settings = {"model": str(folder), "mode": "pclora", "lora": {"rank": RANK}, "max_tokens": 32}
    return StudentConfig.model_validate(settings | {"pretrained_dtype": "float32"} | changes)


@pytest.fixture(params=["tiny_qwen", "tiny_bert"])
def base(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def splits(examples: tuple[Example, ...]) -> Splits:
    return TrainSplit(examples[::2] + examples[1::4]), ValidationSplit(examples[3::4])


def states_of(network: nn.Module) -> torch.Tensor:
    network.eval()
    with torch.inference_mode():
        return network(torch.tensor([[5, 6, 7, 8]])).last_hidden_state


def test_a_whole_student_is_the_pretrained_model(base: Path, small_policy: Policy) -> None:
    student = build_student(config_of(base), small_policy)
    torch.testing.assert_close(states_of(student.network.base), states_of(load_base(base, torch.float32)))


def test_a_fading_layer_by_hand() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.diag(torch.tensor([3.0, 2.0])))
        linear.bias.copy_(torch.tensor([0.5, -0.5]))
    layer, one = Fading(linear, 1), torch.tensor([1.0, 1.0])
    # The factors hold the larger singular part, 3 on the first axis; the 2 on the other one fades.
    for progress, second in ((0.0, 2.0), (1 / 3, 1.0), (1.0, 0.0), (1.5, 0.0)):
        fade(layer, progress)
        torch.testing.assert_close(layer(one), torch.tensor([3.5, second - 0.5]))
    torch.testing.assert_close(layer.low.down.weight.abs(), torch.tensor([[math.sqrt(3), 0.0]]))


def test_a_faded_layer_is_its_factors() -> None:
    torch.manual_seed(0)
    layer, inputs = Fading(nn.Linear(6, 5), 2), torch.randn(3, 6)
    assert not faded(layer)
    assert not torch.equal(layer(inputs), layer.low(inputs))
    fade(layer, 1.0)
    assert faded(layer)
    assert torch.equal(layer(inputs), layer.low(inputs))


def test_a_layer_without_a_bias_gets_one_that_learns() -> None:
    layer = Fading(nn.Linear(6, 5, bias=False), 2)
    assert layer.low.up.bias.tolist() == [0] * 5
    assert layer.low.up.bias.requires_grad
    assert not layer.rest.requires_grad


def test_a_16_bit_base_computes_in_its_own_precision() -> None:
    layer, inputs = Fading(nn.Linear(6, 5, dtype=torch.bfloat16), 2), torch.ones(1, 6, dtype=torch.bfloat16)
    assert layer.low.down.weight.dtype == torch.float32
    assert layer(inputs).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(inputs.float()).dtype == torch.bfloat16


def test_an_epoch_moves_every_factor_and_bias_and_no_frozen_weight(
    base: Path, small_policy: Policy, splits: Splits, tmp_path: Path
) -> None:
    student, fresh = (build_student(config_of(base), small_policy) for _ in range(2))
    train(student, *splits, Knowledge(), ObjectiveConfig(), QUICK.model_copy(update={"epochs": 1}), tmp_path)
    before = dict(fresh.network.named_parameters())
    moved = {name for name, weight in student.network.named_parameters() if not torch.equal(weight, before[name])}
    layers = [name for name, module in student.network.named_modules() if isinstance(module, Fading)]
    parts = ("low.down.weight", "low.up.weight", "low.up.bias")
    assert len(layers) >= 12
    assert moved == {f"{layer}.{part}" for layer in layers for part in parts} | {"head.weight", "head.bias"}


def test_a_checkpoint_is_chosen_only_once_the_base_is_gone(
    base: Path, small_policy: Policy, splits: Splits, tmp_path: Path
) -> None:
    student = build_student(config_of(base), small_policy)
    impatient = QUICK.model_copy(update={"patience": 1})
    rows = rows_of(splits[0].examples, {}, student.encoder, small_policy)
    trainer = Trainer(student, rows, splits[1], ObjectiveConfig(), impatient, tmp_path)
    seen: list[tuple[float, bool, int]] = []
    evaluate = trainer._evaluate_if_due

    def watch(*arguments: object) -> bool:
        due = evaluate(*arguments)  # type: ignore[arg-type]
        if due:
            share = trainer.state.step / trainer.steps
            seen.append((share, trainer.state.best is not None, trainer.state.stale))
        return due

    trainer._evaluate_if_due = watch  # type: ignore[method-assign, assignment]
    trainer.run()
    early = [one for one in seen if one[0] < 0.8]
    assert len(early) >= 4
    assert all(not best and stale == 0 for _, best, stale in early)
    assert all(best for share, best, _ in seen if share >= 0.8)
    assert faded(student.network)


def test_a_compressed_student_learns(base: Path, small_policy: Policy, splits: Splits, tmp_path: Path) -> None:
    student = build_student(config_of(base), small_policy)
    state = train(student, *splits, Knowledge(), ObjectiveConfig(), QUICK, tmp_path)
    assert state.best is not None
    assert state.best.macro_f1 > 0.8


def test_merging_leaves_the_factors_and_the_answers(base: Path, small_policy: Policy) -> None:
    student = build_student(config_of(base), small_policy)
    fade(student.network, 1.0)
    served = merged(student)
    assert not [module for module in served.network.modules() if isinstance(module, Fading)]
    texts = ["今天天气很好", "best slots bonus"]
    for a, b in zip(scorer_of(student)(texts), scorer_of(served)(texts), strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=5e-3)


def test_parameters_by_hand(tiny_bert: Path, small_policy: Policy) -> None:
    student = build_student(config_of(tiny_bert), small_policy)
    # A layer has four 32 x 32 matrices and two of 32 x 64: 8192 weights, and 4 * 4 * 64 + 2 * 4 * 96 = 1792 in factors.
    assert compressed(student.network) == {"compressed_share": 1792 / 8192}
    whole = parameters_of(merged(build_student(StudentConfig(model=str(tiny_bert), mode="head"), small_policy)).network)
    served = parameters_of(merged(student).network)
    assert whole[0] - served[0] == 2 * (8192 - 1792)
    # The biases of a layer, 5 * 32 + 64, and the head, 3 * 33, are trained beside the factors.
    assert parameters_of(student.network)[1] == 2 * (1792 + 224) + 99


def test_a_rank_that_saves_nothing_is_refused(tiny_bert: Path, small_policy: Policy) -> None:
    build_student(config_of(tiny_bert, lora={"rank": 15}), small_policy)
    with pytest.raises(ConfigError, match=r"factors of rank 16 are no smaller than .*query, 32 x 32.* at most 15"):
        build_student(config_of(tiny_bert, lora={"rank": 16}), small_policy)


def test_layers_below_the_fading_ones_are_frozen_and_no_others(base: Path, small_policy: Policy) -> None:
    every = build_student(config_of(base), small_policy)
    upper = build_student(config_of(base, lora={"rank": RANK, "layers": 1}), small_policy)
    assert frozen_layers(every.network) == constant_layers(every.network) == 0
    assert frozen_layers(upper.network) == constant_layers(upper.network) == 1
    # Factors may rest for a stage; what fades beside them still changes with every step.
    every.network.requires_grad_(requires_grad=False)
    assert frozen_layers(every.network) == 2
    assert constant_layers(every.network) == 0


def test_a_saved_student_comes_back_faded(base: Path, small_policy: Policy, splits: Splits, tmp_path: Path) -> None:
    student = build_student(config_of(base), small_policy, seed=3)
    train(student, *splits, Knowledge(), ObjectiveConfig(), QUICK, tmp_path / "run")
    student.save(tmp_path / "student")
    back = load_student(tmp_path / "student")
    texts = [example.text for example in splits[1].examples]
    pairs = zip(scorer_of(student)(texts), scorer_of(back)(texts), strict=True)
    assert all(a.risk == pytest.approx(b.risk, abs=1e-6) for a, b in pairs)
    assert back.facts["compressed_share"] == student.facts["compressed_share"] < 1


class StoppedError(Exception):
    pass


def trainer_of(student: Student, splits: Splits, out: Path) -> Trainer:
    rows = rows_of(splits[0].examples, {}, student.encoder, student.policy)
    config = QUICK.model_copy(update={"checkpoint_seconds": 0.0})
    return Trainer(student, rows, splits[1], ObjectiveConfig(), config, out)


@pytest.mark.parametrize("stop", [7, 35])
def test_a_run_that_stopped_ends_with_the_same_weights(
    base: Path, small_policy: Policy, splits: Splits, tmp_path: Path, stop: int
) -> None:
    students = [build_student(config_of(base), small_policy, seed=1) for _ in range(3)]
    trainer_of(students[0], splits, tmp_path / "whole").run()
    first = trainer_of(students[1], splits, tmp_path / "halves")
    show = first._apply

    def until(values: object) -> None:
        if first.state.step == stop:
            raise StoppedError
        show(values)  # type: ignore[arg-type]

    first._apply = until  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        first.run()
    with safe_open(tmp_path / "halves" / "progress.safetensors", "pt") as file:
        assert f'"step": {stop}' in file.metadata()["state"]
    trainer_of(students[2], splits, tmp_path / "halves").run()
    one, other = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "halves"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_factors_are_all_that_is_saved(base: Path, small_policy: Policy) -> None:
    names = build_student(config_of(base), small_policy).trained()
    assert names
    assert all(name.startswith("head.") or ".low." in name for name in names)
    assert isinstance(Fading(nn.Linear(6, 5), 2).low, Factored)
