"""Keys in both databases, and what a worker lets them do."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest

from tamis.errors import ConfigError
from tamis.ship.service.keys import ANYONE, Keyring, add_key, keys_table, list_keys, revoke_key
from tamis.ship.service.refusal import Refusal
from tamis.store import Store


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ring(store: Store, **settings: object) -> tuple[Keyring, Clock]:
    clock = Clock()
    made = Keyring(clock=clock, **settings)
    made.know(list_keys(store))
    return made, clock


def refused(keys: Keyring, key: str | None, scope: str = "moderate") -> Refusal:
    with pytest.raises(Refusal) as found, keys.admit(key, scope):
        pass
    return found.value


def test_a_key_is_not_in_the_store(url: str) -> None:
    with Store.open(url) as store:
        key = add_key(store, "shop", per_minute=60, concurrency=2)
        with store.begin() as connection:
            (row,) = connection.execute(keys_table.select()).all()
        assert key not in str(tuple(row))
        assert len(key) > 40
        (found,) = list_keys(store)
        assert (found.name, found.scopes, found.per_minute, found.concurrency) == ("shop", ("moderate",), 60, 2)
        with ring(store)[0].admit(key, "moderate") as caller:
            assert caller == found


def test_scopes_and_strangers(url: str) -> None:
    with Store.open(url) as store:
        key, both = add_key(store, "shop"), add_key(store, "operator", ["moderate", "admin"])
        keys, _ = ring(store)
        assert refused(keys, key, "admin").reason == "scope"
        assert refused(keys, None).reason == refused(keys, "").reason == refused(keys, key[:-1]).reason == "key"
        for scope in ("moderate", "admin"):
            with keys.admit(both, scope) as caller:
                assert caller.name == "operator"


def test_a_key_for_some_tenants(url: str) -> None:
    with Store.open(url) as store:
        key = add_key(store, "forum", ["moderate:forum", "moderate:chat"])
        every = add_key(store, "all", ["moderate:forum", "moderate"])
        keys, _ = ring(store)
        with keys.admit(key, "moderate") as caller:
            assert caller.tenants == ("forum", "chat")
        with keys.admit(every, "moderate") as caller:
            assert caller.tenants == ()
        assert refused(keys, key, "admin").reason == "scope"
        for scope in ("moderate:", "moderate:a b", "admin:forum"):
            with pytest.raises(ConfigError, match=r"scopes are moderate and admin, or moderate:NAME, got"):
                add_key(store, "x", [scope])
        with pytest.raises(ConfigError, match="scopes have 64 characters together, got 89: make several keys"):
            add_key(store, "x", ["moderate:" + "a" * 35, "moderate:" + "b" * 35])


def test_a_revoked_key_is_worth_nothing(url: str) -> None:
    with Store.open(url) as store:
        first, second, other = add_key(store, "shop"), add_key(store, "shop"), add_key(store, "blog")
        assert revoke_key(store, "shop") == 2
        keys, _ = ring(store)
        assert {refused(keys, key).reason for key in (first, second)} == {"key"}
        with keys.admit(other, "moderate"):
            pass
        assert revoke_key(store, list_keys(store)[2].id) == 1
        keys.know(list_keys(store))
        assert refused(keys, other).reason == "key"
        with pytest.raises(ConfigError, match="there is no key 'shop' to revoke"):
            revoke_key(store, "shop")


def test_a_rate_is_a_bucket_by_hand(url: str) -> None:
    with Store.open(url) as store:
        key = add_key(store, "shop", per_minute=6)
        keys, clock = ring(store)
        for _ in range(6):
            with keys.admit(key, "moderate"):
                pass
        found = refused(keys, key)
        assert (found.reason, found.retry_after, found.headers) == ("rate", 10, {"retry-after": "10"})
        clock.now = 9.9
        assert refused(keys, key).reason == "rate"
        clock.now = 10.0
        with keys.admit(key, "moderate"):
            pass
        # Keys that are read again do not fill the bucket.
        keys.know(list_keys(store))
        assert refused(keys, key).reason == "rate"


def test_so_many_at_a_time_and_an_error_gives_its_place_back(url: str) -> None:
    with Store.open(url) as store:
        key = add_key(store, "shop", concurrency=2)
        keys, _ = ring(store)
        with ExitStack() as running:
            running.enter_context(keys.admit(key, "moderate"))
            with suppress(ValueError), keys.admit(key, "moderate"):
                assert refused(keys, key).reason == "busy"
                raise ValueError
            running.enter_context(keys.admit(key, "moderate"))
            assert refused(keys, key).reason == "busy"
        with keys.admit(key, "moderate"):
            pass


def test_workers_share_a_limit(url: str) -> None:
    with Store.open(url) as store:
        key = add_key(store, "shop", per_minute=8)
        keys, _ = ring(store, workers=4)
        for _ in range(2):
            with keys.admit(key, "moderate"):
                pass
        assert refused(keys, key).reason == "rate"


def test_open_to_all_is_not_open_to_admins(url: str) -> None:
    with Store.open(url) as store:
        keys, _ = ring(store, open_to_all=True)
        with keys.admit(None, "moderate") as caller:
            assert caller is ANYONE
        assert refused(keys, None, "admin").reason == "key"
        assert refused(keys, "wrong").reason == "key"


BAD = {
    "name": (("",), "1 to 64 printable characters"),
    "unprintable": (("a\nb",), "1 to 64 printable characters"),
    "scope": (("shop", ["root"]), "scopes are moderate and admin, or moderate:NAME, got root"),
    "no scope": (("shop", []), "got none"),
    "limit": (("shop", ["moderate"], 0), "whole numbers from 1 up"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_key_that_cannot_be_one(url: str, case: str) -> None:
    arguments, sentence = BAD[case]
    with Store.open(url) as store:
        with pytest.raises(ConfigError, match=sentence):
            add_key(store, *arguments)
        assert list_keys(store) == []
