from __future__ import annotations

from pathlib import Path

import pytest

from tamis.errors import ConfigError
from tamis.recipe import load_config

RECIPE = "name: t\ndata:\n  sources:\n    - path: a.jsonl\n    - path: ~/b.jsonl\nteacher: {kind: openai, model: m}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path


def test_settings_are_changed_from_the_command_line(recipe: Path) -> None:
    config = load_config(recipe, ["student.lora.rank=16", "data.sources.1.text=body", "teacher.few_shot.kind=nearest"])
    assert config.student.lora.rank == 16
    assert config.data.sources[1].text == "body"
    assert config.teacher.few_shot.kind == "nearest"
    assert config.data.sources[1].path == str(Path.home() / "b.jsonl")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("student.lora.rnak=3", "unknown setting 'student.lora.rnak', did you mean 'rank'"),
        ("teacher.concurency=3", "did you mean 'concurrency'"),
        ("data.sources.0.txt=b", "did you mean 'text'"),
        ("trian.epochs=3", "did you mean 'train'"),
        ("train.epochs=0", r"train\.epochs: Input should be greater than 0, got 0"),
        ("data.sources.7.text=b", "must be a number from 0 to 1"),
        ("name.x=1", "inside a value|holds a value"),
        ("name=[1", r"--set name=\[1: the value is not YAML \(expected ',' or '\]'.*\): close or quote it$"),
        ("name=2024-13-45", r"the value is not YAML \(month must be"),
        ("nonsense", "takes dotted.key=value"),
        ("teacher.model=''", "needs `model`"),
    ],
)
def test_a_wrong_setting_is_answered_with_the_right_one(recipe: Path, override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(recipe, [override])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("a: [", "is not YAML"), ("a: 2024-13-45", "is not YAML"), ("- 1", "must be a mapping"), ("", "must be")],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        load_config(tmp_path / "r.yaml")
    with pytest.raises(ConfigError, match="cannot read recipe"):
        load_config(tmp_path / "none.yaml")


ONE = "{kind: openai, model: m}"


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        ("{kind: ensemble}", "needs two or more `members`, it has 0"),
        (f"{{kind: ensemble, members: [{ONE}]}}", "needs two or more `members`, it has 1"),
        (f"{{kind: openai, model: m, members: [{ONE}, {ONE}]}}", "a teacher of kind openai has no `members`"),
        (f"{{kind: ensemble, members: [{ONE}, {{kind: ensemble}}]}}", "is one teacher, not of kind ensemble"),
        (f"{{kind: ensemble, members: [{ONE}, {{kind: none}}]}}", "is one teacher, not of kind none"),
        (f"{{kind: ensemble, members: [{ONE}, {{kind: gguf}}]}}", r"members\.1: .*kind gguf needs `model`"),
        (
            f"{{kind: ensemble, budget: {{tokens: 9}}, votes: 3, members: [{ONE}, {ONE}]}}",
            "is not asked itself: move budget, votes into its `members`",
        ),
        (f"{{kind: ensemble, members: [{ONE}, {ONE}], weights: [1]}}", "got 1 `weights` for 2 members"),
        (f"{{kind: ensemble, members: [{ONE}, {ONE}], weights: [1, -1]}}", "must be numbers from 0 up"),
        (f"{{kind: ensemble, members: [{ONE}, {ONE}], weights: [0, 0]}}", "must be numbers from 0 up"),
        (f"{{kind: ensemble, members: [{ONE}, {ONE}], weights: [1, .inf]}}", "must be numbers from 0 up"),
        (
            f"{{kind: ensemble, combine: majority, members: [{ONE}, {ONE}], weights: [1, 1]}}",
            "are those of a mean, not of majority",
        ),
        (
            f"{{kind: ensemble, members: [{ONE}, {{kind: openai, model: m, limit: 5}}]}}",
            r"unknown setting 'teacher\.members\.1\.limit'",
        ),
    ],
)
def test_an_ensemble_that_does_not_fit_together(recipe: Path, teacher: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(recipe, [f"teacher={teacher}"])


def test_a_recipe_of_several_teachers_can_be_tried_without_any(recipe: Path) -> None:
    several = f"teacher={{kind: ensemble, limit: 5, members: [{ONE}, {ONE}], weights: [1, 3]}}"
    config = load_config(recipe, [several, "teacher.members.1.budget.tokens=9"])
    assert [member.budget.tokens for member in config.teacher.members] == [None, 9]
    assert load_config(recipe, [several, "teacher.kind=none"]).teacher.kind == "none"
