"""The decision log: SQLite always, PostgreSQL where TAMIS_TEST_POSTGRES names one."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import unicodedata
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, text, update

from tamis.decisions import CHAINED, GENESIS, DecisionLog, Logged, canonical, decisions_table, forget, preview, verify
from tamis.errors import ConfigError, DataError
from tamis.records import NO_ANSWER, Decision, Scores, content_id
from tamis.signals import text_signals
from tamis.store import Store

TEXT = "加微信 abc12345 日入上千，机会难得，名额有限！"


def decision(what: str, **changes: object) -> Decision:
    tree = {
        "id": content_id(what),
        "action": "review",
        "category": "fraud",
        "scores": Scores({"normal": 0.25, "fraud": 0.75}, 0.75, 0.8, ("日入上千",)),
        "versions": {"policy": "default 1.0", "model": "abc", "tamis": "0.1.0"},
        "tiers": ("student", "person"),
        "reasons": ("student: risk calls for review",),
        "latency_ms": 12.5,
    }
    return Decision(**tree | changes)


def write(store: Store, *texts: str, keep_days: int | None = None) -> list[Logged]:
    with DecisionLog(store, keep_days) as log:
        futures = [log.add(decision(what), what, content_id(what)) for what in texts]
        return [one.result(30) for one in futures]


def test_what_goes_in_holds_and_its_text_is_not_there(url: str) -> None:
    with Store.open(url) as store:
        logged = write(store, TEXT, "b", "c")
        assert [one.action for one in logged] == ["review"] * 3
        found = verify(store)
        assert (found.rows, found.forgotten, found.broken) == (3, 0, None)
        with store.begin() as connection:
            rows = connection.execute(decisions_table.select().order_by(decisions_table.c.number)).mappings().all()
        assert [row["id"] for row in rows] == [one.id for one in logged]
        assert json.loads(rows[0]["scores"]) == {
            "probabilities": {"normal": 0.25, "fraud": 0.75},
            "risk": 0.75,
            "uncertainty": 0.8,
        }
        assert "日入上千" not in str(dict(rows[0]))
        assert json.loads(rows[0]["signals"]) == text_signals(TEXT)
        assert json.loads(rows[0]["kept"])["preview"] == "字字字 xxx#…字字，字字字字！"
        assert found.head == rows[-1]["hash"]


def test_the_chain_by_hand(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store:
        write(store, "a", "b")
        with store.begin() as connection:
            first, second = connection.execute(decisions_table.select()).mappings().all()
    plain = json.dumps({name: first[name] for name in CHAINED}, sort_keys=True, separators=(",", ":"))
    assert first["previous"] == GENESIS
    assert first["hash"] == hashlib.sha256(plain.encode()).hexdigest() == second["previous"]


def test_rows_from_before_the_counts_hold(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store:
        write(store, "a")
        with store.begin() as connection:
            row = dict(connection.execute(decisions_table.select()).mappings().one())
            # As it was written when the table had no such column.
            plain = {name: row[name] for name in CHAINED if name != "signals"}
            hashed = hashlib.sha256(canonical(plain).encode()).hexdigest()
            connection.execute(update(decisions_table).values(signals=None, hash=hashed))
        write(store, "b")
        assert verify(store).broken is None
        with store.begin() as connection:
            connection.execute(update(decisions_table).where(decisions_table.c.number == 1).values(signals="{}"))
        assert verify(store).rows == 0


CHANGES = {
    "number": 7,
    "id": "0" * 32,
    "key": "another",
    "time": "2020-01-01T00:00:00.000000+00:00",
    "content": "0" * 16,
    "action": "pass",
    "category": "normal",
    "scores": '{"risk": 0.1}',
    "tiers": "[]",
    "reasons": "[]",
    "versions": "{}",
    "latency_ms": 1.0,
    "signals": None,
    "until": "2020-01-01T00:00:00.000000+00:00",
    "seal": "0" * 64,
    "previous": "1" * 64,
    "hash": "2" * 64,
    "kept": '{"preview":"x"}',
}


def test_every_column_is_tampered_with() -> None:
    assert set(CHANGES) == set(decisions_table.columns.keys())


@pytest.mark.parametrize("column", sorted(CHANGES))
def test_a_changed_field_is_found(url: str, column: str) -> None:
    with Store.open(url) as store:
        logged = write(store, "a", "b", "c")
        with store.begin() as connection:
            connection.execute(
                update(decisions_table).where(decisions_table.c.id == logged[1].id).values({column: CHANGES[column]})
            )
        found = verify(store)
        assert found.rows == 1
        # A number that was changed leaves a gap, which the next row shows.
        assert found.broken
        assert found.broken.startswith("row 3" if column == "number" else "row 2")


@pytest.mark.parametrize("number", [1, 2])
def test_a_row_taken_out_is_found(url: str, number: int) -> None:
    with Store.open(url) as store:
        write(store, "a", "b", "c")
        with store.begin() as connection:
            connection.execute(decisions_table.delete().where(decisions_table.c.number == number))
        found = verify(store)
        assert found.rows == number - 1
        assert found.broken
        assert "the row before it was changed, added or taken out" in found.broken


def test_two_rows_that_changed_places_are_found(url: str) -> None:
    with Store.open(url) as store:
        write(store, "a", "b", "c")
        with store.begin() as connection:
            for old, new in ((1, 9), (2, 1), (9, 2)):
                connection.execute(update(decisions_table).where(decisions_table.c.number == old).values(number=new))
        assert verify(store).rows == 0


def test_forgetting_leaves_the_chain_whole_and_nothing_of_the_text(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store:
        logged = write(store, TEXT, "b", TEXT + "!", keep_days=30)
        files = list(tmp_path.iterdir())
        plain = canonical(TEXT).strip('"')[:60].encode()
        assert any(plain in file.read_bytes() for file in files)
        head = verify(store).head
        assert forget(store, content_id(TEXT)) == 1
        assert forget(store, logged[2].id) == 1
        assert forget(store, "nothing") == 0
        found = verify(store)
        assert (found.rows, found.forgotten, found.broken, found.head) == (3, 2, None, head)
        assert not any(plain in file.read_bytes() for file in tmp_path.iterdir())


def test_whole_texts_are_kept_for_their_days_alone(url: str) -> None:
    moment = [datetime(2026, 1, 1, tzinfo=UTC)]
    with Store.open(url) as store:
        with DecisionLog(store, keep_days=7, now=lambda: moment[0]) as log:
            log.add(decision("a\0\ud800一"), "a\0\ud800一", "1").result(30)
            moment[0] += timedelta(days=6, hours=23)
            assert log.expire() == 0
            with store.begin() as connection:
                kept = connection.execute(text("SELECT kept FROM decisions")).scalar_one()
            assert json.loads(kept)["text"] == "a\0\ud800一"
            moment[0] += timedelta(hours=2)
            # The writer looks once an hour.
            log.add(decision("b"), "b", "2").result(30)
        found = verify(store)
        assert (found.rows, found.forgotten, found.broken) == (2, 1, None)


def test_a_key_is_logged_once(url: str) -> None:
    with Store.open(url) as store, DecisionLog(store) as log:
        first = log.add(decision("a"), "a", "k").result(30)
        again = log.add(decision("a", action="block"), "a", "k").result(30)
        twice = [log.add(decision("b"), "b", "k2") for _ in range(5)]
        assert first.fresh
        assert again == Logged(first.id, "review", fresh=False)
        assert len({one.result(30).id for one in twice}) == 1
        with pytest.raises(DataError, match="was used for another text"):
            log.add(decision("c"), "c", "k").result(30)
        assert verify(store).rows == 2


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb", "a\0"])
def test_a_key_that_cannot_be_one_is_refused(tmp_path: Path, key: str) -> None:
    with (
        Store.open(tmp_path / "s.db") as store,
        DecisionLog(store) as log,
        pytest.raises(DataError, match="1 to 200 printable"),
    ):
        log.add(decision("a"), "a", key)


def test_what_is_no_number_is_logged(url: str) -> None:
    with Store.open(url) as store:
        with DecisionLog(store) as log:
            log.add(decision("a", scores=NO_ANSWER, category=""), "a", "k").result(30)
        assert verify(store).broken is None


def test_waiting_decisions_share_a_commit(url: str) -> None:
    commits = []
    with Store.open(url) as store, Store.open(url) as other, DecisionLog(store) as log:
        event.listen(store._engine, "commit", commits.append)
        with other.exclusive(7_461_514):
            futures: list[Future[Logged]] = [log.add(decision(str(i)), str(i), str(i)) for i in range(100)]
            assert not any(one.done() for one in futures)
        assert len({one.result(30).id for one in futures}) == 100
        # The first may have gone alone, before the others came.
        assert len(commits) <= 2
        assert verify(store).rows == 100


def test_a_database_that_is_held_fails_the_future_and_the_log_goes_on(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db", busy_seconds=0.1) as store, DecisionLog(store) as log:
        with (
            Store.open(tmp_path / "s.db") as other,
            other.exclusive(1),
            pytest.raises(ConfigError, match="database is locked"),
        ):
            log.add(decision("a"), "a", "k").result(30)
        assert log.add(decision("a"), "a", "k").result(30).fresh


def test_a_closed_log_refuses(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store:
        with DecisionLog(store) as log:
            pass
        with pytest.raises(ConfigError, match="is closed"):
            log.add(decision("a"), "a", "k")


WRITER = """
import sys
from tamis.decisions import DecisionLog
from tamis.records import Decision, Scores, content_id
from tamis.signals import text_signals
from tamis.store import Store

url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Store.open(url) as store, DecisionLog(store) as log:
    for i in range(count):
        text = f"{name} {i}"
        one = Decision(content_id(text), "pass", "normal", Scores({"normal": 1.0}, 0.0, 0.0), {})
        log.add(one, text, text).result(60)
        print(text, flush=True)
"""


def writer(url: str, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, url, name, str(count)], stdout=subprocess.PIPE, text=True)


def keys(store: Store) -> set[str]:
    with store.begin() as connection:
        return set(connection.execute(decisions_table.select().with_only_columns(decisions_table.c.key)).scalars())


def test_processes_that_write_at_once_make_one_chain(url: str) -> None:
    children = [writer(url, f"process {i}", 25) for i in range(3)]
    assert [child.communicate()[0].count("\n") for child in children] == [25] * 3
    with Store.open(url) as store:
        found = verify(store)
        assert (found.rows, found.broken) == (75, None)


def test_a_killed_process_loses_no_acknowledged_decision(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    acknowledged: set[str] = set()
    for i in range(3):
        child = writer(url, f"life {i}", 1_000_000)
        assert child.stdout
        acknowledged |= {child.stdout.readline().strip() for _ in range(20 + 15 * i)}
        child.send_signal(signal.SIGKILL)
        acknowledged |= {line.strip() for line in child.stdout if line.endswith("\n")}
        child.wait()
        child.stdout.close()
        with Store.open(url) as store:
            assert acknowledged <= keys(store)
            assert verify(store).broken is None
    assert len(acknowledged) >= 105


def test_a_preview_by_hand() -> None:
    assert preview("加微信 abc-123！") == "字字字 xxx-###！"
    assert preview("é①ⓐ\u2f00😀\n") == "x#x字😀?"
    assert preview("12345678 middle 今天天气很好啊") == "########… 字字字字字字字"
    assert preview("a" * 17) == "xxxxxxxx…xxxxxxxx"


@given(st.text(max_size=60))
def test_a_preview_holds_no_letter_and_no_digit(what: str) -> None:
    shown = preview(what)
    assert len(shown) <= 17
    for character in shown:
        assert character in "x#字" or not any(c.isalnum() for c in unicodedata.normalize("NFKC", character))
