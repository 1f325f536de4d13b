"""Who is signed in: sessions in the store, by the hash of what the cookie holds."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Column, String, Table, Text, delete, insert, select, update

from tamis.decisions import stamp
from tamis.store import Store, metadata

COOKIE = "tamis_session"

sessions_table = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("user", String(64), nullable=False, index=True),
    Column("csrf", String(64), nullable=False),
    Column("until", String(32), nullable=False),
    Column("said", Text),
)
SESSIONS = sessions_table.c


@dataclass(frozen=True)
class Session:
    """A person who is signed in; `csrf` stands in every form, `said` is told on the next page."""

    digest: str
    user: str
    csrf: str
    said: tuple[str, dict[str, Any]] | None = None


def open_session(store: Store, user: str, hours: float) -> str:
    """Sign a person in for so many hours; returns what the cookie is to hold. Sessions that are over are swept away."""
    now, secret = datetime.now(UTC), secrets.token_urlsafe(32)
    row = {"digest": _digest(secret), "user": user, "csrf": secrets.token_urlsafe(32)}
    with store.begin() as connection:
        connection.execute(delete(sessions_table).where(SESSIONS.until <= stamp(now)))
        connection.execute(insert(sessions_table).values(**row, until=stamp(now + timedelta(hours=hours))))
    return secret


def session_of(store: Store, secret: str) -> Session | None:
    """The session a cookie stands for; None where it is over, or never was."""
    with store.begin() as connection:
        query = select(SESSIONS.digest, SESSIONS.user, SESSIONS.csrf, SESSIONS.said)
        alive = (SESSIONS.digest == _digest(secret), SESSIONS.until > stamp(datetime.now(UTC)))
        row = connection.execute(query.where(*alive)).first()
    if row is None:
        return None
    said = json.loads(row.said) if row.said else None
    return Session(row.digest, row.user, row.csrf, (said[0], said[1]) if said else None)


def close_session(store: Store, session: Session) -> None:
    """Sign out."""
    with store.begin() as connection:
        connection.execute(delete(sessions_table).where(SESSIONS.digest == session.digest))


def say(store: Store, session: Session, said: tuple[str, dict[str, Any]] | None) -> None:
    """Keep what the next page of the session tells: the key of a text, and what fills it in; None when it was told."""
    with store.begin() as connection:
        kept = json.dumps(said) if said else None
        connection.execute(update(sessions_table).where(SESSIONS.digest == session.digest).values(said=kept))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
