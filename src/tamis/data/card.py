"""The data card: what went into a run, what was left out and why; counts only, never a text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tamis.config import DataConfig
from tamis.data.files import write_lines, write_text
from tamis.data.prepare import Prepared
from tamis.policy import Language, Policy
from tamis.records import Example, Splits

SPLITS = ("train", "validation", "calibration", "test")
LENGTHS = (10, 30, 100, 500, 2000)
UNLABELLED = "-"

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "title": "Data card",
        "comma": ", ",
        "rows": "rows",
        "gold": "with a human verdict",
        "class": "class",
        "source": "source",
        "language": "language",
        "length": "length in characters",
        "train": "train",
        "validation": "validation",
        "calibration": "calibration",
        "test": "test",
        "removed": "Left out",
        "reason": "what",
        "read": "rows read",
        "exact_duplicates": "exact duplicates",
        "near_duplicates": "near-duplicates",
        "near_duplicates_of_evaluation": "of them, copies of evaluation texts",
        "near_duplicates_other_label": "of them, with another label than the text kept",
        "rejected": "Rejected",
        "none": "none",
        "unlabelled": "no verdict",
        "rule": (
            "Two texts are one when {share:.0%} of their shingles of {shingle} letters agree. "
            "Seed of the split: {seed}. Texts and reasons of rejected rows: rejected.jsonl."
        ),
        "absent": "Classes of the policy without a single verdict: {classes}.",
    },
    "zh": {
        "title": "数据卡",
        "comma": "、",
        "rows": "行数",
        "gold": "有人工标注",
        "class": "类别",
        "source": "来源",
        "language": "语言",
        "length": "长度（字符）",
        "train": "训练",
        "validation": "验证",
        "calibration": "校准",
        "test": "测试",
        "removed": "未采用",
        "reason": "项目",
        "read": "读入行数",
        "exact_duplicates": "完全重复",
        "near_duplicates": "近似重复",
        "near_duplicates_of_evaluation": "其中与评测文本重复",
        "near_duplicates_other_label": "其中标签与保留文本不同",
        "rejected": "拒收",
        "none": "无",
        "unlabelled": "无标注",
        "rule": (
            "两段文本有 {share:.0%} 的 {shingle} 字片段相同即视为同一条。"
            "划分种子：{seed}。拒收行的文本和原因见 rejected.jsonl。"
        ),
        "absent": "策略中没有任何标注的类别：{classes}。",
    },
}


def data_card(splits: Splits, prepared: Prepared, config: DataConfig, policy: Policy) -> dict[str, Any]:
    """Counts by split, class, source, language and length; copies removed; rows rejected by reason."""
    tables = {name: _table(getattr(splits, name).examples) for name in SPLITS}
    judged = {label for table in tables.values() for label in table["class"]}
    by_score = any(example.score is not None for name in SPLITS for example in getattr(splits, name).examples)
    return {
        "policy": policy.name,
        "policy_version": policy.version,
        "settings": {
            "near_duplicate": config.near_duplicate,
            "shingle": config.shingle,
            "gold": config.gold,
            "seed": config.split.seed,
        },
        "counts": dict(prepared.counts),
        "rejected": dict(Counter(row.kind for row in prepared.rejected).most_common()),
        "splits": tables,
        "classes_without_verdict": [] if by_score else [label for label in policy.ids if label not in judged],
    }


def _table(examples: Sequence[Example]) -> dict[str, Any]:
    classes = Counter(label for example in examples for label in _classes(example))
    return {
        "rows": len(examples),
        "gold": sum(example.is_gold for example in examples),
        "class": dict(sorted(classes.items())),
        "source": dict(sorted(Counter(example.source for example in examples).items())),
        "language": dict(sorted(Counter(example.lang for example in examples).items())),
        "length": _buckets(examples),
    }


def _classes(example: Example) -> tuple[str, ...]:
    if example.labels is not None:
        return example.labels
    if example.score is not None:
        return (f"score {min(int(example.score * 10), 9) / 10:g}",)
    return (example.label or UNLABELLED,)


def _buckets(examples: Sequence[Example]) -> dict[str, int]:
    found = Counter(length_bucket(len(example.text)) for example in examples)
    names = [length_bucket(limit) for limit in LENGTHS] + [length_bucket(LENGTHS[-1] + 1)]
    return {name: found[name] for name in names}


def length_bucket(length: int) -> str:
    """The bucket of a length in characters, e.g. `11-30`."""
    lower = 1
    for upper in LENGTHS:
        if length <= upper:
            return f"{lower}-{upper}"
        lower = upper + 1
    return f"over {LENGTHS[-1]}"


def render(card: Mapping[str, Any], language: Language = "en") -> str:
    """The card as Markdown in one of the two languages."""
    words = WORDS[language]
    settings = card["settings"]
    rule = words["rule"].format(share=settings["near_duplicate"], shingle=settings["shingle"], seed=settings["seed"])
    parts = [f"# {words['title']}", rule, _sizes(card, words)]
    if card["classes_without_verdict"]:
        parts.append(words["absent"].format(classes=words["comma"].join(card["classes_without_verdict"])))
    parts += [_cross(card, key, words) for key in ("class", "source", "language", "length")]
    counts = [(words.get(name, name), count) for name, count in card["counts"].items()]
    parts += [f"## {words['removed']}", _markdown((words["reason"], words["rows"]), counts)]
    parts.append(f"## {words['rejected']}")
    rejected = list(card["rejected"].items())
    parts.append(_markdown((words["reason"], words["rows"]), rejected) if rejected else words["none"])
    return "\n\n".join(parts) + "\n"


def _sizes(card: Mapping[str, Any], words: Mapping[str, str]) -> str:
    rows = [(words[name], card["splits"][name]["rows"], card["splits"][name]["gold"]) for name in SPLITS]
    return _markdown(("", words["rows"], words["gold"]), rows)


def _cross(card: Mapping[str, Any], key: str, words: Mapping[str, str]) -> str:
    tables = [card["splits"][name][key] for name in SPLITS]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [
        (
            words["unlabelled"] if key == "class" and name == UNLABELLED else name,
            *(table.get(name, 0) for table in tables),
        )
        for name in names
    ]
    return _markdown((words[key], *(words[name] for name in SPLITS)), rows)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table: the first column to the left, numbers to the right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in (head, rule, *rows))


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return " ".join(str(value).split()).replace("|", "\\|")


def write_card(
    splits: Splits, prepared: Prepared, config: DataConfig, policy: Policy, out: Path, language: Language = "en"
) -> None:
    """Write `data_card.json`, `data_card.md` and `rejected.jsonl` to `out`."""
    card = data_card(splits, prepared, config, policy)
    write_lines(out / "rejected.jsonl", (asdict(row) for row in prepared.rejected))
    write_text(out / "data_card.json", json.dumps(card, ensure_ascii=False, indent=2) + "\n")
    write_text(out / "data_card.md", render(card, language))
