"""Who may sign in, as what, and how they like to work; passwords stand in the store as scrypt hashes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from sqlalchemy import Boolean, Column, Select, String, Table, delete, insert, select, update

from tamis.errors import ConfigError
from tamis.ship.console.sessions import sessions_table
from tamis.store import Store, metadata

Role = Literal["reviewer", "lead", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may."""

NAME_LENGTH = 64
SHORTEST = 12
"""Characters of a password that a person chooses."""

COST = {"n": 2**15, "r": 8, "p": 3}
"""Of scrypt (RFC 7914), as OWASP's password storage cheat sheet has it for 32 MiB."""

users_table = Table(
    "users",
    metadata,
    Column("name", String(NAME_LENGTH), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("digest", String(200), nullable=False),
    Column("created", String(32), nullable=False),
    Column("language", String(8), nullable=False),
    Column("theme", String(8), nullable=False),
    Column("blur", Boolean, nullable=False),
    Column("shortcuts", Boolean, nullable=False),
)
USERS = users_table.c


@dataclass(frozen=True)
class User:
    """A person.

    Language and theme are empty where the browser says which; `blur` covers texts until they are asked
    for, `shortcuts` are those of one key.
    """

    name: str
    role: Role
    created: str = ""
    language: str = ""
    theme: str = ""
    blur: bool = True
    shortcuts: bool = True

    def may(self, role: Role) -> bool:
        """Whether what this role may do is allowed to the person."""
        return ROLES.index(self.role) >= ROLES.index(role)


def add_user(store: Store, name: str, role: str) -> str:
    """Let a person in; returns a password, which is not kept and cannot be shown again.

    Raises:
        ConfigError: a name or a role that cannot be one, or a name that is taken.
    """
    if not 0 < len(name) <= NAME_LENGTH or not name.isprintable() or " " in name:
        raise ConfigError(
            f"a user's name has 1 to {NAME_LENGTH} printable characters and no space, got {len(name)}: change it"
        )
    if role not in ROLES:
        raise ConfigError(f"a role is {', '.join(ROLES)}, got {role}: take one of them")
    password = secrets.token_urlsafe(12)
    row = {"name": name, "role": role, "digest": digest(password), "created": _now()}
    with store.begin() as connection:
        if connection.execute(select(USERS.name).where(USERS.name == name)).first():
            raise ConfigError(f"there is a user {name} already: remove them first, or take another name")
        connection.execute(insert(users_table).values(**row, language="", theme="", blur=True, shortcuts=True))
    return password


def list_users(store: Store) -> list[User]:
    """All users by name."""
    with store.begin() as connection:
        rows = connection.execute(_people().order_by(USERS.name)).mappings().all()
    return [User(**row) for row in rows]


def remove_user(store: Store, name: str) -> None:
    """Let a person in no more, and sign them out everywhere; what they said stays.

    Raises:
        ConfigError: there is none of this name.
    """
    with store.begin() as connection:
        gone = connection.execute(delete(users_table).where(USERS.name == name)).rowcount
        connection.execute(delete(sessions_table).where(sessions_table.c.user == name))
    if not gone:
        raise ConfigError(f"there is no user {name!r} to remove: see `tamis users list`")


def user_of(store: Store, name: str) -> User | None:
    """The person of this name; None where there is none any more."""
    with store.begin() as connection:
        row = connection.execute(_people().where(USERS.name == name)).mappings().first()
    return User(**row) if row else None


def check_password(store: Store, name: str, password: str) -> User | None:
    """The person who has this name and password; a name nobody has takes as long."""
    with store.begin() as connection:
        row = connection.execute(select(users_table).where(USERS.name == name)).mappings().first()
    right = _matches(password, row["digest"] if row else _nobody())
    return user_of(store, name) if right else None


def set_password(store: Store, name: str, password: str) -> None:
    """Change a password, and end all sessions of the person.

    Raises:
        ConfigError: it is too short.
    """
    if len(password) < SHORTEST:
        raise ConfigError(f"a password has at least {SHORTEST} characters, got {len(password)}: choose a longer one")
    with store.begin() as connection:
        connection.execute(update(users_table).where(USERS.name == name).values(digest=digest(password)))
        connection.execute(delete(sessions_table).where(sessions_table.c.user == name))


def prefer(store: Store, name: str, **settings: Any) -> None:
    """Change how a person likes to work: `language`, `theme`, `blur`, `shortcuts`."""
    with store.begin() as connection:
        connection.execute(update(users_table).where(USERS.name == name).values(**settings))


def digest(password: str) -> str:
    """A salted scrypt hash, with all it takes to check a password against it."""
    salt = secrets.token_bytes(16)
    cost = "$".join(str(number) for number in COST.values())
    return f"scrypt${cost}${salt.hex()}${_scrypt(password, salt, **COST).hex()}"


def _matches(password: str, known: str) -> bool:
    _, n, r, p, salt, wanted = known.split("$")
    got = _scrypt(password, bytes.fromhex(salt), int(n), int(r), int(p))
    return hmac.compare_digest(got, bytes.fromhex(wanted))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    secret = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=2 * 128 * n * r, dklen=32)


def _nobody() -> str:
    cost = "$".join(str(number) for number in COST.values())
    return f"scrypt${cost}${'0' * 32}${'0' * 64}"


def _people() -> Select[Any]:
    return select(USERS.name, USERS.role, USERS.created, USERS.language, USERS.theme, USERS.blur, USERS.shortcuts)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
