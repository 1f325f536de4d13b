"""What the pages say: both languages whole, and nothing named that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import tamis.ship.console as package
from tamis.ship.console.pages import PAGES
from tamis.ship.console.words import best, load_words

FOLDER = Path(package.__file__).parent
NAMES = re.compile(r"\{(\w+)\}")


def test_both_languages_say_the_same_things() -> None:
    files = sorted((FOLDER / "texts").glob("*.yaml"))
    assert len(files) >= 3
    seen: set[str] = set()
    for path in files:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert set(tree["en"]) == set(tree["zh"]), path.name
        assert not seen & set(tree["en"]), path.name
        seen |= set(tree["en"])
        for key, text in tree["en"].items():
            assert set(NAMES.findall(text)) == set(NAMES.findall(tree["zh"][key])), key
            assert re.search("[\u3000-\u9fff\uff00-\uffef]", tree["zh"][key]) or key in ALIKE, key


def test_texts_that_are_named_are_there() -> None:
    texts = load_words("en").texts
    named = set()
    for path in FOLDER.rglob("*"):
        if path.suffix in (".py", ".j2"):
            source = path.read_text(encoding="utf-8")
            named |= set(re.findall(r"""\bt\(["']([a-z]\w*)["'][,)]""", source))
            named |= set(re.findall(r"""(?:words\(|Stop\(\d+, |said=|\.go\([^()]*, )["']([a-z]\w*)["']""", source))
    assert len(named) > 80
    assert named - set(texts) == set()
    assert {f"nav_{name}" for name in PAGES} <= set(texts)


@pytest.mark.parametrize(
    ("accepted", "wanted"),
    [
        ("", "en"),
        ("zh-TW", "zh"),
        ("en-GB, zh;q=0.9", "en"),
        ("zh;q=0.8, en;q=0.9", "en"),
        ("fr, zh;q=0.1", "zh"),
        ("*", "en"),
        ("zh;q=0, fr", "en"),
        ("zh;q=x", "en"),
    ],
)
def test_the_browser_is_asked_for_its_language(accepted: str, wanted: str) -> None:
    assert best(accepted) == wanted


def test_numbers_and_spans_as_people_read_them() -> None:
    words = load_words("en")
    assert [words.span(seconds) for seconds in (3, 60, 7_199, 7_200, 200_000)] == [
        "under 1 min", "1 min", "1 h", "2 h", "2 d",
    ]  # fmt: skip
    assert (words.percent(0.1234, 1), words.percent(float("nan")), words.number(12345)) == ("12.3%", "–", "12,345")


ALIKE = {"product", "language_en", "decision_version_tamis"}
"""Names that are the same in both languages."""
