"""People and their passwords in the store, and the commands that let them in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tamis.cli import app
from tamis.errors import ConfigError
from tamis.ship.console.sessions import close_session, open_session, say, session_of
from tamis.ship.console.users import (
    ROLES,
    User,
    add_user,
    check_password,
    digest,
    list_users,
    prefer,
    remove_user,
    set_password,
    user_of,
)
from tamis.store import Store


def test_a_password_lets_in_and_is_not_kept(url: str) -> None:
    with Store.open(url) as store:
        password = add_user(store, "ann", "lead")
        assert check_password(store, "ann", password) == user_of(store, "ann")
        assert check_password(store, "ann", password + "x") is None
        assert check_password(store, "bob", password) is None
        prefer(store, "ann", language="zh", blur=False)
        changed = user_of(store, "ann")
        assert changed
        assert (changed.language, changed.blur, changed.shortcuts) == ("zh", False, True)
        set_password(store, "ann", "correct horse battery")
        assert check_password(store, "ann", password) is None
        with pytest.raises(ConfigError, match="at least 12"):
            set_password(store, "ann", "short")


def test_a_hash_is_scrypt_with_a_salt_of_its_own() -> None:
    first, second = digest("correct horse"), digest("correct horse")
    assert first != second
    kind, n, r, p, salt, hashed = first.split("$")
    assert (kind, n, r, p) == ("scrypt", "32768", "8", "3")
    again = hashlib.scrypt(
        b"correct horse", salt=bytes.fromhex(salt), n=int(n), r=int(r), p=int(p), maxmem=2**27, dklen=32
    )
    assert again.hex() == hashed


def test_roles_rise() -> None:
    for place, role in enumerate(ROLES):
        person = User("ann", role)
        assert [person.may(other) for other in ROLES] == [n <= place for n in range(len(ROLES))]


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "tab\t"])
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    with Store.open(tmp_path / "s.db") as store:
        with pytest.raises(ConfigError, match="a user's name has"):
            add_user(store, name, "reviewer")
        with pytest.raises(ConfigError, match="a role is reviewer, lead, admin, got boss"):
            add_user(store, "ann", "boss")


def test_who_is_removed_is_signed_out(url: str) -> None:
    with Store.open(url) as store:
        add_user(store, "ann", "reviewer")
        secret = open_session(store, "ann", 1)
        opened = session_of(store, secret)
        assert opened
        assert opened.user == "ann"
        with pytest.raises(ConfigError, match="there is a user ann already"):
            add_user(store, "ann", "reviewer")
        remove_user(store, "ann")
        assert session_of(store, secret) is None
        assert list_users(store) == []
        with pytest.raises(ConfigError, match="there is no user 'ann'"):
            remove_user(store, "ann")


def test_a_session_ends_and_tells_what_it_was_told(url: str) -> None:
    with Store.open(url) as store:
        secret, over = open_session(store, "ann", 1), open_session(store, "bob", -1)
        assert session_of(store, over) is None
        assert session_of(store, secret[:-1]) is None
        opened = session_of(store, secret)
        assert opened
        say(store, opened, ("queue_said", {"what": "fraud"}))
        again = session_of(store, secret)
        assert again
        assert again.said == ("queue_said", {"what": "fraud"})
        assert secret not in (again.digest, again.csrf)
        close_session(store, again)
        assert session_of(store, secret) is None


def test_commands_add_list_and_remove(tmp_path: Path) -> None:
    run, store = CliRunner().invoke, ["--store", str(tmp_path / "s.db")]
    password = run(app, ["users", "add", "ann", "--role", "lead", *store]).stdout.strip()
    with Store.open(tmp_path / "s.db") as opened:
        assert check_password(opened, "ann", password)
    listed = run(app, ["users", "list", *store]).stdout
    assert "ann" in listed
    assert "lead" in listed
    assert password not in listed
    assert "cannot sign in again" in run(app, ["users", "remove", "ann", *store]).stdout
    assert "ann" not in run(app, ["users", "list", *store]).stdout
