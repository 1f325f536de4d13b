"""The whole story for policies of several labels and of levels, on tiny real parts as in test_pipeline.py."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.teach.conftest import FakeEndpoint, completion, serve

import tamis
from tamis.config import GateConfig
from tamis.errors import GateError
from tamis.network import OrdinalHead
from tamis.pipeline import run
from tamis.policy import load_policy
from tamis.recipe import load_config
from tamis.show import conclude

SCENES = "早上 中午 晚上 周末 雨天 夏天 冬天 放学 下班 旅行 过年 开学 搬家 生日 聚会 考试 跑步 买菜 做饭 看病".split()
SEVERAL = {
    "normal": "正常聊天{}去公园散步遇到老朋友",
    "gambling|!fraud": "赌博平台{}注册送彩金快来上车",
    "fraud": "欺诈兼职{}轻松月入过万私我带你",
    "gambling|fraud": "赌博平台注册送彩金{}欺诈兼职月入过万",
}
LEVELS = {
    "none": (0.0, "正常聊天{}去公园散步遇到老朋友"),
    "mild": (0.3, "轻微粗话{}你真烦人别再说了"),
    "serious": (0.7, "严重诈骗{}轻松月入过万私我带你"),
    "extreme": (1.0, "极端威胁{}今晚就要你的命"),
}
Recipe = Callable[..., Path]


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    server = serve(fake)
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def recipe(tmp_path: Path, tiny_qwen: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("OPENAI_API_KEY", "test")

    def write(rows: list[dict[str, Any]], policy: str, source: dict[str, Any], teacher: dict[str, Any]) -> Path:
        with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        split = {"validation": 0.2, "calibration": 0.1, "test": 0.2}
        tree = {
            "name": "kinds",
            "out": str(tmp_path / "run"),
            "policy": {"path": policy},
            "data": {
                "sources": [{"path": str(tmp_path / "rows.csv"), **source}],
                "near_duplicate": 1.0,
                "split": split,
            },
            "teacher": teacher,
            "student": {"model": str(tiny_qwen), "max_tokens": 48, "pretrained_dtype": "float32"},
            "train": {"epochs": 4, "learning_rate": 0.02, "batch_size": 8, "precision": "float32"},
            "evaluate": {"bootstrap": 100, "latency_rows": 3},
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
        return path

    return write


def asked(endpoint: FakeEndpoint) -> dict[str, Any]:
    return {
        "kind": "openai",
        "model": "m",
        "base_url": endpoint.url,
        "few_shot": {"n": 4},
        "self_check": 2,
        "prior_correction": False,
    }


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def several(folder: Path) -> str:
    policy = load_policy("default").only(["normal", "gambling", "fraud"])
    tree = policy.model_dump(mode="json") | {"kind": "multi_label"}
    (folder / "several.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    return str(folder / "several.yaml")


def test_several_labels_some_of_them_unknown_with_a_teacher(
    recipe: Recipe, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    def stated(_body: Any, text: str, _times: int) -> Any:
        told = {"赌博": float("赌博" in text), "欺诈": 0.9 * ("欺诈" in text)}
        told["正常"] = 1 - max(told.values())
        return 200, completion(json.dumps(told, ensure_ascii=False)), {}

    endpoint.rule = stated
    rows = [{"text": text.format(scene * 3), "label": label} for label, text in SEVERAL.items() for scene in SCENES]
    out = run(load_config(recipe(rows, several(tmp_path), {"unlisted": "unknown"}, asked(endpoint)))).parent
    kept = [json.loads(line) for line in (out / "ingest" / "splits" / "train.jsonl").read_text("utf-8").splitlines()]
    assert {(*row["labels"], "but", *row["unknown"]) for row in kept} == {
        ("normal", "but"),
        ("gambling", "but"),
        ("fraud", "but", "gambling"),
        ("gambling", "fraud", "but"),
    }
    shown = [body for body in endpoint.bodies if len(body["messages"]) > 2]
    assert all('"赌博": ' in body["messages"][2]["content"] for body in shown)
    audit = read(out / "label" / "audit.json")
    assert audit["methods"] == {"verbalised": audit["rows"]}
    assert audit["macro_f1"] == 1.0
    assert audit["linear_macro_f1"] > 0.8
    figures = read(out / "report" / "metrics.json")
    assert figures["kind"] == "multi_label"
    assert figures["support"]["fraud"] == 8
    assert figures["models"]["student"]["metrics"]["macro_f1"]["value"] > 0.8
    both = tamis.load(out / "bundle")([SEVERAL["gambling|fraud"].format("清晨")])[0]
    assert min(both.probabilities["gambling"], both.probabilities["fraud"]) > 0.5


def test_scores_alone_teach_a_risk_and_levels(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": text.format(scene * 3), "risk": score} for score, text in LEVELS.values() for scene in SCENES]
    config = load_config(
        recipe(rows, "severity", {"label": None, "score": "risk"}, {"kind": "none"}),
        ["train.epochs=12", "train.learning_rate=0.005"],
    )
    made = run(config)
    conclude(config, made)
    assert "Spearman's" in capsys.readouterr().out
    out = made.parent
    figures = read(out / "report" / "metrics.json")
    found = figures["models"]["student"]["metrics"]
    assert set(found) == {"spearman", "kendall", "mae", "answered"}
    assert found["spearman"]["value"] > 0.8
    assert set(figures["models"]) == {"student", "keyword", "nb", "svm"}
    history = read(out / "distill" / "history.json")
    assert "score_error" in history[0]
    assert history[-1]["score"] > 0.8
    assert "Kendall" in (out / "report" / "report.md").read_text(encoding="utf-8")
    judge = tamis.load(out / "bundle")
    assert isinstance(judge.backend.network.head, OrdinalHead)
    with pytest.raises(GateError, match="macro_f1 is nan"):
        run(config.model_copy(update={"gate": GateConfig(macro_f1=0.1)}))
    risks = [decision.risk for decision in judge([text.format("清晨") for _, text in LEVELS.values()])]
    assert risks[0] < 0.25 < risks[3]


def test_levels_and_scores_mix_with_a_teacher(recipe: Recipe, endpoint: FakeEndpoint) -> None:
    def judged(_body: Any, text: str, _times: int) -> Any:
        word = next((word for word in ("轻微", "严重", "极端") if word in text), "正常")
        rest = "严重" if word == "轻微" else "轻微"
        return 200, completion(word, [(word, math.log(0.8)), (rest, math.log(0.2))]), {}

    endpoint.rule = judged
    rows = [
        {"text": text.format(scene * 3), "label": name if i % 4 else "", "risk": score}
        for name, (score, text) in LEVELS.items()
        for i, scene in enumerate(SCENES)
    ]
    out = run(load_config(recipe(rows, "severity", {"score": "risk"}, asked(endpoint)), ["train.epochs=16"])).parent
    audit = read(out / "label" / "audit.json")
    assert audit["methods"] == {"logprobs": audit["rows"]}
    assert audit["macro_f1"] == 1.0
    found = read(out / "report" / "metrics.json")["models"]
    assert {"macro_f1", "spearman", "kendall", "mae"} <= set(found["student"]["metrics"])
    assert found["teacher"]["metrics"]["spearman"]["value"] > 0.9
    assert found["student"]["metrics"]["kendall"]["value"] > 0.6
    assert {"kl", "supervised", "score_error"} <= set(read(out / "distill" / "history.json")[0])
