from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tamis.config import DataConfig, RunConfig
from tamis.data import load_splits, prepare_splits
from tamis.data.card import LENGTHS, SPLITS, WORDS, length_bucket, render
from tamis.data.files import atomic, write_lines
from tamis.data.split import split
from tamis.errors import DataError, LeakError
from tamis.policy import Policy
from tamis.recipe import parse_config

Write = Callable[..., Path]
LONG = "今天晚上八点在人民广场东边的咖啡馆门口见面记得带上身份证和学生证还有那本蓝色封面的书"


def sentence(number: int) -> str:
    """Twelve letters of its own; texts that differ in their numbers only would count as one."""
    return "".join(random.Random(number).choices("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏", k=12))


def config_of(*sources: dict[str, Any], **data: Any) -> RunConfig:
    return parse_config({"data": {"sources": list(sources), **data}})


@pytest.fixture
def run(write: Write) -> RunConfig:
    labels = ("normal", "abuse")
    rows = [{"text": sentence(n), "label": labels[n % 2]} for n in range(60)]
    rows += [{"text": LONG, "label": "normal"}, {"text": LONG + "啊"}, rows[0], rows[1]]
    rows += [{"text": "吵", "label": "normal"}, {"text": "吵", "label": "abuse"}, {"text": "", "label": "abuse"}]
    rows += [{"text": "x", "label": "odd"}, {"text": "y", "label": "strange"}]
    chat = write("chat|a.jsonl", rows)
    pool = write("pool.jsonl", [{"text": f"pool entry {word}"} for word in ("ab", "cdefg", "hi" * 60)])
    return config_of({"path": str(chat)}, {"path": str(pool), "label": None}, near_duplicate=0.85)


def test_the_splits_come_back_as_they_were_written(run: RunConfig, policy: Policy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    splits = prepare_splits(run, policy, out)
    assert load_splits(out) == splits
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {*(f"splits/{name}.jsonl" for name in SPLITS), "rejected.jsonl", "data_card.json", "data_card.md"}
    first = {name: (out / name).read_bytes() for name in names}
    prepare_splits(run, policy, out)
    assert {name: (out / name).read_bytes() for name in names} == first


def test_labels_and_scores_come_back_too(write: Write, multi_policy: Policy, tmp_path: Path) -> None:
    several = write("m.jsonl", [{"text": sentence(n), "label": ("abuse|fraud", "normal")[n % 2]} for n in range(40)])
    splits = prepare_splits(config_of({"path": str(several)}), multi_policy, tmp_path / "m")
    assert load_splits(tmp_path / "m") == splits
    scored = write("s.csv", "text,risk\n" + "".join(f"{sentence(n)},{n % 10 / 10}\n" for n in range(200)))
    splits = prepare_splits(config_of({"path": str(scored), "score": "risk"}), multi_policy, tmp_path / "s")
    assert load_splits(tmp_path / "s") == splits
    card = json.loads((tmp_path / "s" / "data_card.json").read_text(encoding="utf-8"))
    assert card["classes_without_verdict"] == []
    assert sum(card["splits"]["test"]["class"].values()) == len(splits.test)


def test_the_card_counts_everything(run: RunConfig, policy: Policy, tmp_path: Path) -> None:
    splits = prepare_splits(run, policy, tmp_path)
    card = json.loads((tmp_path / "data_card.json").read_text(encoding="utf-8"))
    assert card["counts"]["read"] == 60 + 4 + 5 + 3
    assert card["counts"]["exact_duplicates"] == 2
    assert card["counts"]["near_duplicates"] == 1
    assert card["rejected"] == {"contradicting labels": 2, "unknown label": 2, "no text": 1}
    assert card["classes_without_verdict"] == ["fraud"]
    for name in SPLITS:
        table = card["splits"][name]
        assert table["rows"] == len(getattr(splits, name))
        assert all(sum(table[key].values()) == table["rows"] for key in ("class", "source", "language", "length"))
    copies = card["counts"]["exact_duplicates"] + card["counts"]["near_duplicates"]
    kept = sum(card["splits"][name]["rows"] for name in SPLITS)
    assert kept + copies + sum(card["rejected"].values()) == card["counts"]["read"]


def test_rejected_rows_say_where_why_and_what(run: RunConfig, policy: Policy, tmp_path: Path) -> None:
    prepare_splits(run, policy, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"where": "chat|a.jsonl:68", "reason": "unknown label: odd", "text": "x"} in rows
    assert len(rows) == 5


@pytest.mark.parametrize(("language", "heading"), [("en", "# Data card"), ("zh", "# 数据卡")])
def test_the_card_reads_in_both_languages(
    language: str, heading: str, run: RunConfig, policy: Policy, tmp_path: Path
) -> None:
    report = run.report.model_copy(update={"language": language})
    prepare_splits(run.model_copy(update={"report": report}), policy, tmp_path)
    page = (tmp_path / "data_card.md").read_text(encoding="utf-8")
    assert page.startswith(heading)
    assert "chat\\|a" in page, "a bar in a name must not break the table"
    assert LONG not in page
    widths = {line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("|")}
    assert widths == {3, 4, 6}


def test_both_languages_say_the_same_things() -> None:
    assert WORDS["en"].keys() == WORDS["zh"].keys()
    assert len(WORDS["en"]) > 20


def test_a_card_without_rejected_rows_says_so(write: Write, policy: Policy, tmp_path: Path) -> None:
    rows = [{"text": sentence(n), "label": ("normal", "abuse", "fraud")[n % 3]} for n in range(60)]
    prepare_splits(config_of({"path": str(write("t.jsonl", rows))}), policy, tmp_path)
    page = render(json.loads((tmp_path / "data_card.json").read_text(encoding="utf-8")))
    assert page.endswith("## Rejected\n\nnone\n")


@pytest.mark.parametrize(
    ("length", "bucket"), [(1, "1-10"), (10, "1-10"), (11, "11-30"), (2000, "501-2000"), (2001, "over 2000")]
)
def test_length_buckets(length: int, bucket: str) -> None:
    assert length_bucket(length) == bucket
    assert LENGTHS[-1] == 2000


def test_a_leak_writes_nothing(write: Write, policy: Policy, tmp_path: Path) -> None:
    rows = [{"text": sentence(n), "label": ("normal", "abuse")[n % 2]} for n in range(60)]
    train = write("a.jsonl", [*rows, {"text": LONG, "label": "normal"}])
    test = write("b.jsonl", [{"text": LONG + "啊", "label": "normal"}])
    sources = [{"path": str(train)}, {"path": str(test), "split": "test"}]
    with pytest.raises(LeakError, match="1 pairs"):
        prepare_splits(config_of(*sources, near_duplicate=1.0), policy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_and_leaves_what_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_lines(path, [{"a": 1, "b": None}])

    def fill() -> None:
        with atomic(path) as file:
            file.write("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"no space left on disk to write .*rows"):
        fill()
    assert path.read_text(encoding="utf-8") == '{"a": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_told(run: RunConfig, policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .* set another `out`"):
        prepare_splits(run, policy, tmp_path / "file")


def test_splits_that_are_not_there_or_broken_are_told(run: RunConfig, policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no splits at .*train\.jsonl: prepare the data"):
        load_splits(tmp_path)
    prepare_splits(run, policy, tmp_path)
    path = tmp_path / "splits" / "test.jsonl"
    for broken in ("{", '{"id": "x", "nonsense": 1}', "[]"):
        path.write_text(broken + "\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"test\.jsonl:1 holds no example"):
            load_splits(tmp_path)


def test_unknown_categories_come_back_and_are_hidden_with_the_labels(
    write: Write, multi_policy: Policy, tmp_path: Path
) -> None:
    rows = [{"text": sentence(n), "label": ("abuse", "normal", "!abuse")[n % 3]} for n in range(60)]
    source = {"path": str(write("u.jsonl", rows)), "unlisted": "unknown"}
    splits = prepare_splits(config_of(source), multi_policy, tmp_path)
    assert load_splits(tmp_path) == splits
    told = {(example.labels, example.unknown) for example in splits.train.examples}
    assert told == {(("abuse",), ("fraud",)), (("normal",), ()), ((), ("normal", "fraud"))}
    hidden = split(
        splits.train.examples, DataConfig.model_validate({"sources": [source], "gold": 3}), multi_policy
    ).train
    assert {example.unknown for example in hidden.examples if not example.is_gold} == {()}
