"""Many tiny students of one recipe, in processes of their own, and the report about them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from psutil import Process, wait_procs
from tests import processes
from tests.processes import ended, kill_when, wait_until
from tests.teach.conftest import FakeEndpoint

from tamis.errors import ConfigError
from tamis.experiment import recipes_of, run_experiment
from tamis.matrix import ExperimentConfig
from tamis.pipeline import run
from tamis.recipe import load_config, load_experiment, read_tree

Write = Callable[..., Path]


@pytest.fixture
def matrix(recipe: Write, tmp_path: Path) -> Write:
    """Writes an experiment of a tiny recipe: two students, one that cannot be, and two ranks."""

    def write(**changes: object) -> Path:
        base = yaml.safe_load(recipe().read_text())
        base["student"] |= {"lora": {"layers": 1, "rank": 4}}
        tree: dict[str, Any] = {
            "name": "tiny matrix",
            "out": str(tmp_path / "matrix"),
            "recipe": base,
            "seeds": [0],
            "workers": 2,
            "variants": {
                "A-lora": {"group": "A", "set": {"teacher.kind": "none"}},
                "D1": {"group": "D", "set": {"objective.alpha": 1, "objective.beta": 0}},
                "D2": {"group": "D"},
                "D2-r2": {"group": "rank", "set": {"student.lora.rank": 2}},
                "broken": {"group": "D", "set": {"student.lora.layers": 9}},
            },
        }
        path = tmp_path / "matrix.yaml"
        path.write_text(yaml.safe_dump(tree | changes, allow_unicode=True))
        return path

    return write


def test_all_students_are_compared_and_one_that_fails_stops_no_other(
    matrix: Write, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    path = matrix(seeds=[0, 1])
    out = run_experiment(load_experiment(path))
    found = json.loads((out / "metrics.json").read_text())
    assert set(found["standings"]) >= {"A-lora", "D1", "D2", "D2-r2", "broken", "teacher", "svm", "svm_teacher"}
    assert set(found["ranks"]["names"]) == {"D2-r2", "D2"}
    assert found["best"] in {"D1", "D2", "D2-r2"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "the model has 2 layers, got 9" in page
    trained = found["standings"]["D2"]["facts"]["trainable_parameters"]
    assert trained > found["standings"]["D2-r2"]["facts"]["trainable_parameters"]
    # Learnt with the teacher and without; and, for all students alike, what chooses a checkpoint, and what is asked of
    # the merged ones for that choice, for their calibration and for their test.
    assert len(list((tmp_path / "matrix" / "shared" / "states").glob("*.states"))) == 2 + 1 + 3
    asked = endpoint.asked.total()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "matrix").rglob("trained.safetensors")}
    assert len(stamps) == 8
    run_experiment(load_experiment(path))
    assert endpoint.asked.total() == asked
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_every_variant_finds_the_states_that_a_local_teacher_has_kept(
    matrix: Write, recipe: Write, tmp_path: Path
) -> None:
    run(load_config(recipe(teacher={"kind": "none"}), [f"out={tmp_path / 'first'}"]))
    tree = yaml.safe_load(matrix().read_text())
    model = str(tmp_path / "first" / "bundle")
    tree["recipe"]["teacher"] = {"kind": "bundle", "model": model, "label": "unlabelled", "features": [-1]}
    tree["variants"] = {"A-lora": {}, "D3": {"set": {"objective.distill": {"kl": 1, "hidden_l2": 1}}}}
    path = tmp_path / "states.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True))
    found = json.loads((run_experiment(load_experiment(path)) / "metrics.json").read_text())
    assert {name: one["failed"] for name, one in found["standings"].items() if one["failed"]} == {}


def test_killed_in_the_middle_nothing_goes_on_alone_and_it_ends_the_same(
    matrix: Write, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    told = {name: (tmp_path / "matrix" / "variants" / f"{name}-0" / "answer" / "answers.json") for name in ("D1", "D2")}
    variants = {"A-lora": {"group": "A", "set": {"teacher.kind": "none"}}, "D1": {}, "D2": {}}
    path = matrix(workers=1, variants=variants)
    first = tmp_path / "matrix" / "variants" / "A-lora-0" / "answer" / "answers.json"
    students: list[Process] = []

    def ready() -> bool:
        students[:] = Process(child.pid).children(recursive=True)
        return first.is_file() and bool(students)

    child = processes.tamis("experiment", str(path))
    kill_when(child, ready)
    assert not wait_procs(students, timeout=60)[1], "a student outlived its experiment"
    stamp = first.stat().st_mtime_ns
    assert ended("experiment", str(path)).returncode == 0
    assert first.stat().st_mtime_ns == stamp
    killed = {name: json.loads(path.read_text())["probabilities"] for name, path in told.items()}
    run_experiment(load_experiment(path, [f"out={tmp_path / 'whole'}"]))
    for name, rows in killed.items():
        again = tmp_path / "whole" / "variants" / f"{name}-0" / "answer" / "answers.json"
        assert json.loads(again.read_text())["probabilities"] == rows


def test_ctrl_c_ends_it_with_its_students_and_one_sentence(matrix: Write, tmp_path: Path) -> None:
    endless = {"teacher.kind": "none", "train.epochs": 100_000, "train.patience": 100_000}
    path = matrix(variants={"A-lora": {"set": endless}})
    progress = tmp_path / "matrix" / "variants" / "A-lora-0" / "distill" / "progress.safetensors"
    child = processes.tamis("experiment", str(path), err=str(tmp_path / "err"))
    wait_until(child, progress.is_file)
    students = Process(child.pid).children(recursive=True)
    for one in (child.pid, *(student.pid for student in students)):
        os.kill(one or 0, signal.SIGINT)
    child.join(60)
    assert child.exitcode == 130
    said = (tmp_path / "err").read_text()
    assert said.rstrip().endswith("stopped: run the same command again, it goes on where it stopped")
    assert "leaked" not in said
    assert not wait_procs(students, timeout=60)[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {"A-lora": {"set": {"data.gold": 3}}}}, "A-lora changes data, which all variants share"),
        ({"variants": {"A-lora": {"set": {"teacher.model": "x"}}}}, "A-lora changes teacher"),
        ({"variants": {"A-lora": {"set": {"train.epoch": 3}}}}, r"variants\.A-lora: .*did you mean 'epochs'"),
        ({"against": "A"}, "against is 'A', the variants are A-lora"),
        ({"variant": {}}, "unknown setting 'variant', did you mean 'variants'"),
        ({"variants": {"a/b": {}}, "against": "a/b"}, "variants"),
    ],
)
def test_an_experiment_that_cannot_be_is_refused_before_any_work(
    matrix: Write, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = matrix(**changes)
    with pytest.raises(ConfigError, match=message):
        run_experiment(load_experiment(path))
    assert not (tmp_path / "matrix").exists()


def test_a_recipe_may_be_a_file(matrix: Write, recipe: Write, tmp_path: Path) -> None:
    tree = yaml.safe_load(matrix().read_text()) | {"recipe": str(recipe())}
    base, configs = recipes_of(ExperimentConfig.model_validate(tree), read_tree(recipe()))
    assert base.out == str(tmp_path / "matrix" / "shared")
    assert configs["A-lora"].teacher.kind == "none"
    assert configs["D1"].objective.beta == 0
