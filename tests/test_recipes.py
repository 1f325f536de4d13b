"""Every recipe can be read, and says on top how it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tamis import stages
from tamis.config import load_config
from tamis.learn.losses import LOSSES
from tamis.models import CATALOGUE

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
KINDS = {"openai", "gguf", "bundle", "none"}


def test_there_are_enough_recipes() -> None:
    assert len(RECIPES) >= 6
    assert {load_config(path).teacher.kind for path in RECIPES} >= KINDS


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_begins_with_its_command(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("#")
    assert f"tamis run recipes/{path.name}" in first


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_can_be_read(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert config.out == f"runs/{path.stem}"
    assert config.student.model in CATALOGUE
    assert set(config.objective.distill) <= set(LOSSES)
    stages.check(config)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_names_no_path_of_somebodys_machine(path: Path) -> None:
    for source in load_config(path).data.sources:
        assert source.path == "demo" or source.path.startswith("data/")


def test_the_demo_needs_no_key_and_no_network_beyond_the_package_index() -> None:
    config = load_config(FOLDER / "demo.yaml")
    assert [source.path for source in config.data.sources] == ["demo"]
    assert config.teacher.kind == "gguf"
    assert config.teacher.model in CATALOGUE


def test_two_steps_with_a_bundle_fit_together() -> None:
    teacher, student = load_config(FOLDER / "bundle-teacher.yaml"), load_config(FOLDER / "bundle-student.yaml")
    assert student.teacher.model == f"{teacher.out}/bundle"
    assert student.policy == teacher.policy
