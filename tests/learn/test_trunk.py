from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.config import ObjectiveConfig, StudentConfig, TrainConfig
from tamis.errors import ConfigError, TrainingError
from tamis.learn import train as training
from tamis.learn.batches import Knowledge
from tamis.learn.student import Student, build_student, merged
from tamis.learn.trunk import constant_depth, logits_above
from tamis.network import frozen_layers, layers_of, logits_of
from tamis.policy import Policy
from tamis.records import Example, TrainSplit, ValidationSplit

QUICK = TrainConfig(epochs=3, learning_rate=0.02, batch_size=24, report_to=(), precision="float32")


@pytest.fixture(params=["tiny_qwen", "tiny_bert"])
def base(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def student_of(base: Path, policy: Policy, **changes: object) -> Student:
    settings = {"model": str(base), "max_tokens": 32, "pretrained_dtype": "float32"} | changes
    student = build_student(StudentConfig.model_validate(settings), policy)
    for module in student.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return student


def trained(student: Student, examples: tuple[Example, ...], out: Path) -> dict[str, torch.Tensor]:
    splits = TrainSplit(examples[::2]), ValidationSplit(examples[1::2])
    training.train(student, *splits, Knowledge(), ObjectiveConfig(), QUICK, out)
    return {name: weight.clone() for name, weight in student.trained().items()}


@pytest.mark.parametrize(
    "changes",
    [{"lora": {"layers": 1}}, {"mode": "head"}, {"mode": "pclora", "lora": {"layers": 1, "rank": 4}}],
)
def test_frozen_layers_computed_once_give_the_weights_of_computing_them_always(
    base: Path,
    changes: dict[str, object],
    small_policy: Policy,
    examples: tuple[Example, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once = student_of(base, small_policy, **changes)
    passed = 0

    def count(_layer: object, inputs: tuple[torch.Tensor, ...], *_: object) -> None:
        nonlocal passed
        passed += len(inputs[0])

    layers_of(once.network.base)[0].register_forward_hook(count)
    kept = trained(once, examples, tmp_path / "once")
    # Each row that is learnt or that chooses the checkpoint, once; and one of either, to see how wide states are.
    assert passed == len(examples) + 2
    assert {path.name for path in (tmp_path / "once").iterdir()} == {"best.safetensors", "progress.safetensors"}
    monkeypatch.setattr(training, "constant_depth", lambda network: 0)
    always = trained(student_of(base, small_policy, **changes), examples, tmp_path / "always")
    assert kept.keys() == always.keys()
    for name, weight in always.items():
        torch.testing.assert_close(kept[name], weight, rtol=1e-3, atol=1e-4)


def test_kept_states_serve_the_next_run_of_the_same_rows_and_no_other(
    base: Path, small_policy: Policy, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    def run(name: str, rows: tuple[Example, ...]) -> dict[str, torch.Tensor]:
        student = student_of(base, small_policy, lora={"layers": 1})
        config = QUICK.model_copy(update={"frozen_states": str(tmp_path / "kept")})
        splits = TrainSplit(rows[::2]), ValidationSplit(rows[1::2])
        training.train(student, *splits, Knowledge(), ObjectiveConfig(), config, tmp_path / name)
        return student.trained()

    first = run("first", examples)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    assert len(stamps) == 2, "of the rows that are learnt and of those that choose the checkpoint"
    for name, weight in run("second", examples).items():
        torch.testing.assert_close(weight, first[name], rtol=0, atol=0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == stamps
    run("other rows", examples[:-4])
    assert len(list((tmp_path / "kept").iterdir())) == 4


@pytest.mark.parametrize("changes", [{"lora": {"layers": 1}}, {"mode": "head"}])
def test_students_over_the_same_layers_are_asked_above_them_and_say_the_same(
    base: Path, changes: dict[str, object], small_policy: Policy, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    config = QUICK.model_copy(update={"frozen_states": str(tmp_path / "kept")})
    texts = [example.text * (1 + i % 9) for i, example in enumerate(examples)]
    stamps = set()
    for seed in range(2):
        student = student_of(base, small_policy, **changes)
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in student.trained().values():
                weight.normal_(std=0.3)
        served, depth = merged(student).network, constant_depth(student.network)
        rows = student.encoder.encode(texts).ids
        assert len(rows) > len(texts), "some have several windows"
        passed: list[object] = []
        hook = layers_of(served.base)[0].register_forward_hook(lambda *_, seen=passed: seen.append(0))
        found = logits_above(served, depth, rows, config, tmp_path)
        hook.remove()
        assert depth in (1, 2)
        assert np.ptp(found) > 0.1
        np.testing.assert_allclose(found, logits_of(served, rows), rtol=1e-4, atol=1e-4)
        (kept,) = (tmp_path / "kept").iterdir()
        stamps.add(kept.stat().st_mtime_ns)
        # The first time all rows go through the frozen layers, then one, to see how wide they are.
        assert len(passed) == 1 if seed else len(passed) > 1
    assert len(stamps) == 1
    assert logits_above(served, 0, rows[:2], config, tmp_path).shape == (2, len(small_policy.ids))
    assert logits_above(served, depth, [], config, tmp_path).shape == (0, len(small_policy.ids))


def test_the_layers_below_the_lowest_adapter_are_frozen(base: Path, small_policy: Policy) -> None:
    expected = [({}, 0), ({"lora": {"layers": 1}}, 1), ({"mode": "head"}, 2), ({"mode": "full"}, 0)]
    for changes, depth in expected:
        assert frozen_layers(student_of(base, small_policy, **changes).network) == depth


def test_adapters_stand_in_the_upper_layers_alone(base: Path, small_policy: Policy) -> None:
    names = student_of(base, small_policy, lora={"layers": 1, "targets": "all-linear"}).trained()
    assert {name.split(".lora_")[0].split(".")[-2] for name in names if "lora" in name}
    assert all("layers.1." in name or "layer.1." in name for name in names if "lora" in name)


def test_more_layers_than_there_are_is_an_error(base: Path, small_policy: Policy) -> None:
    with pytest.raises(ConfigError, match="the model has 2 layers, got 3"):
        student_of(base, small_policy, lora={"layers": 3})


def test_a_full_disk_is_said_before_anything_is_computed(
    tiny_qwen: Path,
    small_policy: Policy,
    examples: tuple[Example, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1, 1, 0))
    with pytest.raises(TrainingError, match=r"no room for .* of hidden states"):
        trained(student_of(tiny_qwen, small_policy, lora={"layers": 1}), examples, tmp_path)
