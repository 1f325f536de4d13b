"""What the datasheet of the bundled corpus promises."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tamis.policy import load_policy
from tamis.records import content_id

FOLDER = Path(str(resources.files("tamis.data") / "demo"))
LABELS = load_policy("default").ids
HARD = {"euphemism", "obfuscated", "mixed_language", "sarcasm", "context", "long"}
HARMLESS = {"lookalike", "news", "quote", "sarcasm", "mixed_language", "context"}
RESERVED = re.compile(r"\.(example|test|invalid)$")
DOMAIN = re.compile(r"(?<![\w.-])(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}(?![\w-])", re.ASCII)
SPELT_OUT = re.compile(r"点\s*(com|cn|net|org)|(\[\.\]|\(dot\))(?!\s*(example|test|invalid)\b)|\bt\.me\b")
DIGITS = re.compile(r"\d{7,}|\d{3,4}(?:[ ._-]\d{3,4}){2,}")
CODE = {"b.id", "dict.get"}
"""Column and method names in rows about programming."""

Row = dict[str, Any]


def rows_of(label: str) -> list[Row]:
    return [json.loads(line) for line in (FOLDER / f"{label}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Row]]:
    return {label: rows_of(label) for label in LABELS}


def folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def test_there_is_one_file_a_category_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == set(LABELS)


@pytest.mark.parametrize("label", LABELS)
def test_a_class_has_its_rows(label: str) -> None:
    rows = rows_of(label)
    assert len(rows) >= 200
    assert all(set(row) == {"text", "lang", "kind"} and row["text"].strip() == row["text"] != "" for row in rows)
    assert {row["kind"] for row in rows} - {"plain"} <= (HARMLESS if label == "normal" else HARD)


@pytest.mark.parametrize("label", LABELS)
def test_half_of_a_class_is_hard(label: str) -> None:
    rows = rows_of(label)
    assert 2 * sum(row["kind"] != "plain" for row in rows) >= len(rows) > 0


@pytest.mark.parametrize("label", LABELS)
def test_both_languages_are_in_each_class(label: str) -> None:
    languages = Counter(row["lang"] for row in rows_of(label))
    assert set(languages) == {"zh", "en"}
    assert 0.6 <= languages["zh"] / languages.total() <= 0.7


def test_no_text_occurs_twice(corpus: dict[str, list[Row]]) -> None:
    seen = Counter(content_id(row["text"]) for rows in corpus.values() for row in rows)
    assert seen.total() >= 1600
    assert [name for name, times in seen.items() if times > 1] == []


def test_domains_are_reserved_ones(corpus: dict[str, list[Row]]) -> None:
    found = [domain for rows in corpus.values() for row in rows for domain in DOMAIN.findall(folded(row["text"]))]
    assert len(found) >= 30
    assert [domain for domain in found if not RESERVED.search(domain) and domain not in CODE] == []


def test_no_row_holds_a_number_to_call_or_a_domain_spelt_out(corpus: dict[str, list[Row]]) -> None:
    texts = [folded(row["text"]) for rows in corpus.values() for row in rows]
    assert [match.group() for text in texts if (match := DIGITS.search(text) or SPELT_OUT.search(text))] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("call 138 0013 8000", True),
        ("扣１３８００１３８", True),
        ("薇1**…", False),
        ("order 123456", False),
        ("2012-2016", False),
        ("看 abc点com", True),
        ("abc (dot) com", True),
        ("abc (dot) example", False),
    ],
)
def test_the_search_for_contacts_finds_them(text: str, found: bool) -> None:
    assert bool(DIGITS.search(folded(text)) or SPELT_OUT.search(folded(text))) is found


def test_the_search_for_domains_finds_them() -> None:
    assert DOMAIN.findall("看www.abc.com/x 或 a-b.example，dict.get") == ["www.abc.com", "a-b.example", "dict.get"]


def test_the_datasheet_counts_right(corpus: dict[str, list[Row]]) -> None:
    sheet = (FOLDER / "DATASHEET.md").read_text(encoding="utf-8")
    table = [line.strip("| ").split(" | ") for line in sheet.splitlines() if line.startswith("| ")]
    head, told = table[0], {line[0].strip("`"): line[1:] for line in table[1:]}
    assert len(told) == len(LABELS) + 1
    every = [row for rows in corpus.values() for row in rows]
    for label, rows in {**corpus, "all": every}.items():
        counts = Counter(row["lang"] for row in rows) + Counter(row["kind"] for row in rows)
        counts["rows"], counts["hard"] = len(rows), len(rows) - counts["plain"]
        assert told[label] == [f"{counts[name]:,}" for name in head[1:]], label
