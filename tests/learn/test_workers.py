"""Two real worker processes must take the very steps one worker takes with the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tamis.config import StudentConfig, TrainConfig
from tamis.records import Example

CHILD = """
import json, os, sys
from pathlib import Path
import tamis.learn.train
from tamis.config import ObjectiveConfig, StudentConfig, TrainConfig
from tamis.learn.batches import Knowledge
from tamis.learn.student import build_student
from tamis.learn.train import save_tensors, train
from tamis.policy import load_policy
from tamis.records import Example, TrainSplit, ValidationSplit

settings = json.loads(Path(sys.argv[1]).read_text())
rows = tuple(Example(**row) for row in settings["rows"])
policy = load_policy("default").only(["normal", "gambling", "fraud"])
student = build_student(StudentConfig.model_validate(settings["student"]), policy)
config = TrainConfig.model_validate(settings["train"])
splits = TrainSplit(rows[:70]), ValidationSplit(rows[70:])
def save(tensors, path):
    with Path(settings["writers"]).open("a") as file:
        file.write(os.environ["RANK"])
    save_tensors(tensors, path)
tamis.learn.train.save_tensors = save
train(student, *splits, Knowledge(), ObjectiveConfig(), config, Path(settings["out"]))
"""


def weights(base: Path, rows: tuple[Example, ...], tmp_path: Path, workers: int) -> dict[str, torch.Tensor]:
    out = tmp_path / f"workers{workers}"
    train = TrainConfig(
        epochs=2,
        learning_rate=0.01,
        batch_size=24 // workers,
        report_to=(),
        precision="float32",
        checkpoint_seconds=1e9,
    )
    settings = {
        "rows": [asdict(row) for row in rows],
        "student": StudentConfig(model=str(base), max_tokens=32, pretrained_dtype="float32").model_dump(mode="json"),
        "train": train.model_dump(mode="json"),
        "out": str(out),
        "writers": str(tmp_path / "writers"),
    }
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    command = [*launch, str(tmp_path / "child.py"), str(tmp_path / "settings.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(out / "progress.safetensors")


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_pitfall_8_two_workers_take_the_steps_of_one(
    tiny_qwen: Path, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    rows = examples[::2] + examples[1::2]
    one, two = (weights(tiny_qwen, rows, tmp_path, workers) for workers in (1, 2))
    assert set((tmp_path / "writers").read_text()) == {"0"}, "several workers wrote the best weights to one file"
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-3, msg=name)
