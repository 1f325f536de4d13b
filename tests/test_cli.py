"""Bad input as a user meets it: the real command, one sentence, exit code 2, no traceback, nothing good lost."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from sqlalchemy import text
from typer.testing import CliRunner

from tamis import reviews
from tamis.cli import app
from tamis.decisions import DecisionLog
from tamis.errors import TamisError
from tamis.records import Decision, Scores, content_id
from tamis.reviews import Judgement
from tamis.store import Store

VERBS = (
    "run",
    "ingest",
    "label",
    "distill",
    "evaluate",
    "report",
    "export",
    "moderate",
    "update",
    "promote",
    "rollback",
    "doctor",
    "monitor",
    "feedback",
)
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tamis(tmp_path: Path) -> Run:
    """Run the real command in an empty folder."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "tamis"), *arguments]
        settings = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"} | environment
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=settings, timeout=300)

    return run


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command in this process, which has imported all that training needs; returns why it was refused."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(TamisError) as caught:
            app(arguments, standalone_mode=False)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    """Write a recipe over one source file with this content; returns its path."""

    def write(content: bytes | str, name: str = "rows.jsonl", **changes: object) -> str:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        tree = {
            "name": "t",
            "out": "out",
            "data": {"sources": [{"path": name}]},
            "policy": {"only": ["normal", "fraud"]},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree | changes, allow_unicode=True))
        return "recipe.yaml"

    return write


def rows(*pairs: tuple[str, str]) -> str:
    return "".join(f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in pairs)


WORDS = "河 山 云 雨 风 雪 花 草 树 木 石 火 灯 书 笔 墨 纸 琴 棋 画 茶 酒 米 面 油 盐 酱 醋 糖 饭".split()
PAIRS = list(zip(WORDS, WORDS[7:] + WORDS[:7], strict=True))
GOOD = rows(*((f"{a}{b}{a}外面的{b}景色{b}{a}", ("normal", "fraud")[i % 2]) for i, (a, b) in enumerate(PAIRS)))


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    said = done.stderr.rstrip().splitlines()
    assert said[-1].startswith("tamis: "), done.stderr
    return said[-1]


BAD = {
    "empty file": ("", {}, "empty"),
    "missing column": ('{"body": "x", "label": "normal"}\n', {}, "text"),
    "unknown label": (rows(("天气好", "benign"), ("再见了", "benign")), {}, "benign"),
    "one class only": (rows(*((f"{w}色很美丽", "normal") for w in WORDS)), {}, "fraud|class"),
    "fewer rows than classes": (rows(("天气好", "normal")), {}, "row|class"),
    "another encoding": ("文本,标签\n天气很好啊,normal\n".encode("gb18030") * 20, {}, "(?i)gb18030|utf-8"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_data_is_one_sentence(refused: Callable[..., str], recipe: Callable[..., str], case: str) -> None:
    content, changes, words = BAD[case]
    assert re.search(words, refused("ingest", recipe(content, **changes)))


def test_a_truncated_gzip_is_one_sentence(tamis: Run, recipe: Callable[..., str]) -> None:
    whole = gzip.compress(GOOD.encode())
    assert "rows.jsonl.gz" in one_sentence(tamis("ingest", recipe(whole[: len(whole) // 2], name="rows.jsonl.gz")))


def test_bad_rows_are_put_aside_and_the_good_ones_go_on(tamis: Run, recipe: Callable[..., str], tmp_path: Path) -> None:
    long = "长" * 1_000_000
    bad = b'{"text": "\\u0000", "label": "normal"}\n{"text": "\xff\xfe", "label": "normal"}\nnot json\n'
    content = GOOD.encode() + bad + rows((long, "normal")).encode()
    done = tamis("ingest", recipe(content, data={"sources": [{"path": "rows.jsonl"}]}))
    assert done.returncode == 0, done.stderr
    rejected = (tmp_path / "out" / "ingest" / "rejected.jsonl").read_text().splitlines()
    assert len(rejected) == 4


def test_a_misspelt_key_and_a_missing_file(tamis: Run, refused: Callable[..., str], recipe: Callable[..., str]) -> None:
    path = recipe(GOOD)
    assert "did you mean 'epochs'" in one_sentence(tamis("run", path, "--set", "train.epoch=3"))
    assert "cannot read recipe" in one_sentence(tamis("run", "none.yaml"))
    assert "none.jsonl" in refused("ingest", path, "--set", "data.sources.0.path=none.jsonl")


def test_an_endpoint_that_is_down_keeps_what_was_done(tamis: Run, recipe: Callable[..., str], tmp_path: Path) -> None:
    teacher = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "few_shot": {"kind": "none"}}
    teacher |= {"retries": 0, "timeout": 2}
    path = recipe(GOOD, teacher=teacher)
    assert "127.0.0.1:9" in one_sentence(tamis("label", path, OPENAI_API_KEY="x"))
    assert (tmp_path / "out" / "ingest" / "train.jsonl").is_file() or list(
        (tmp_path / "out" / "ingest").glob("*/train*")
    )


def test_broken_weights_are_one_sentence(
    tamis: Run, refused: Callable[..., str], recipe: Callable[..., str], tmp_path: Path
) -> None:
    path = recipe(GOOD, student={"model": "w.gguf"})
    (tmp_path / "w.gguf").write_bytes(b"GGUF\x03\x00\x00\x00 and then nothing")
    assert "w.gguf is truncated" in one_sentence(tamis("distill", path))
    assert "no model 'no/such'" in refused("distill", path, "--set", "student.model=no/such")


def test_moderating_without_a_bundle_is_one_sentence(tamis: Run) -> None:
    assert "is no bundle" in one_sentence(tamis("moderate", "-b", "nowhere", "x"))


def test_the_decision_log_is_verified_and_told_to_forget(tamis: Run, tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store, DecisionLog(store) as log:
        for name in ("a", "b"):
            scores = Scores({"normal": 1.0}, 0.0, 0.0)
            log.add(Decision(content_id(name), "pass", "normal", scores, {}), name, name).result(30)
    assert "1 decisions have forgotten" in tamis("audit", "forget", content_id("a"), "--store", "s.db").stdout
    assert re.search(
        "2 decisions hold, 1 of them forgotten; head [0-9a-f]{64}", tamis("audit", "verify", "--store", "s.db").stdout
    )
    with Store.open(tmp_path / "s.db") as store, store.begin() as connection:
        connection.execute(text("UPDATE decisions SET action = 'block' WHERE number = 2"))
    said = one_sentence(tamis("audit", "verify", "--store", "s.db"))
    assert re.search(r"does not hold, 1 rows before do; row 2 \(decision [0-9a-f]{32}\): its content is not", said)
    assert "there is no store none.db" in one_sentence(tamis("audit", "verify", "--store", "none.db"))
    assert not (tmp_path / "none.db").exists()


def week_of(store: Store, start: datetime, risk: float) -> None:
    moment = [start]
    with DecisionLog(store, keep_days=30, now=lambda: moment[0]) as log:
        futures = []
        for i in range(150):
            moment[0] = start + timedelta(hours=i)
            told = Scores({"normal": 1 - risk - i / 1000, "fraud": risk + i / 1000}, risk + i / 1000, i / 150)
            text = f"天气 {start} {i}"
            decision = Decision(content_id(text), "review" if i % 50 == 0 else "pass", "normal", told, {})
            futures.append(log.add(decision, text, text))
        for future in futures:
            future.result(30)


def test_monitoring_exits_with_1_on_an_alarm_and_with_0_when_calm(tamis: Run, tmp_path: Path) -> None:
    start = datetime.now(UTC) - timedelta(days=40)
    end = start + timedelta(days=7)
    with Store.open(tmp_path / "s.db") as store:
        week_of(store, start, 0.1)
        week_of(store, start + timedelta(days=20), 0.6)
    until = ("--until", f"{end:%Y-%m-%dT%H:%M:%S}")
    assert "run `tamis monitor --pin`" in one_sentence(tamis("monitor", "--store", "s.db", *until))
    assert "pinned as the reference: 150 decisions" in tamis("monitor", "--store", "s.db", "--pin", *until).stdout
    calm = tamis("monitor", "--store", "s.db", *until)
    assert calm.returncode == 0, calm.stderr
    assert "Nothing stands out" in calm.stdout
    later = f"{start + timedelta(days=27):%Y-%m-%dT%H:%M:%S}"
    loud = tamis("monitor", "--store", "s.db", "--until", later, "--language", "zh")
    assert loud.returncode == 1, loud.stderr
    assert "分数发生偏移" in loud.stdout
    assert "下一步：" in loud.stdout


def test_feedback_goes_out_and_comes_back(tamis: Run, tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store:
        week_of(store, datetime.now(UTC), 0.1)
        assert reviews.fill(store) == 3
        items = [item.id for item in reviews.listing(store)]
        reviews.judge(store, items, Judgement("ann", "fraud"))
        Store.open(tmp_path / "other.db").close()
    out = tamis("feedback", "export", "t.json", "--store", "s.db", "--format", "label-studio")
    assert "3 texts written, 0 left out" in out.stdout, out.stderr
    back = ("feedback", "import", "t.json", "--store", "other.db", "--format", "label-studio")
    assert "3 verdicts taken" in tamis(*back).stdout
    assert "0 verdicts taken" in tamis(*back).stdout
    assert "is no feedback in the format argilla" in one_sentence(
        tamis("feedback", "import", "t.json", "--store", "other.db", "--format", "argilla")
    )


def test_what_people_should_see_next_is_queued(tamis: Run, tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store:
        week_of(store, datetime.now(UTC) - timedelta(hours=150), 0.1)
    choose = ("feedback", "choose", "--store", "s.db")
    first = tamis(*choose, "--count", "20")
    # Three were to be reviewed, which is not chosen but done.
    assert "20 texts queued, chosen of 147" in first.stdout, first.stderr
    assert "normal 20" in first.stdout
    assert "5 texts queued, chosen of 127" in tamis(*choose, "--count", "5", "--by", "uncertain").stdout
    assert "name a bundle" in one_sentence(tamis(*choose, "--by", "new"))
    assert "is no bundle" in one_sentence(tamis(*choose, "--by", "now", "--bundle", "nowhere"))
    with Store.open(tmp_path / "s.db") as store:
        assert reviews.count(store, reviews.Wanted(cause="selected")) == 25
        assert reviews.count(store) == 28
        waiting = reviews.listing(store)[0]
        assert reviews.queue(store, [str(waiting.decision)]) == 0, "it waits already"


def test_a_full_disk_is_one_sentence(refused: Callable[..., str], recipe: Callable[..., str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    path = recipe(GOOD)
    assert "cannot make the folder" in refused("ingest", path, "--out", "/dev/full/x")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps_with_an_example(verb: str) -> None:
    done = CliRunner().invoke(app, [verb, "--help"])
    assert done.exit_code == 0
    assert f"tamis {verb}" in done.output


def test_doctor_says_how_to_mend(tamis: Run, tmp_path: Path) -> None:
    done = tamis("doctor", TAMIS_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert "tamis models fetch multilingual-e5-small" in done.stdout


def test_the_catalogue_is_listed(tamis: Run, tmp_path: Path) -> None:
    done = tamis("models", "list", TAMIS_HOME=str(tmp_path))
    assert "multilingual-e5-small" in done.stdout
    assert "no model 'nothing'" in one_sentence(tamis("models", "fetch", "nothing"))
