"""The whole story on tiny real parts: files, a real HTTP teacher, a real Qwen2, a bundle that is loaded again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import yaml
from safetensors.torch import load_file
from tests import processes
from tests.processes import ended, kill_when
from tests.teach.conftest import FakeEndpoint, running
from tests.tiny import SAID
from typer.testing import CliRunner

import tamis
from tamis.cli import app
from tamis.config import RunConfig
from tamis.data import load_splits
from tamis.deciding import Thresholds
from tamis.errors import BundleError, ConfigError, DataError, GateError, TeacherError
from tamis.pipeline import run
from tamis.plan import baselines, to_label
from tamis.recipe import load_config
from tamis.records import Example, content_id

REFUSAL = (400, {"error": {"message": "Content Exists Risk"}}, {})


def test_text_to_bundle_and_a_rerun_does_nothing(
    recipe: Callable[..., Path], endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    config = load_config(recipe())
    assert run(config) == tmp_path / "run" / "bundle"
    out = tmp_path / "run"
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    metrics = json.loads((out / "report" / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["models"]) == ["student", "teacher", "keyword", "nb", "svm", "svm_teacher"]
    decision = tamis.load(out / "bundle")(["赌博平台注册送彩金"])[0]
    assert set(decision.probabilities) == set(SAID)
    asked = sum(endpoint.asked.values())
    before = (out / "bundle" / "manifest.json").stat().st_mtime_ns
    for source in config.data.sources:
        os.utime(source.path, (1, 1))  # As a fresh copy of the same rows.
    run(config)
    assert sum(endpoint.asked.values()) == asked
    assert (out / "bundle" / "manifest.json").stat().st_mtime_ns == before


def test_promised_thresholds_reach_the_bundle_and_too_few_labels_stop_the_run_before_the_teacher_is_asked(
    recipe: Callable[..., Path], endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    path = recipe(thresholds={"method": "target", "target": {"recall": 0.5}, "confidence": 0.6})
    short = ["data.split.calibration=0.4", "train.epochs=1", "student.mode=head", "evaluate.baselines=[]"]
    with pytest.raises(DataError, match=r"too few labels .* gambling has \d+ and needs 92"):
        run(load_config(path, [*short, "thresholds.target.recall=0.99"]))
    assert not endpoint.asked
    run(load_config(path, [*short, "teacher.kind=none"]))
    chosen = Thresholds.model_validate_json((tmp_path / "run" / "evaluate" / "thresholds.json").read_text())
    assert {(one.figure, one.category, one.value) for one in chosen.promises} == {
        ("recall", "gambling", 0.5),
        ("recall", "fraud", 0.5),
    }
    assert tamis.load(tmp_path / "run" / "bundle").thresholds == chosen


def test_a_second_teacher_takes_what_the_first_refuses(
    recipe: Callable[..., Path], endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    endpoint.rule = lambda _body, text, _times: REFUSAL if "赌博" in text else None
    with running() as second:
        member = {"kind": "openai", "model": "m", "few_shot": {"n": 3}, "self_check": 0}
        members = [member | {"base_url": one.url} for one in (endpoint, second)]
        path = recipe(teacher={"kind": "ensemble", "combine": "fallback", "members": members})
        run(load_config(path), until="report")
        refused = {text for text in endpoint.asked if "赌博" in text}
        nothing = {"", "N/A", "无", "……", "今天天气不错。"}
        assert refused
        assert set(second.asked) == refused | nothing, "rows the first refused, and the questions about nothing"
        before = endpoint.asked + second.asked
        store = tmp_path / "run" / "store.sqlite"
        run(load_config(path, [f"out={tmp_path / 'again'}", f"store={store}"]), until="label")
        assert endpoint.asked + second.asked == before
    signals = [json.loads(line) for line in (tmp_path / "run" / "label" / "signals.jsonl").read_text().splitlines()]
    assert len(signals) >= 40
    assert {signal["outcome"] for signal in signals} == {"ok"}
    assert {signal["teacher"].partition("@")[0] for signal in signals} == {"ensemble:fallback"}
    audit = json.loads((tmp_path / "run" / "label" / "audit.json").read_text())
    first, other = audit["members"]
    assert first["outcomes"]["refused"] == other["rows"] > 0
    assert audit["macro_f1"] > first["macro_f1"]
    page = (tmp_path / "run" / "report" / "report.html").read_text(encoding="utf-8")
    assert first["name"] in page
    assert other["name"] in page


def test_a_single_stage_stops_there(recipe: Callable[..., Path], endpoint: FakeEndpoint, tmp_path: Path) -> None:
    run(load_config(recipe()), until="ingest")
    assert not endpoint.asked
    assert not (tmp_path / "run" / "label").exists()


def test_gold_alone_needs_no_teacher(recipe: Callable[..., Path], endpoint: FakeEndpoint) -> None:
    run(load_config(recipe(teacher={"kind": "none"}), ["data.gold=null"]))
    assert not endpoint.asked


def test_a_weak_student_is_not_exported(recipe: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"gate\.retention wants 1\.9.*report\.html"):
        run(load_config(recipe(gate={"retention": 1.9})))
    assert not (tmp_path / "run" / "bundle").exists()
    assert (tmp_path / "run" / "report" / "report.html").is_file()


def test_a_bundle_never_labels_what_it_learnt_from(recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(load_config(recipe(teacher={"kind": "none"}), ["data.gold=null", f"out={tmp_path / 'first'}"]))
    teacher = {"kind": "bundle", "model": str(tmp_path / "first" / "bundle"), "self_check": 0}
    with pytest.raises(TeacherError, match="was trained on row"):
        run(load_config(recipe(teacher=teacher), [f"out={tmp_path / 'second'}"]))


def test_a_chain_of_assistants_hands_the_answers_down(
    recipe: Callable[..., Path], endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    path = recipe()
    tree = yaml.safe_load(path.read_text())
    assistant = {"student": tree["student"], "train": tree["train"]}
    config = load_config(
        recipe(assistants=[assistant]), ["teacher.features=[-1]", "objective.distill={kl: 1, angle: 1}"]
    )
    config = config.model_copy(update={"objective": config.objective.model_copy(update={"relate": "hidden"})})
    assert run(config) == tmp_path / "run" / "bundle"
    read = [
        (tmp_path / "run" / part / "label" / "signals.jsonl").read_text().splitlines() for part in (".", "assistant1")
    ]
    own, first = [[json.loads(line) for line in lines] for lines in read]
    assert {signal["teacher"].partition(":")[0] for signal in first} == {"openai"}
    assert {signal["teacher"].partition(" ")[0].partition("-")[0] for signal in own} == {"bundle"}
    gold = {example.id for example in load_splits(tmp_path / "run" / "ingest").train.gold}
    assert gold
    assert not gold & {signal["example_id"] for signal in own}, "it is not asked about what it learnt by heart"
    assert all(signal["feature"] for signal in own)
    teacher = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())["models"]["teacher"]
    assert teacher["speed"]["texts_per_second"] > 0, "it is on this machine, so what it costs is measured"
    assert teacher["facts"]["file_size"] > teacher["facts"]["parameters"] > 1000
    asked = endpoint.asked.total()
    run(config)
    assert endpoint.asked.total() == asked


def test_a_bundle_without_torch_teaches_by_its_answers_alone(
    recipe: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = ["data.gold=null", f"out={tmp_path / 'first'}", "export.backend=onnx", "export.quantize=int8"]
    bundle = run(load_config(recipe(teacher={"kind": "none"}), first))
    assert json.loads((bundle / "bundle.json").read_text())["backend"] == "onnx"
    assert set(json.loads((tmp_path / "first" / "export" / "parity.json").read_text())) == {"onnx int8"}
    assert [record.name for record in caplog.records if record.name == "root"] == []
    path = recipe(teacher={"kind": "bundle", "model": str(bundle), "features": [-1]})
    with pytest.raises(BundleError, match="served by onnx shows no hidden states"):
        run(load_config(path, [f"out={tmp_path / 'second'}"]), until="label")


def test_a_bundle_of_another_policy_is_no_teacher(recipe: Callable[..., Path], tmp_path: Path) -> None:
    run(load_config(recipe(teacher={"kind": "none"}), ["data.gold=null", f"out={tmp_path / 'first'}"]))
    teacher = {"kind": "bundle", "model": str(tmp_path / "first" / "bundle")}
    with pytest.raises(ConfigError, match="use the same policy"):
        run(load_config(recipe(teacher=teacher, policy={"path": "default"}), [f"out={tmp_path / 'second'}"]))


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        ("evaluate.baselines=[bayes]", "svm"),
        ("objective.distill={kld: 1}", "kl"),
        ("train.stages=[{epochs: 1, distill: {kld: 1}}]", "kl"),
        ("train.report_to=[tensorbored]", "tensorboard"),
    ],
)
def test_unknown_names_stop_before_any_work(
    recipe: Callable[..., Path], tmp_path: Path, setting: str, known: str
) -> None:
    with pytest.raises(ConfigError, match=known):
        run(load_config(recipe(), [setting]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("evaluate.baselines=[keyword,svm_teacher]", "names 'svm_teacher' and there is no teacher: .* name 'svm'"),
        ("evaluate.lexicon=none.tsv", r"cannot read lexicon none\.tsv"),
    ],
)
def test_baselines_that_cannot_be_made_stop_before_any_work(
    recipe: Callable[..., Path], tmp_path: Path, setting: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run(load_config(recipe(teacher={"kind": "none"}), [setting]))
    assert not (tmp_path / "run").exists()


def test_the_linear_model_of_the_teachers_labels_is_shown_where_there_is_a_teacher(
    recipe: Callable[..., Path],
) -> None:
    assert baselines(load_config(recipe())) == ("keyword", "nb", "svm", "svm_teacher")
    assert baselines(load_config(recipe(), ["evaluate.baselines=[]"])) == ()
    assert baselines(load_config(recipe(teacher={"kind": "none"}))) == ("keyword", "nb", "svm")


def test_another_lexicon_in_the_same_file_is_measured_without_training_again(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    lexicon = tmp_path / "lexicon.tsv"
    settings = ["data.gold=null", f"evaluate.lexicon={lexicon}", "evaluate.baselines=[keyword]"]
    config, found = load_config(recipe(teacher={"kind": "none"}), settings), []
    for term in ("彩金", "雪山"):
        lexicon.write_text(f"{term}\tgambling\n", encoding="utf-8")
        out = run(config, until="evaluate")
        models = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["models"]
        found.append((models["keyword"]["per_class"]["gambling"]["recall"]["value"], _stamp(tmp_path)))
    assert [recall for recall, _ in found] == [1, 0]
    assert found[0][1] == found[1][1]


def _stamp(folder: Path) -> int:
    return (folder / "run" / "distill" / "history.json").stat().st_mtime_ns


def test_a_limit_takes_a_sample_not_the_first_class_of_the_file(recipe: Callable[..., Path]) -> None:
    rows = [Example(content_id(f"{label}{i}"), f"{label}{i}", "zh", "made") for label in SAID for i in range(200)]
    taken = to_label(rows, load_config(recipe(), ["teacher.limit=60"]))
    assert len(taken) == 60
    assert {row.text.rstrip("0123456789") for row in taken} == set(SAID)


def test_killed_while_labelling_and_while_training_it_ends_the_same(
    recipe: Callable[..., Path], endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    def slow(body: object, text: str, times: int) -> None:
        time.sleep(0.15)

    endpoint.rule = slow
    path = recipe()
    out = RunConfig.model_validate(yaml.safe_load(path.read_text())).out
    progress = Path(out) / "distill" / "progress.safetensors"
    kill_when(processes.tamis("run", str(path)), lambda: sum(endpoint.answered.values()) > 12)
    asked = dict(endpoint.asked)
    kill_when(processes.tamis("run", str(path)), progress.is_file)
    endpoint.rule = None
    assert ended("run", str(path)).returncode == 0
    twice = {text: count for text, count in endpoint.asked.items() if count > 2}
    in_flight = sum(endpoint.asked[text] - asked[text] for text in asked if endpoint.asked[text] > asked[text])
    assert not twice
    assert in_flight <= 4 + 4, "only what was in flight at the kill, and the self-check, is asked again"
    undisturbed = load_config(path, [f"out={tmp_path / 'whole'}", f"store={Path(out) / 'store.sqlite'}"])
    run(undisturbed)
    one, other = (load_file(Path(o) / "distill" / "best.safetensors") for o in (out, tmp_path / "whole"))
    assert all((one[name] == other[name]).all() for name in one)


def test_a_student_is_exported_again_for_another_backend_from_the_command_line(recipe: Callable[..., Path]) -> None:
    path = recipe(teacher={"kind": "none"})
    bundle = run(load_config(path, ["data.gold=null"]))
    trained = (bundle.parent / "distill" / "trained.safetensors").stat().st_mtime_ns
    text = "注册就送彩金"
    risk = tamis.load(bundle)([text])[0].risk
    for named in (["--backend", "gguf", "--quantize", "int8"], ["--backend", "onnx", "--quantize", "int8"]):
        done = CliRunner().invoke(app, ["export", str(path), *named, "--set", "data.gold=null"], catch_exceptions=False)
        assert done.exit_code == 0
        assert json.loads((bundle / "bundle.json").read_text())["backend"] == named[1]
        assert tamis.load(bundle)([text])[0].risk == pytest.approx(risk, abs=0.05)
    # Training texts have shown where its activations have outliers.
    held = onnx.load(bundle / "model.onnx", load_external_data=False).graph.initializer
    assert sum(tensor.name.endswith(".factor") for tensor in held) >= 4
    done = CliRunner().invoke(app, ["export", str(path), "--backend", "adapter", "--set", "data.gold=null"])
    assert done.exit_code == 0
    assert tamis.load(bundle)([text])[0].risk == pytest.approx(risk, abs=0.05)
    assert (bundle.parent / "distill" / "trained.safetensors").stat().st_mtime_ns == trained
