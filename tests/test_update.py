"""An update on tiny real parts: a bundle of three categories learns a fourth, and is let through or refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tests import processes
from tests.processes import ended, kill_when
from tests.teach.conftest import FakeEndpoint
from tests.tiny import SAID, SCENES, write_recipe

import tamis
from tamis.config import LoraConfig
from tamis.data import load_splits
from tamis.errors import BundleError, ConfigError, DataError, PolicyError, PromotionError
from tamis.learn.score import scorer_of
from tamis.pipeline import run
from tamis.policy import Policy
from tamis.recipe import load_config, load_update
from tamis.records import Example, content_id
from tamis.ship.switch import roll_back
from tamis.update import promote, update
from tamis.update_stages import UpdateStages, balanced, sample

NEW = "abuse"
PROBES = [*(text.format("雪天") for text in SAID.values()), "辱骂雪天雪天你这个废物", "一起看书喝茶"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny_qwen: Path) -> Path:
    """A run that knows three categories, made once."""
    folder = tmp_path_factory.mktemp("first")
    changes = {"teacher": {"kind": "none"}, "evaluate": {"bootstrap": 100, "latency_rows": 3, "baselines": []}}
    settings = ["data.gold=null", "train.epochs=12", "student.pooling=mean"]
    run(load_config(write_recipe(folder, tiny_qwen, "", changes), settings))
    return folder / "run"


@pytest.fixture
def feedback(tmp_path: Path) -> Path:
    """Forty reviewed texts, half of them of a category nobody knew."""
    rows = [{"text": f"辱骂{scene * 2}你这个废物", "label": NEW, "source": "review"} for scene in SCENES]
    rows += [{"text": f"正常聊天{scene * 2}看书喝茶", "label": "normal", "weight": 1} for scene in SCENES]
    return _written(tmp_path / "feedback.jsonl", rows)


def _written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def recipe_of_update(tmp_path: Path, first: Path, feedback: Path) -> Callable[..., Path]:
    """Writes the recipe of an update."""

    def write(**changes: Any) -> Path:
        tree = {
            "out": str(tmp_path / "update"),
            "bundle": str(first / "bundle"),
            "run": str(first),
            "policy": {"only": [*SAID, NEW]},
            "data": {"sources": [{"path": str(feedback)}], "near_duplicate": 1.0, "split": {"test": 0.3}},
            "functional": [],
            "train": {
                "epochs": 10,
                "learning_rate": 0.005,
                "batch_size": 8,
                "precision": "float32",
                "checkpoint_seconds": 0,
            },
            "promotion": {"bootstrap": 200},
        }
        recipe = tmp_path / "update.yaml"
        recipe.write_text(yaml.safe_dump(tree | changes, allow_unicode=True), encoding="utf-8")
        return recipe

    return write


def test_a_new_category_is_learnt_and_the_old_ones_stay(
    recipe_of_update: Callable[..., Path], first: Path, tmp_path: Path
) -> None:
    config = load_update(recipe_of_update())
    found = update(config)
    assert found.added == (NEW,)
    assert not found.refusals
    suites = {suite.kind: suite for suite in found.suites}
    assert set(suites) == {"reviewed", "before"}
    assert suites["reviewed"].changes[NEW].before == 0
    assert suites["reviewed"].changes[NEW].after >= 0.8
    assert set(suites["before"].changes) == set(SAID)
    assert found.missed[NEW].rows == found.missed[NEW].missed == len(SCENES)
    out = tmp_path / "update"
    old, new = tamis.load(first / "bundle"), tamis.load(out / "bundle")
    assert new.policy.ids == ("normal", "gambling", NEW, "fraud")
    assert old.trained_on < new.trained_on
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert found.new in page
    assert "雪天" not in page
    before = (out / "bundle" / "manifest.json").stat().st_mtime_ns
    assert update(config) == found
    assert (out / "bundle" / "manifest.json").stat().st_mtime_ns == before


def test_the_running_model_teaches_only_what_it_knows_and_nothing_people_corrected(
    recipe_of_update: Callable[..., Path], tmp_path: Path
) -> None:
    config = load_update(recipe_of_update(train={"epochs": 1, "precision": "float32"}))
    update(config)
    steps = UpdateStages(config)
    splits, memory = load_splits(tmp_path / "update" / "ingest"), steps.load_memory(tmp_path / "update" / "label")
    rows = steps.learnt(splits)
    new = [row for row in rows if row.source == "feedback"]
    assert len(rows) == len(new) + min(3 * len(new), len(splits.train) - len(new))
    assert {tuple(signal.probabilities) for signal in memory.signals.values()} == {steps.old.policy.ids}
    for row in rows:
        said = max(memory.signals[row.id].probabilities.items(), key=lambda item: item[1])[0]
        assert steps._agrees(row, memory.signals[row.id]) == (row.label in (NEW, said))
    assert not {row.id for row in new} & {row.id for row in splits.test.examples}


def test_without_its_run_new_adapters_start_as_the_bundle_and_the_next_update_goes_on_from_there(
    recipe_of_update: Callable[..., Path], first: Path, tmp_path: Path
) -> None:
    replay = {"sources": [{"path": str(first / "ingest" / "splits" / "train.jsonl")}]}
    frozen = [{"path": str(first / "ingest" / "splits" / "test.jsonl"), "name": "gold of spring"}]
    changes = {"run": None, "replay": replay, "regression": frozen, "train": {"epochs": 1, "precision": "float32"}}
    config = load_update(recipe_of_update(**changes))
    steps = UpdateStages(config)
    start = scorer_of(steps._start())(PROBES)
    for one, other in zip(start, steps.old.uncalibrated.score(PROBES), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=0.02)
    found = update(config)
    assert {(suite.name, suite.kind) for suite in found.suites} == {
        ("reviewed", "reviewed"),
        ("gold of spring", "frozen"),
    }
    again = load_update(
        recipe_of_update(),
        [f"out={tmp_path / 'again'}", f"bundle={tmp_path / 'update' / 'bundle'}", f"run={tmp_path / 'update'}"],
    )
    steps = UpdateStages(again)
    assert steps.added == ()
    going_on = steps._start()
    assert going_on.policy.ids == tamis.load(tmp_path / "update" / "bundle").policy.ids
    wider = UpdateStages(again.model_copy(update={"new_adapters": True, "lora": LoraConfig(rank=3)}))._start()
    assert wider.config.lora.rank == 3 != going_on.config.lora.rank
    splits = steps.ingest(tmp_path / "rows")
    assert {row.source for row in splits.test.examples} <= {"feedback", "test before"}


def test_a_candidate_that_loses_a_class_is_kept_refused_and_not_promoted(
    recipe_of_update: Callable[..., Path], tmp_path: Path
) -> None:
    wrong = [{"text": SAID["gambling"].format(f"{scene}夜里"), "label": "normal"} for scene in SCENES]
    others = [{"text": SAID["fraud"].format(f"{scene}夜里"), "label": "fraud"} for scene in SCENES]
    path = _written(tmp_path / "wrong.jsonl", wrong + others)
    data = {"sources": [{"path": str(path)}], "near_duplicate": 1.0, "split": {"test": 0.1}}
    changes = {"data": data, "policy": {"only": list(SAID)}, "replay": {"ratio": 0.1}, "functional": []}
    recipe = recipe_of_update(**changes)
    done = ended("update", str(recipe))
    assert done.returncode == 1
    assert "fell" in done.stdout
    said = " ".join(done.stderr.split())
    assert re.search(r"the candidate may not follow: .*gambling \(test before\).*; it is kept as", said)
    candidate, link = tmp_path / "update" / "bundle", tmp_path / "live"
    assert tamis.load(candidate).policy.ids == ("normal", "gambling", "fraud")
    with pytest.raises(PromotionError, match=r"gambling \(test before\)"):
        promote(candidate, link)
    assert not link.exists()
    assert promote(candidate, link, anyway=True) == tamis.load(link).versions["model"]


def test_promoted_and_rolled_back_it_answers_as_before(first: Path, tmp_path: Path) -> None:
    other, link = tmp_path / "other", tmp_path / "live"
    shutil.copytree(first / "bundle", other)
    spec = json.loads((other / "bundle.json").read_text())
    (other / "bundle.json").write_text(json.dumps(spec | {"temperature": 5.0}))
    _seal(other)
    promote(first / "bundle", link)
    before = tamis.load(link)(PROBES)
    assert ended("promote", str(other), "--to", str(link)).returncode == 0
    changed = tamis.load(link)(PROBES)
    assert [one.probabilities for one in changed] != [one.probabilities for one in before]
    assert ended("rollback", str(link)).returncode == 0
    after = tamis.load(link)(PROBES)
    assert [(one.probabilities, one.action, one.versions) for one in after] == [
        (one.probabilities, one.action, one.versions) for one in before
    ]
    roll_back(link)
    assert tamis.load(link).versions == changed[0].versions


def _seal(folder: Path) -> None:
    from tamis.ship.bundle import _write_manifest

    _write_manifest(folder)


def test_killed_while_training_it_ends_the_same(recipe_of_update: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe_of_update()
    progress = tmp_path / "update" / "distill" / "progress.safetensors"
    kill_when(processes.tamis("update", str(path)), progress.is_file)
    assert ended("update", str(path)).returncode == 0
    update(load_update(path, [f"out={tmp_path / 'whole'}"]))
    one, other = (load_file(tmp_path / out / "distill" / "best.safetensors") for out in ("update", "whole"))
    assert all((one[name] == other[name]).all() for name in one)


def test_the_teacher_is_asked_about_what_was_missed_alone(
    recipe_of_update: Callable[..., Path], endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    teacher = {"kind": "openai", "model": "m", "base_url": endpoint.url, "few_shot": {"n": 3}}
    found = update(load_update(recipe_of_update(teacher=teacher, train={"epochs": 1, "precision": "float32"})))
    asked = {text for text in endpoint.asked if "雨天" in text or "辱骂" in text}
    assert {f"辱骂{scene * 2}你这个废物" for scene in SCENES} <= asked
    assert found.missed[NEW].alone == len(SCENES), "it sees what the running model could not know"
    assert found.missed[NEW].shared == 0
    shown = json.dumps([body["messages"][:-1] for body in endpoint.bodies], ensure_ascii=False)
    assert "你这个废物" not in shown, "it is not shown what it is asked about"


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"policy": {"only": ["normal", "fraud"]}}, PolicyError, r"has no gambling, which the running model knows"),
        ({"run": "elsewhere"}, BundleError, "elsewhere/bundle is no bundle"),
        ({"functional": ["none.yaml"]}, ConfigError, "cannot read functional tests none.yaml"),
        ({"teacher": {"kind": "ensemble"}}, ConfigError, "an update asks one teacher about what was missed"),
        ({"data": {"sources": [{"path": "none.jsonl"}]}}, DataError, r"no file none\.jsonl"),
    ],
)
def test_what_cannot_be_updated_is_refused_before_any_work(
    recipe_of_update: Callable[..., Path], changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        update(load_update(recipe_of_update(**changes)))


def test_the_running_bundle_is_never_overwritten_nor_taken_for_another_runs(
    recipe_of_update: Callable[..., Path], first: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"lies in .*: give the next update its own out"):
        update(load_update(recipe_of_update(out=str(first))))
    shutil.copytree(first, tmp_path / "other")
    (tmp_path / "other" / "bundle" / "trained_on.txt").write_text("aa")
    _seal(tmp_path / "other" / "bundle")
    with pytest.raises(BundleError, match=r"made bundle .* and the running one is .*: name its run"):
        update(load_update(recipe_of_update(run=str(tmp_path / "other"))))


def _rows(counts: dict[str | None, int]) -> list[Example]:
    texts = [(f"{label} {i}", label) for label, count in counts.items() for i in range(count)]
    return [Example(content_id(text), text, "en", "made", label=label) for text, label in texts]


def test_replay_takes_the_classes_in_turn_and_the_same_rows_each_time() -> None:
    rows = _rows({"normal": 50, "fraud": 3, None: 9})
    drawn = sample(rows, 12)
    assert [sum(row.label == label for row in drawn) for label in ("fraud", None, "normal")] == [3, 5, 4] or [
        sum(row.label == label for row in drawn) for label in ("fraud", None, "normal")
    ] == [3, 4, 5]
    assert sample(reversed(rows), 12) == drawn
    assert len(sample(rows, 100)) == len(rows)


@pytest.mark.parametrize(("new", "copies"), [(1, 4), (10, 2), (20, 1), (40, 1)])
def test_a_new_category_is_shown_as_often_as_an_old_one_at_most_four_times(
    small_policy: Policy, new: int, copies: int
) -> None:
    rows = _rows({"normal": 30, "gambling": 10, "fraud": new})
    shown = balanced(rows, ("fraud",), small_policy)
    assert [sum(row.label == name for row in shown) for name in small_policy.ids] == [30, 10, copies * new]
