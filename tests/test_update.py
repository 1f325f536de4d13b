"""An update on tiny real parts: a bundle of three categories learns a fourth, and is let through or refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tests.teach.conftest import FakeEndpoint
from tests.tiny import SAID, SCENES, write_recipe

import tamis
from tamis.config import UpdateConfig
from tamis.data import load_splits
from tamis.errors import BundleError, ConfigError, DataError, PolicyError, PromotionError
from tamis.judge.update.result import Succession, require
from tamis.pipeline import run
from tamis.recipe import load_config, load_update
from tamis.records import Example, content_id
from tamis.ship.switch import roll_back
from tamis.update import promote, update
from tamis.update_stages import UpdateStages, balanced, sample

NEW = "violence"
PROBES = [f"{text.format('雪天')}" for text in SAID.values()]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A run that knows three categories, made once."""
    folder = tmp_path_factory.mktemp("first")
    changes = {"teacher": {"kind": "none"}, "evaluate": {"bootstrap": 100, "latency_rows": 3, "baselines": []}}
    run(load_config(write_recipe(folder, tiny_bert, "", changes), ["data.gold=null", "train.epochs=6"]))
    return folder / "run"


@pytest.fixture
def updated(tmp_path: Path, first: Path) -> Callable[..., Path]:
    """Writes the recipe of an update with forty reviewed texts, half of them of a category nobody knew."""
    rows = [{"text": f"暴力威胁{scene * 2}打断腿", "label": NEW, "source": "review"} for scene in SCENES]
    rows += [{"text": f"正常聊天{scene * 2}看书喝茶", "label": "normal", "weight": 1} for scene in SCENES]
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

    def write(**changes: Any) -> Path:
        tree = {
            "out": str(tmp_path / "update"),
            "bundle": str(first / "bundle"),
            "run": str(first),
            "policy": {"only": [*SAID, NEW]},
            "data": {"sources": [{"path": str(path)}], "near_duplicate": 1.0, "split": {"test": 0.3}},
            "train": {"epochs": 8, "learning_rate": 0.005, "batch_size": 8, "precision": "float32"},
            "promotion": {"bootstrap": 200},
            "functional": [],
        }
        recipe = tmp_path / "update.yaml"
        recipe.write_text(yaml.safe_dump(tree | changes, allow_unicode=True), encoding="utf-8")
        return recipe

    return write


def test_a_new_category_is_learnt_and_the_old_ones_stay(
    updated: Callable[..., Path], first: Path, tmp_path: Path
) -> None:
    found = update(load_update(updated()))
    assert found.added == (NEW,)
    print((tmp_path/"update"/"distill"/"history.json").read_text())
    print({(s.name,n):c for s,n,c in found.having("fell","open","held","new","short")})
    assert not found.refusals
    (reviewed,) = (suite for suite in found.suites if suite.kind == "reviewed")
    assert reviewed.changes[NEW].after >= 0.8
    assert reviewed.changes[NEW].before == 0
    (old,) = (suite for suite in found.suites if suite.kind == "before")
    assert set(old.changes) == set(SAID)
    candidate = tamis.load(tmp_path / "update" / "bundle")
    assert candidate.policy.ids[-1] == NEW
    assert {"violence"} == {one.category for one in candidate(["暴力威胁雪天雪天打断腿"])}
