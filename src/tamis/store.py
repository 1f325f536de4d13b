"""The teacher's signals in a database, each committed as it arrives: SQLite by default, PostgreSQL by URL.

Other tables of the same database have modules of their own (`decisions.py`) and use its transactions.

Rows are matched by (teacher, label space, example id, repeat), never by position, and every row read is checked to
hold what its key says.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    URL,
    Column,
    Connection,
    DateTime,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from tamis.errors import ConfigError, DataError, need
from tamis.records import TeacherSignal

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30.0
_MIGRATION_LOCK = 7_461_513
Change = Callable[[Any, Any], Mapping[str, Any]]

metadata = MetaData()
signals_table = Table(
    "signals",
    metadata,
    Column("teacher", String(200), primary_key=True),
    Column("label_space", String(64), primary_key=True),
    Column("example_id", String(64), primary_key=True),
    Column("repeat", Integer, primary_key=True),
    Column("outcome", String(16), nullable=False),
    Column("method", String(16), nullable=False),
    Column("body", JSON, nullable=False),
    Column("created", DateTime(timezone=True), nullable=False),
)
notes_table = Table(
    "notes", metadata, Column("key", String(300), primary_key=True), Column("value", JSON, nullable=False)
)


class Store:
    """Signals and notes of one database; use it as a context manager."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert

    @classmethod
    def open(cls, url: str | Path, busy_seconds: float = BUSY_SECONDS, create: bool = True) -> Self:
        """Open a database and bring its schema up to date.

        Args:
            url: a SQLAlchemy URL, or the path of a SQLite file; its folder is created.
            busy_seconds: how long a SQLite write waits for another process.
            create: make a SQLite file that is not there, instead of refusing it.

        Raises:
            ConfigError: it cannot be opened, is locked or unwritable, or was written by a newer tamis.
        """
        where = _url(url)
        if not create and _file(where) and not Path(_file(where)).is_file():
            raise ConfigError(f"there is no store {_file(where)}: give the URL or the file of one")
        with _sentences(where):
            _make_folder(where)
            engine = _engine(where, busy_seconds)
            try:
                _migrate(engine)
            except BaseException:
                engine.dispose()
                raise
        return cls(engine)

    @property
    def folder(self) -> Path | None:
        """Folder of a SQLite file, where large things beside it may stand; None for a server or memory."""
        file = _file(self._engine.url)
        return Path(file).parent if file else None

    def add(self, signal: TeacherSignal, repeat: int = 0) -> None:
        """Commit one signal. A key that is there keeps its answer; only a `failed` one is replaced.

        Raises:
            ConfigError: the database cannot be written.
        """
        with self.begin() as connection:
            self.put(connection, signal, repeat)

    def put(self, connection: Connection, signal: TeacherSignal, repeat: int = 0) -> None:
        """Write one signal as part of a transaction, see `add`."""
        row = {
            "teacher": signal.teacher,
            "label_space": signal.label_space,
            "example_id": signal.example_id,
            "repeat": repeat,
            "outcome": signal.outcome,
            "method": signal.method,
            "body": _body(signal),
            "created": datetime.now(UTC),
        }
        key = [column.name for column in signals_table.primary_key]
        insert = self._insert(signals_table).values(row)
        new = {name: insert.excluded[name] for name in row if name not in key}
        connection.execute(
            insert.on_conflict_do_update(index_elements=key, set_=new, where=signals_table.c.outcome == "failed")
        )

    def signal(self, teacher: str, label_space: str, example_id: str) -> TeacherSignal | None:
        """What one teacher first said of one example; None where it has not been asked.

        Raises:
            DataError: the row holds another example, teacher or label space than its key says.
            ConfigError: the database cannot be read.
        """
        columns = signals_table.c
        key = (columns.teacher == teacher, columns.label_space == label_space, columns.example_id == example_id)
        with self.begin() as connection:
            body = connection.execute(select(columns.body).where(*key, columns.repeat == 0)).scalar()
        return None if body is None else _signal(body, example_id, teacher, label_space)

    def signals(self, teacher: str, label_space: str, repeat: int = 0) -> dict[str, TeacherSignal]:
        """Signals of one teacher over one label space, by example id.

        Raises:
            DataError: a row holds another example, teacher or label space than its key says.
            ConfigError: the database cannot be read.
        """
        columns = signals_table.c
        query = select(columns.example_id, columns.body).where(
            columns.teacher == teacher, columns.label_space == label_space, columns.repeat == repeat
        )
        with self.begin() as connection:
            rows = connection.execute(query).all()
        return {row.example_id: _signal(row.body, row.example_id, teacher, label_space) for row in rows}

    def answers(self, label_space: str) -> dict[str, TeacherSignal]:
        """The last usable answer of any teacher over one label space, by example id.

        Raises:
            DataError: a row holds another example, teacher or label space than its key says.
            ConfigError: the database cannot be read.
        """
        columns = signals_table.c
        query = select(columns.example_id, columns.teacher, columns.body).order_by(columns.created)
        usable = (columns.label_space == label_space, columns.repeat == 0, columns.outcome == "ok")
        with self.begin() as connection:
            rows = connection.execute(query.where(*usable)).all()
        return {row.example_id: _signal(row.body, row.example_id, row.teacher, label_space) for row in rows}

    def note(self, key: str) -> Any | None:
        """The JSON value noted under `key`; None when there is none."""
        with self.begin() as connection:
            return connection.execute(select(notes_table.c.value).where(notes_table.c.key == key)).scalar()

    def set_note(self, key: str, value: Any) -> None:
        """Note a JSON value under `key`, in place of an earlier one."""
        with self.begin() as connection:
            self.upsert(connection, notes_table, [{"key": key, "value": value}], lambda _, new: {"value": new.value})

    def upsert(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], change: Change) -> None:
        """Insert rows; where a primary key is there, `change` says from the old row and the new one what it becomes."""
        statement = self._insert(table)
        key = [column.name for column in table.primary_key]
        connection.execute(
            statement.on_conflict_do_update(index_elements=key, set_=change(table.c, statement.excluded)), list(rows)
        )

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that is committed at its end.

        Raises:
            ConfigError: the database cannot be used.
        """
        with _sentences(self._engine.url), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def exclusive(self, lock: int) -> Iterator[Connection]:
        """A transaction that no other process is in at the same time, on disk when it ends.

        Args:
            lock: a number; PostgreSQL keeps apart those of one number, SQLite all.

        Raises:
            ConfigError: the database cannot be used, or another process holds it for too long.
        """
        with _sentences(self._engine.url), _exclusive(self._engine, lock) as connection:
            yield connection

    def wipe(self) -> None:
        """Take out of the write-ahead log of SQLite what was deleted; its pages are overwritten as they are freed."""
        if self._engine.dialect.name == "sqlite":
            with _sentences(self._engine.url), closing(self._engine.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _body(signal: TeacherSignal) -> dict[str, Any]:
    plain = {field.name: getattr(signal, field.name) for field in fields(signal)}
    return plain | {"probabilities": dict(signal.probabilities), "evidence": list(signal.evidence)}


def _signal(body: Mapping[str, Any], example_id: str, teacher: str, label_space: str) -> TeacherSignal:
    known = {field.name for field in fields(TeacherSignal)}
    kept = {name: value for name, value in body.items() if name in known}
    signal = TeacherSignal(**kept | {"evidence": tuple(body["evidence"])})
    got = (signal.example_id, signal.teacher, signal.label_space)
    wanted = (example_id, teacher, label_space)
    if got != wanted:
        raise DataError(
            f"the store's row of example {example_id} holds {' / '.join(got)}, wanted {' / '.join(wanted)}:"
            " the database was changed by hand; delete that row and label again"
        )
    return signal


def _url(url: str | Path) -> URL:
    """A SQLAlchemy URL; a plain path is SQLite, PostgreSQL goes through psycopg."""
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(url))
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            "the store's URL cannot be read: write sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from error
    if parsed.get_backend_name() in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        raise ConfigError(f"the store cannot be {parsed.get_backend_name()}: give a SQLite or PostgreSQL URL")
    return parsed


def _make_folder(url: URL) -> None:
    if _file(url):
        Path(_file(url)).parent.mkdir(parents=True, exist_ok=True)


def _file(url: URL) -> str:
    """The file of a SQLite database; the empty string for a server or memory."""
    on_disk = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    return str(url.database) if on_disk else ""


def _engine(url: URL, busy_seconds: float) -> Engine:
    if url.get_backend_name() != "sqlite":
        need("psycopg", "postgres")
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": busy_seconds})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions itself, or DDL of a migration could not be rolled back.
        connection.isolation_level = None
        _use_wal(connection, busy_seconds)
        connection.execute("PRAGMA secure_delete=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        exclusive = connection.get_execution_options().get("tamis_exclusive")
        # What is exclusive must outlive a power cut; a teacher's answer may be asked for again.
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if exclusive else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if exclusive else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection, busy_seconds: float) -> None:
    # SQLite's own wait does not cover this switch: of two that open a new database, one is told "locked" at once.
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = ScriptDirectory.from_config(config)
    head = known.get_current_head()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return
    if current is not None and current not in {script.revision for script in known.walk_revisions()}:
        raise ConfigError(
            f"the store's schema is {current} and this tamis knows up to {head}: a newer tamis wrote it;"
            " upgrade tamis or name another store"
        )
    # Two processes that open a new database at once must not both migrate it.
    with _exclusive(engine, _MIGRATION_LOCK) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _exclusive(engine: Engine, lock: int) -> Iterator[Connection]:
    with engine.connect().execution_options(tamis_exclusive=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})
        yield connection


@contextmanager
def _sentences(url: URL) -> Iterator[None]:
    """Turn a driver's error into one sentence, without the password and without the row."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = " ".join(str(cause).split("\n")[0].split())[:200] or type(cause).__name__
        raise ConfigError(
            f"cannot use the store {url.render_as_string(hide_password=True)}: {reason};"
            " check that it can be written and that no other process holds it, or set `store`"
        ) from error
