from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from tests.processes import kill_when, start

from tamis.config import LoraConfig, ObjectiveConfig, StudentConfig, TrainConfig
from tamis.errors import ConfigError, TrainingError
from tamis.learn.batches import Knowledge
from tamis.learn.score import Quality, deciding, quality_of, scorer_of
from tamis.learn.student import Student, build_student, load_student, merged
from tamis.learn.train import Trainer, rate_factor, train
from tamis.network import layers_of, load_base, logits_of, parameters_of
from tamis.policy import Policy, load_policy
from tamis.records import Example, TeacherSignal, TestSplit, TrainSplit, ValidationSplit

MakeSignal = Callable[..., TeacherSignal]
QUICK = TrainConfig(epochs=8, learning_rate=0.02, batch_size=24, report_to=(), precision="float32", patience=9)


def config_of(folder: Path, **changes: object) -> StudentConfig:
    settings = {"model": str(folder), "max_tokens": 32, "pretrained_dtype": "float32"} | changes
    return StudentConfig.model_validate(settings)


@pytest.fixture(params=["tiny_qwen", "tiny_bert"])
def base(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def splits(examples: tuple[Example, ...]) -> tuple[TrainSplit, ValidationSplit]:
    return TrainSplit(examples[::2] + examples[1::4]), ValidationSplit(examples[3::4])


def test_a_student_learns_from_gold_alone(
    base: Path, small_policy: Policy, splits: tuple[TrainSplit, ValidationSplit], tmp_path: Path
) -> None:
    student = build_student(config_of(base), small_policy)
    state = train(student, *splits, Knowledge(), ObjectiveConfig(), QUICK, tmp_path)
    assert state.best is not None
    assert state.best.macro_f1 > 0.8


def test_a_student_learns_from_signals_alone(
    base: Path,
    small_policy: Policy,
    splits: tuple[TrainSplit, ValidationSplit],
    make_signal: MakeSignal,
    tmp_path: Path,
) -> None:
    signals = {example.id: make_signal(example) for example in splits[0].examples}
    hidden = TrainSplit(tuple(replace(example, label=None) for example in splits[0].examples))
    student = build_student(config_of(base), small_policy)
    state = train(student, hidden, splits[1], Knowledge(signals), ObjectiveConfig(), QUICK, tmp_path)
    assert state.best is not None
    assert state.best.macro_f1 > 0.8
    assert student.facts["soft_rows"] == len(hidden)


@pytest.mark.parametrize("mode", ["lora", "full", "head"])
def test_pitfall_11_a_saved_student_comes_back_with_its_head(
    base: Path, mode: str, small_policy: Policy, splits: tuple[TrainSplit, ValidationSplit], tmp_path: Path
) -> None:
    student = build_student(config_of(base, mode=mode), small_policy)
    train(student, *splits, Knowledge(), ObjectiveConfig(), QUICK.model_copy(update={"epochs": 1}), tmp_path / "run")
    student.save(tmp_path / "student")
    back = load_student(tmp_path / "student")
    texts = [example.text for example in splits[1].examples]
    pairs = zip(scorer_of(student)(texts), scorer_of(back)(texts), strict=True)
    assert all(a.risk == pytest.approx(b.risk, abs=1e-6) for a, b in pairs)
    torch.testing.assert_close(back.network.head.weight, student.network.head.weight)


def test_pitfall_11_and_16_merging_keeps_the_answers_and_the_student(base: Path, small_policy: Policy) -> None:
    student = build_student(config_of(base), small_policy)
    with torch.no_grad():
        for name, weight in student.network.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    one = merged(student)
    assert parameters_of(one.network)[0] < parameters_of(student.network)[0]
    texts = ["今天天气很好", "best slots bonus"]
    for a, b in zip(scorer_of(student)(texts), scorer_of(one)(texts), strict=True):
        assert a.risk == pytest.approx(b.risk, abs=5e-3)


def test_pitfall_13_every_adapter_gets_a_gradient(
    base: Path, small_policy: Policy, splits: tuple[TrainSplit, ValidationSplit], tmp_path: Path
) -> None:
    student = build_student(config_of(base), small_policy)
    train(student, *splits, Knowledge(), ObjectiveConfig(), QUICK.model_copy(update={"epochs": 0.1}), tmp_path)
    linear = [m for m in layers_of(load_base(base, torch.float32))[0].modules() if isinstance(m, torch.nn.Linear)]
    moved = [bool(w.detach().abs().sum() > 0) for n, w in student.network.named_parameters() if "lora_B" in n]
    assert len(moved) == 2 * len(linear)
    assert all(moved)


def test_pitfall_13_silent_adapters_stop_the_run(
    tiny_qwen: Path, small_policy: Policy, splits: tuple[TrainSplit, ValidationSplit], tmp_path: Path
) -> None:
    def detach(module: object, inputs: object, out: Any) -> None:
        out.last_hidden_state = out.last_hidden_state.detach()

    student = build_student(config_of(tiny_qwen), small_policy)
    student.network.base.register_forward_hook(detach)
    with pytest.raises(TrainingError, match="no gradient reaches"):
        train(student, *splits, Knowledge(), ObjectiveConfig(), QUICK, tmp_path)


def test_pitfall_14_a_checkpoint_is_not_chosen_on_a_test_split(
    tiny_bert: Path, small_policy: Policy, splits: tuple[TrainSplit, ValidationSplit], tmp_path: Path
) -> None:
    student = build_student(config_of(tiny_bert), small_policy)
    test = TestSplit(splits[1].examples)
    with pytest.raises(TrainingError, match="chosen on a ValidationSplit"):
        train(student, splits[0], test, Knowledge(), ObjectiveConfig(), QUICK, tmp_path)  # type: ignore[arg-type]


def quality(student: Student, split: ValidationSplit, floor: float = 0.0) -> Quality:
    gold = deciding(split)
    windows = student.encoder.encode([example.text for example in gold])
    return quality_of(logits_of(student.network, windows.ids), windows.owner, gold, student.policy, floor)


def test_the_recall_floor_comes_before_macro_f1(
    tiny_bert: Path, small_policy: Policy, splits: tuple[TrainSplit, ValidationSplit]
) -> None:
    found = quality(build_student(config_of(tiny_bert), small_policy), splits[1])
    below = replace(found, above_floor=False, macro_f1=0.99)
    assert found.beats(below)
    assert not below.beats(found)


@pytest.mark.parametrize(
    ("macro_f1", "loss", "better"),
    [
        (0.86, 0.9, True),  # the standard error of 0.8 on 64 rows is 0.05: six points are no tie
        (0.84, 0.6, False),  # four are, and the loss is the same or higher
        (0.84, 0.4, True),
        (0.76, 0.4, True),
        (0.74, 0.4, False),
    ],
)
def test_macro_f1_within_a_standard_error_is_a_tie_that_the_loss_breaks(
    macro_f1: float, loss: float, better: bool
) -> None:
    assert Quality(macro_f1, 0.5, loss, True, 64).beats(Quality(0.8, 0.5, 0.5, True, 64)) == better


def test_labels_choose_a_checkpoint_and_scores_do_where_there_are_none(
    tiny_bert: Path, small_policy: Policy, splits: tuple[TrainSplit, ValidationSplit], tmp_path: Path
) -> None:
    student = build_student(config_of(tiny_bert), small_policy)
    scored = tuple(replace(example, label=None, score=i / 99) for i, example in enumerate(splits[1].examples))
    mixed = ValidationSplit(splits[1].examples + scored)
    assert quality(student, mixed) == quality(student, splits[1])
    found = quality(student, ValidationSplit(scored), floor=0.9)
    risks = [scores.risk for scores in scorer_of(student)([example.text for example in scored])]
    assert found.score == pytest.approx(spearmanr([example.score for example in scored], risks).statistic)
    assert found.loss == pytest.approx(sum((r - i / 99) ** 2 for i, r in enumerate(risks)) / len(risks))
    assert (found.macro_f1, found.above_floor) == (None, True)
    bare = ValidationSplit(tuple(replace(example, label=None) for example in splits[1].examples))
    with pytest.raises(TrainingError, match=rf"none of the {len(bare)} validation rows has a human label or a risk"):
        train(student, splits[0], bare, Knowledge(), ObjectiveConfig(), QUICK, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("score", "loss", "better"), [(0.6, 0.9, True), (0.55, 0.4, True), (0.55, 0.6, False)])
def test_correlations_within_a_standard_error_are_a_tie_too(score: float, loss: float, better: bool) -> None:
    # 1 - 0.5^2 over the root of 64 is 0.094.
    other = Quality(None, None, 0.5, True, 64, score=0.5)
    assert Quality(None, None, loss, True, 64, score=score).beats(other) == better


def test_unknown_categories_have_no_part_in_choosing(
    tiny_bert: Path, small_policy: Policy, splits: tuple[TrainSplit, ValidationSplit]
) -> None:
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    student = build_student(config_of(tiny_bert), policy)
    known = [replace(e, label=None, labels=(str(e.label),)) for e in splits[1].examples]
    first = quality(student, ValidationSplit(tuple(known)))
    # A second copy of each row of which nothing but one category's absence is known.
    open_ = [replace(e, labels=(), unknown=("normal", "gambling")) for e in known if e.labels == ("gambling",)]
    more = quality(student, ValidationSplit((*known, *open_)))
    said = [s.probabilities["fraud"] for s in scorer_of(student)([e.text for e in open_])]
    claims, added = 3 * len(known), [-math.log(1 - p) for p in said]
    assert more.loss == pytest.approx((first.loss * claims + sum(added)) / (claims + len(added)), rel=1e-4)
    assert all(p < 0.5 for p in said) == (more.macro_f1 == first.macro_f1)


def test_an_ordinal_head_is_saved_merged_and_moved_by_training(
    base: Path, splits: tuple[TrainSplit, ValidationSplit], tmp_path: Path
) -> None:
    levels = {"normal": "none", "gambling": "mild", "fraud": "extreme"}
    split = [type(one)(tuple(replace(e, label=levels[str(e.label)]) for e in one.examples)) for one in splits]
    student = build_student(config_of(base), load_policy("severity").only(list(levels.values())))
    before = {name: weight.clone() for name, weight in student.trained().items() if "head" in name}
    state = train(student, *split, Knowledge(), ObjectiveConfig(), QUICK, tmp_path / "run")  # type: ignore[arg-type]
    assert state.best is not None
    assert state.best.loss < math.log(3), "all levels are equally likely at first"
    assert set(before) == {"head.weight", "head.bias"}
    assert all((student.trained()[name] != weight).all() for name, weight in before.items())
    student.save(tmp_path / "student")
    texts = [example.text for example in split[1].examples]
    for other in (load_student(tmp_path / "student"), merged(student)):
        pairs = zip(scorer_of(student)(texts), scorer_of(other)(texts), strict=True)
        assert all(a.risk == pytest.approx(b.risk, abs=5e-3) for a, b in pairs)


def test_a_student_of_categories_learns_its_risk_from_scores_alone(
    tiny_bert: Path, small_policy: Policy, splits: tuple[TrainSplit, ValidationSplit], tmp_path: Path
) -> None:
    split = [
        type(one)(tuple(replace(e, label=None, score=float(e.label != "normal")) for e in one.examples))
        for one in splits
    ]
    student = build_student(config_of(tiny_bert), small_policy)
    state = train(student, *split, Knowledge(), ObjectiveConfig(), QUICK, tmp_path)  # type: ignore[arg-type]
    assert state.best is not None
    assert (state.best.score or 0) > 0.6


def test_unknown_lora_targets_are_answered_with_the_layers_there_are(tiny_qwen: Path, small_policy: Policy) -> None:
    with pytest.raises(ConfigError, match=r"its layers are .*q_proj"):
        build_student(config_of(tiny_qwen, lora=LoraConfig(targets=("attn_q",))), small_policy)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.5), (1, 1.0), (2, 1.0), (11, 0.1)])
def test_the_rate_rises_then_falls(step: int, expected: float) -> None:
    assert rate_factor(step, 12, warmup=2 / 12, schedule="linear") == pytest.approx(expected)


def learn(base: Path, rows: tuple[Example, ...], policy: Policy, out: Path, pause: float) -> None:
    """Train as a process of its own, so slowly that it can be killed."""
    step = Trainer._step

    def slow(trainer: Trainer, stage: Any) -> Any:
        time.sleep(pause)
        return step(trainer, stage)

    Trainer._step = slow  # type: ignore[method-assign]
    student = build_student(config_of(base, lora={"dropout": 0.1}), policy)
    config = QUICK.model_copy(update={"checkpoint_seconds": 0.0, "epochs": 4})
    train(student, TrainSplit(rows[::2]), ValidationSplit(rows[1::2]), Knowledge(), ObjectiveConfig(), config, out)


def test_a_killed_run_ends_with_the_same_weights(
    tiny_bert: Path, examples: tuple[Example, ...], small_policy: Policy, tmp_path: Path
) -> None:
    def begin(name: str, pause: float) -> BaseProcess:
        return start(learn, tiny_bert, examples, small_policy, tmp_path / name, pause)

    whole = begin("whole", 0)
    kill_when(begin("killed", 0.15), (tmp_path / "killed" / "progress.safetensors").is_file)
    again = begin("killed", 0)
    for process in (whole, again):
        process.join(300)
        assert process.exitcode == 0
    one, other = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
