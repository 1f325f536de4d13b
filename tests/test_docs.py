"""The documentation says what the code does: generated pages are fresh, examples parse, messages exist."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from click import Command, Group
from pydantic import Field
from typer.testing import CliRunner

from tamis.cli import app
from tamis.judge.lexicon import read_lexicon
from tamis.policy import load_policy, parse_policy
from tamis.recipe import parse_config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
PAIRS = (READMES, (DOCS / "weekly.md", DOCS / "weekly.zh-CN.md"))
"""Pages in English and Chinese."""

VERBS = sorted(group.name or "" for group in app.registered_groups) + sorted(
    command.name or (command.callback.__name__ if command.callback else "") for command in app.registered_commands
)
PAGES = sorted(path for path in (*DOCS.glob("*.md"), *READMES, ROOT / "CONTRIBUTING.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
PLACEHOLDER = re.compile(r"\{[^}]*\}")
CHINESE = "\u3400-\u9fff"


def fenced(text: str, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text) if name == language]


def commands() -> Iterator[tuple[str, str]]:
    """Every `tamis ...` line of a shell block, with its page."""
    for page in PAGES:
        for block in fenced(page.read_text(encoding="utf-8"), "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("tamis "):
                    yield page.name, line


def test_the_configuration_page_is_fresh() -> None:
    done = subprocess.run([sys.executable, DOCS / "build.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_setting_has_a_meaning() -> None:
    rows = [line for line in (DOCS / "configuration.md").read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    assert len(rows) >= 70
    assert [row for row in rows if row.endswith("|  |")] == []


def test_a_setting_without_a_description_ends_the_build() -> None:
    meaning_of = runpy.run_path(str(DOCS / "build.py"))["meaning_of"]
    assert meaning_of("a.b", Field(1, description="One | two.")) == "One \\| two."
    with pytest.raises(SystemExit, match=r"a\.b has no meaning: give it a description"):
        meaning_of("a.b", Field(1))


def test_make_demo_runs_what_its_page_says_and_is_no_verb() -> None:
    command = "tamis run recipes/demo.yaml"
    for page in (ROOT / "Makefile", DOCS / "demo.md", *READMES):
        assert command in page.read_text(encoding="utf-8"), page
    assert "demo" not in VERBS
    assert [page.name for page in PAGES if "tamis demo" in page.read_text(encoding="utf-8")] == []


def test_the_extras_that_messages_name_can_be_installed() -> None:
    called = {
        node.args[1].value
        for path in (ROOT / "src" / "tamis").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need" and len(node.args) == 2
        if isinstance(node.args[1], ast.Constant)
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {"postgres", "serve", "traces", "train"} == called
    assert called <= set(extras)
    assert extras["all"] == ["tamis[train,serve,postgres,traces]"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_page(verb: str) -> None:
    page = DOCS / f"{verb}.md"
    assert page.is_file()
    text = page.read_text(encoding="utf-8")
    assert f"({verb}.md)" in (DOCS / "index.md").read_text(encoding="utf-8")
    for heading in ("## What it writes", "## What can go wrong"):
        assert heading in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example_in_its_help(verb: str) -> None:
    words = [verb, "list"] if verb == "models" else [verb]
    told = CliRunner().invoke(app, [*words, "--help"])
    assert told.exit_code == 0
    assert "Example" in told.output


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_an_example_parses(page: str, line: str) -> None:
    words = shlex.split(line.partition(" < ")[0], comments=True)[1:]
    command: Command = typer.main.get_command(app)
    while isinstance(command, Group):
        assert words[0] in command.commands, f"{page}: {line}"
        command = command.commands[words.pop(0)]
    command.make_context("tamis", words)


def test_there_are_examples() -> None:
    assert len(list(commands())) >= 20


def test_links_lead_somewhere() -> None:
    pages = [*PAGES, *(DOCS / "adr").glob("*.md")]
    links = [(page, target) for page in pages for target in LINK.findall(page.read_text(encoding="utf-8"))]
    assert len(links) >= 30
    assert [(page.name, target) for page, target in links if not (page.parent / target).exists()] == []


def test_the_messages_of_the_errors_page_are_in_the_code() -> None:
    said = {
        node.value
        for path in (ROOT / "src" / "tamis").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    rows = [line.strip("| ").split(" | ") for line in (DOCS / "errors.md").read_text(encoding="utf-8").splitlines()]
    parts = {part.strip() for row in rows if len(row) == 2 for part in PLACEHOLDER.split(row[1])}
    parts = {part for part in parts if len(part) > 3} - {"message", "reason"}
    assert len(parts) >= 120
    assert sorted(part for part in parts if not any(part in sentence for sentence in said)) == []


def test_the_policy_page_shows_a_policy_that_can_be_read() -> None:
    (example,) = fenced((DOCS / "policy.md").read_text(encoding="utf-8"), "yaml")
    assert parse_policy(example, where="docs/policy.md").benign == "normal"


def test_the_evaluation_page_shows_a_lexicon_that_can_be_read(tmp_path: Path) -> None:
    (example,) = fenced((DOCS / "evaluate.md").read_text(encoding="utf-8"), "text")
    (tmp_path / "lexicon.tsv").write_text(example, encoding="utf-8")
    lexicon = read_lexicon(tmp_path / "lexicon.tsv", load_policy("default"))
    assert lexicon["gambling"] == {"送彩金": 4, "free spins": 2.5}


def test_both_readmes_show_the_same_recipe_and_it_can_be_read() -> None:
    found = [fenced(path.read_text(encoding="utf-8"), "yaml") for path in READMES]
    trees = [yaml.safe_load(block) for blocks in found for block in blocks]
    assert len(trees) == 2
    assert trees[0] == trees[1]
    assert parse_config(trees[0]).teacher.kind == "openai"


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].name)
def test_both_languages_have_the_same_parts(pair: tuple[Path, Path]) -> None:
    texts = [path.read_text(encoding="utf-8") for path in pair]
    bare = [FENCE.sub("", text) for text in texts]
    headings = [re.findall(r"^#+", text, re.MULTILINE) for text in bare]
    assert headings[0] == headings[1]
    assert len(headings[0]) >= 9
    blocks = [[name for name, _ in FENCE.findall(text)] for text in texts]
    assert blocks[0] == blocks[1]
    assert len(blocks[0]) >= 6
    tables = [len(re.findall(r"^\|[-:| ]+\|$", text, re.MULTILINE)) for text in texts]
    assert tables[0] == tables[1] >= 2
    assert [text.count("```bash") for text in texts] == [texts[0].count("```bash")] * 2
    pictures = [
        [Path(target).stem.removesuffix(f"-{tag}") for target in PICTURE.findall(text)]
        for text, tag in zip(texts, ("en", "zh"), strict=True)
    ]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].name)
def test_both_languages_give_the_same_commands(pair: tuple[Path, Path]) -> None:
    lines = []
    for path in pair:
        blocks = fenced(path.read_text(encoding="utf-8"), "bash")
        lines.append([line.partition("#")[0].strip() for block in blocks for line in block.splitlines()])
    assert lines[0] == lines[1]
    assert len(lines[0]) >= 10


def test_chinese_pages_use_chinese_punctuation() -> None:
    sheet = ROOT / "src" / "tamis" / "data" / "demo" / "DATASHEET.md"
    pages = [chinese.read_text(encoding="utf-8") for _, chinese in PAIRS]
    texts = [*pages, sheet.read_text(encoding="utf-8").partition("## 中文摘要")[2]]
    assert all(len(re.findall(f"[{CHINESE}]", text)) >= 200 for text in texts)
    for text in texts:
        # Where a link leads is no prose.
        prose = re.sub(r"\]\([^)\n]*\)", "]", re.sub(r"`[^`\n]*`", "x", FENCE.sub("", text)))
        # A half-width mark that touches a Chinese character.
        assert re.findall(f"[{CHINESE}][,;:!?()]|[,;!?(][{CHINESE}]|[{CHINESE}]\\.(?=\\s|$)", prose) == []
        # A line break inside a paragraph shows as a space between two Chinese characters.
        assert re.findall(f"[{CHINESE}，；、。：]\n[{CHINESE}]", prose) == []
        assert re.findall(f"[{CHINESE}](?:\\[[A-Za-z]|[A-Za-z])", prose) == []
