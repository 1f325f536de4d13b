"""The store: SQLite always, PostgreSQL where TAMIS_TEST_POSTGRES names one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from tamis.errors import ConfigError, DataError
from tamis.records import TeacherSignal
from tamis.store import Store, notes_table


def signal(name: str = "e1", **changes: object) -> TeacherSignal:
    tree: dict = {"example_id": name, "teacher": "t@1", "label_space": "space", "method": "logprobs", "outcome": "ok"}
    tree |= {
        "probabilities": {"normal": 0.25, "abuse": 0.5},
        "known_mass": 0.75,
        "risk": 2 / 3,
        "evidence": ("一", "b"),
    }
    return TeacherSignal(**tree | changes)


def test_what_goes_in_comes_out(url: str) -> None:
    with Store.open(url) as store:
        store.add(signal())
        store.add(signal("e2", outcome="refused", probabilities={}, risk=None, evidence=()))
        store.add(signal("e1", probabilities={"normal": 1.0}), repeat=1)
    with Store.open(url) as store:
        assert store.signals("t@1", "space") == {
            "e1": signal(),
            "e2": signal("e2", outcome="refused", probabilities={}, risk=None, evidence=()),
        }
        assert store.signals("t@1", "space", repeat=1)["e1"].probabilities == {"normal": 1.0}
        assert store.signals("t@1", "other") == {}
        assert store.signals("t@2", "space") == {}


def test_adding_twice_changes_nothing_but_a_failure(url: str) -> None:
    with Store.open(url) as store:
        for outcome in ("failed", "ok", "refused", "failed"):
            store.add(signal(outcome=outcome))
        assert store.signals("t@1", "space")["e1"].outcome == "ok"


def test_notes(url: str) -> None:
    with Store.open(url) as store:
        assert store.note("k") is None
        store.set_note("k", {"a": [1, "一"]})
        store.set_note("k", {"a": 2})
        assert store.note("k") == {"a": 2}


def test_pitfall_9_a_row_under_another_key_is_refused(url: str) -> None:
    with Store.open(url) as store:
        store.add(signal("e1"))
        store.add(signal("e2"))
        with store._engine.begin() as connection:
            connection.execute(text("UPDATE signals SET example_id = 'e3' WHERE example_id = 'e1'"))
        with pytest.raises(DataError, match="row of example e3 holds e1"):
            store.signals("t@1", "space")


def test_a_newer_schema_is_refused(url: str) -> None:
    with Store.open(url) as store, store._engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match=r"schema is 9999 .* upgrade tamis"):
        Store.open(url)


def test_an_older_schema_is_brought_up_to_date(url: str) -> None:
    with Store.open(url) as store:
        store.add(signal())
        with store._engine.begin() as connection:
            for table in set(inspect(connection).get_table_names()) - {"signals", "alembic_version"}:
                connection.execute(text(f"DROP TABLE {table}"))
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    with Store.open(url) as store:
        store.set_note("k", 1)
        assert len(store.signals("t@1", "space")) == 1


def test_rows_are_inserted_or_changed(url: str) -> None:
    with Store.open(url) as store:
        for rows in ([{"key": "a", "value": 1}], [{"key": "a", "value": 5}, {"key": "b", "value": 2}]):
            with store.begin() as connection:
                store.upsert(connection, notes_table, rows, lambda _, new: {"value": new.value})
        assert (store.note("a"), store.note("b")) == (5, 2)


def test_a_plain_path_is_sqlite_and_its_folder_is_known(tmp_path: Path) -> None:
    with Store.open(tmp_path / "new" / "s.db") as store:
        assert store.folder == tmp_path / "new"
    assert (tmp_path / "new" / "s.db").is_file()


def test_processes_that_open_a_new_database_at_once(tmp_path: Path) -> None:
    code = f"from tamis.store import Store; Store.open({str(tmp_path / 's.db')!r}).close()"
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4


def test_a_locked_file_is_one_sentence(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db", busy_seconds=0.1) as store:
        other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigError, match=r"s\.db: database is locked; check that it can be written"):
            store.add(signal())
        other.execute("ROLLBACK")
        other.close()


@pytest.mark.parametrize("place", ["file/s.db", "folder"])
def test_a_place_that_cannot_hold_a_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot use the store"):
        Store.open(tmp_path / place)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"not a database, but long enough to be looked at as one" * 40)
    with pytest.raises(ConfigError, match="file is not a database"):
        Store.open(tmp_path / "s.db")


@pytest.mark.parametrize("bad", ["mysql://u:secret@h/db", "://", "postgresql://u:secret@127.0.0.1:9/db"])
def test_a_url_that_cannot_be_used_keeps_its_password(bad: str) -> None:
    with pytest.raises(ConfigError, match="store") as caught:
        Store.open(bad)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
