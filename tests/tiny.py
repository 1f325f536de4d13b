"""A recipe whose every part is real and tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SCENES = "早上 中午 晚上 周末 雨天 夏天 冬天 放学 下班 旅行 过年 开学 搬家 生日 聚会 考试 跑步 买菜 做饭 看病".split()
SAID = {
    "normal": "正常聊天{}去公园散步遇到老朋友",
    "gambling": "赌博平台{}注册送彩金快来上车",
    "fraud": "欺诈兼职{}轻松月入过万私我带你",
}


def write_recipe(folder: Path, model: Path, endpoint: str, changes: dict[str, Any]) -> Path:
    """Sixty Chinese rows of three categories, an endpoint as the teacher, a tiny student."""
    lines = [f"{text.format(scene * 3)},{label}" for label, text in SAID.items() for scene in SCENES]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    tree = {
        "name": "tiny",
        "out": str(folder / "run"),
        "policy": {"only": list(SAID)},
        "data": {
            "sources": [{"path": str(folder / "rows.csv")}],
            "near_duplicate": 1.0,
            "gold": 9,
            "split": {"validation": 0.2, "calibration": 0.1, "test": 0.2},
        },
        "teacher": {
            "kind": "openai",
            "model": "m",
            "base_url": endpoint,
            "few_shot": {"n": 3},
            "self_check": 2,
        },
        "student": {"model": str(model), "max_tokens": 48, "pretrained_dtype": "float32"},
        "train": {
            "epochs": 3,
            "learning_rate": 0.02,
            "batch_size": 8,
            "precision": "float32",
            "checkpoint_seconds": 0,
        },
        "evaluate": {"bootstrap": 100, "latency_rows": 3},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree | changes, allow_unicode=True))
    return path
