"""Who may ask: keys that stand in the store as their SHA-256, with scopes and limits.

A key is 256 random bits, so its plain hash cannot be guessed back and needs no salt; the key itself is shown once.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, get_args

from sqlalchemy import Column, Integer, String, Table, insert, select, update

from tamis.config import TENANT_NAME
from tamis.errors import ConfigError
from tamis.ship.guards import MINUTE, Bucket
from tamis.ship.service.refusal import Refusal
from tamis.store import Store, metadata

Scope = Literal["moderate", "admin"]
FOR = "moderate:"
"""Before the name of the one tenant that such a scope allows."""
PREFIX = "tamis_"
NAME_LENGTH = SCOPES_LENGTH = 64

keys_table = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("name", String(NAME_LENGTH), nullable=False),
    Column("scopes", String(SCOPES_LENGTH), nullable=False),
    Column("per_minute", Integer),
    Column("concurrency", Integer),
    Column("created", String(32), nullable=False),
    Column("revoked", String(32)),
)


@dataclass(frozen=True, slots=True)
class Key:
    """A key as the store knows it; None sets no limit. `revoked` is the time since when it is worth nothing."""

    id: str
    digest: str
    name: str
    scopes: tuple[str, ...]
    per_minute: int | None
    concurrency: int | None
    created: str
    revoked: str | None

    @property
    def tenants(self) -> tuple[str, ...]:
        """The tenants it may ask, no others and not the service's own bundle; empty where it may ask all."""
        named = tuple(scope.removeprefix(FOR) for scope in self.scopes if scope.startswith(FOR))
        return () if "moderate" in self.scopes else named

    def allows(self, scope: Scope) -> bool:
        """Whether it may do this at all."""
        return scope in self.scopes or (scope == "moderate" and bool(self.tenants))


ANYONE = Key("open", "", "anyone", ("moderate",), None, None, "", None)
"""The caller of a service that asks for no key."""


def add_key(
    store: Store,
    name: str,
    scopes: Iterable[str] = ("moderate",),
    per_minute: int | None = None,
    concurrency: int | None = None,
) -> str:
    """Make a key and return it; it cannot be shown again.

    Args:
        store: the database.
        name: for people; 1 to 64 printable characters.
        scopes: what it allows; `moderate:NAME` is `moderate` for one tenant alone.
        per_minute: requests a minute.
        concurrency: requests at the same time.

    Raises:
        ConfigError: a name, scope or limit that cannot be one.
    """
    wanted = tuple(dict.fromkeys(scopes))
    if not 0 < len(name) <= NAME_LENGTH or not name.isprintable():
        raise ConfigError(f"a key's name has 1 to {NAME_LENGTH} printable characters, got {len(name)}: change it")
    if not wanted or not all(one in get_args(Scope) or TENANT_SCOPE.fullmatch(one) for one in wanted):
        raise ConfigError(
            f"a key's scopes are {' and '.join(get_args(Scope))}, or moderate:NAME, got {', '.join(wanted) or 'none'}"
        )
    if len(" ".join(wanted)) > SCOPES_LENGTH:
        raise ConfigError(
            f"a key's scopes have {SCOPES_LENGTH} characters together, got {len(' '.join(wanted))}: make several keys"
        )
    if any(limit is not None and limit < 1 for limit in (per_minute, concurrency)):
        raise ConfigError("a key's limits are whole numbers from 1 up: leave one out to set no limit")
    key = PREFIX + secrets.token_urlsafe(32)
    row = {
        "id": secrets.token_hex(8),
        "digest": _digest(key),
        "name": name,
        "scopes": " ".join(wanted),
        "per_minute": per_minute,
        "concurrency": concurrency,
        "created": _now(),
    }
    with store.begin() as connection:
        connection.execute(insert(keys_table), row)
    return key


def list_keys(store: Store) -> list[Key]:
    """All keys, the oldest first, those that were revoked too."""
    with store.begin() as connection:
        rows = connection.execute(select(keys_table).order_by(keys_table.c.created, keys_table.c.id)).mappings().all()
    return [Key(**dict(row) | {"scopes": tuple(row["scopes"].split())}) for row in rows]


def revoke_key(store: Store, name: str) -> int:
    """Revoke a key by its id, or all keys of a name; returns how many were revoked.

    Raises:
        ConfigError: there is none that is not revoked already.
    """
    columns = keys_table.c
    meant = (columns.id == name) | (columns.name == name)
    with store.begin() as connection:
        gone = connection.execute(
            update(keys_table).where(meant, columns.revoked.is_(None)).values(revoked=_now())
        ).rowcount
    if not gone:
        raise ConfigError(f"there is no key {name!r} to revoke: see `tamis keys list`")
    return gone


@dataclass
class _Use:
    bucket: Bucket
    running: int = 0


@dataclass
class Keyring:
    """The keys of one worker, and how much each is used at the moment.

    Args:
        open_to_all: judge for callers without a key too.
        workers: processes that share a key's limits evenly, as each counts for itself.
        clock: seconds.
    """

    open_to_all: bool = False
    workers: int = 1
    clock: Callable[[], float] = time.monotonic
    _keys: dict[str, Key] = field(default_factory=dict)
    _used: dict[str, _Use] = field(default_factory=dict)

    def know(self, keys: Iterable[Key]) -> None:
        """Take the keys as they are now; what was used of one stays used."""
        self._keys = {key.digest: key for key in keys if key.revoked is None}
        known = {key.id for key in self._keys.values()}
        self._used = {name: use for name, use in self._used.items() if name in known or use.running}

    @contextmanager
    def admit(self, key: str | None, scope: Scope) -> Iterator[Key]:
        """One request of a caller, counted for as long as it lasts.

        Raises:
            Refusal: no key or one that is not known, one without the scope, or a limit that is reached.
        """
        caller = self._caller(key, scope)
        use = self._used.setdefault(caller.id, _Use(Bucket(self._share(caller.per_minute), MINUTE, at=self.clock())))
        limit = self._share(caller.concurrency)
        if limit is not None and use.running >= limit:
            raise Refusal("busy", f"this key may ask {limit} at a time: wait for an answer first", retry_after=1)
        left = use.bucket.take(self.clock())
        if left is None:
            wait = math.ceil(MINUTE / (use.bucket.size or 1))
            raise Refusal("rate", f"this key may ask {use.bucket.size} times a minute: slow down", retry_after=wait)
        use.bucket = left
        use.running += 1
        try:
            yield caller
        finally:
            use.running -= 1

    def _caller(self, key: str | None, scope: Scope) -> Key:
        if key is None and self.open_to_all and scope == "moderate":
            return ANYONE
        found = self._keys.get(_digest(key)) if key else None
        if found is None:
            raise Refusal("key", "the API key is missing" if not key else "the API key is not known or was revoked")
        if not found.allows(scope):
            raise Refusal("scope", f"this key does not allow {scope}: make one with `tamis keys add --scope {scope}`")
        return found

    def _share(self, limit: int | None) -> int | None:
        return limit if limit is None else max(1, limit // self.workers)


TENANT_SCOPE = re.compile(FOR + TENANT_NAME.strip("^$"))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
