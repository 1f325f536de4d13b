"""Every recipe can be read, and says on top how it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tamis import plan
from tamis.experiment import recipes_of
from tamis.judge.update.cases import read_tests
from tamis.learn.losses import LOSSES
from tamis.models import CATALOGUE
from tamis.policy import load_policy
from tamis.recipe import load_config, load_experiment, load_serving, load_update

FOLDER = Path(__file__).parents[1] / "recipes"
MATRICES = [FOLDER / "matrix.yaml"]
UPDATES = [FOLDER / "update.yaml"]
SERVICE = FOLDER / "serve.yaml"
RECIPES = sorted(set(FOLDER.glob("*.yaml")) - {*MATRICES, *UPDATES, SERVICE})
KINDS = {"openai", "gguf", "bundle", "ensemble", "none"}


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
    plan.check(config)


def test_the_settings_of_a_service_can_be_read_and_are_its_defaults_but_for_the_tier() -> None:
    assert f"tamis serve runs/demo/bundle --config recipes/{SERVICE.name}" in SERVICE.read_text(encoding="utf-8")
    config = load_serving(SERVICE)
    assert [tier.teacher.kind for tier in config.tiers if tier.teacher] == ["openai"]
    assert config.require_key


def test_the_variants_of_a_matrix_are_recipes() -> None:
    for path in MATRICES:
        config = load_experiment(path)
        assert f"tamis experiment recipes/{path.name}" in path.read_text(encoding="utf-8").splitlines()[0]
        base, variants = recipes_of(config, config.recipe)
        assert base.student.model in CATALOGUE
        assert {"A-lora", "D1", "D2", "D3", "D4", "D5"} <= set(variants)
        assert all(set(one.objective.distill) <= set(LOSSES) for one in variants.values())


def test_the_recipe_of_an_update_goes_on_from_a_run_of_another_recipe() -> None:
    for path in UPDATES:
        config = load_update(path)
        assert f"tamis update recipes/{path.name}" in path.read_text(encoding="utf-8").splitlines()[0]
        assert (config.name, config.out) == (path.stem, f"runs/{path.stem}")
        (before,) = (one for one in map(load_config, RECIPES) if one.out == config.run)
        assert config.bundle in (f"{before.out}/bundle", "runs/live")
        read_tests(config.functional, load_policy(config.policy.path))
        for source in (*config.data.sources, *config.regression, *config.replay.sources):
            assert source.path.startswith("data/")


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
