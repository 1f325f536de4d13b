"""A running service from the outside: workers, admin calls, drain, the command line, and that no torch is needed."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.ship.service.conftest import Running, served
from tests.waiting import until

from tamis.client import AsyncClient, Client
from tamis.decisions import verify
from tamis.errors import AuthError, ConfigError, Overloaded, ServiceError
from tamis.ship.bundle import check_manifest
from tamis.ship.service.keys import add_key, revoke_key
from tamis.store import Store

TEXTS = ["今天天气很好", "注册就送彩金", "easy money no fee"]


def admin(running: Running, call: str = "", **body: object) -> httpx.Response:
    headers, url = {"authorization": f"Bearer {running.admin}"}, f"{running.url}/admin/bundles"
    if not call:
        return httpx.get(url, headers=headers)
    return httpx.post(f"{url}/{call}", headers=headers, json=body, timeout=30)


def places(running: Running) -> dict[str, str]:
    return {one["name"]: one["place"] for one in admin(running).json()["bundles"]}


def model_of(running: Running) -> str:
    with Client(running.url, running.key) as client:
        return client.decide(["x"])[0].versions["model"]


class Load:
    """Requests from several threads until told to stop; what became of each."""

    def __init__(self, running: Running, threads: int = 6, **more: str) -> None:
        self.body = {"texts": TEXTS} | more
        self.statuses: list[int] = []
        self.refused: list[str] = []
        self.broken: list[str] = []
        self.ids: set[str] = set()
        self.ends = threading.Event()
        self._running = running
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with self._running.client as client:
            while not self.ends.is_set():
                try:
                    response = client.post("/v1/decisions", json=self.body)
                except httpx.ConnectError as error:
                    # The port is closed: nothing was taken.
                    self.refused.append(type(error).__name__)
                    return
                except httpx.TransportError as error:
                    self.broken.append(repr(error))
                    continue
                self.statuses.append(response.status_code)
                if response.status_code == 200:
                    self.ids |= {one["id"] for one in response.json()["decisions"]}


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_drops_nothing(bundles: Any, tmp_path: Path, workers: int) -> None:
    with served(bundles[0], tmp_path, "--workers", str(workers), settings={"drain": 3.0}) as running:
        with Load(running) as load, running.client as client:
            assert until(lambda: len(load.statuses) > 50)
            running.process.send_signal(signal.SIGTERM)
            assert until(lambda: client.get("/readyz").status_code == 503)
            assert running.process.wait(60) is not None
            assert until(lambda: len(load.refused) == 6)
        assert load.broken == []
        assert set(load.statuses) == {200}
        assert load.ids
        with Store.open(running.store) as store:
            found = verify(store)
            with store.begin() as connection:
                logged = set(connection.exec_driver_sql("SELECT id FROM decisions").scalars())
        assert found.broken is None
        assert load.ids <= logged
        assert "Traceback" not in running.errors.read_text()


def test_bundles_are_swapped_in_all_workers_under_load(bundles: Any, tmp_path: Path) -> None:
    one, two = map(check_manifest, bundles)
    with served(bundles[0], tmp_path / "a", "--workers", "2") as running:
        with Load(running, 3) as load:
            assert admin(running, "load", folder=str(bundles[1])).status_code == 200
            assert admin(running, "shadow", name=two).status_code == 200
            assert until(lambda: bool(admin(running).json()["agreement"]))
            assert admin(running, "promote", name=two).json()["bundles"]
            assert until(lambda: {model_of(running) for _ in range(8)} == {two})
            assert until(lambda: f'{{bundle="{two}",place="live"}} 2.0' in httpx.get(f"{running.url}/metrics").text)
            assert admin(running, "rollback").status_code == 200
            assert until(lambda: {model_of(running) for _ in range(8)} == {one})
            assert admin(running, "promote", name=two).status_code == 200
        assert (load.broken, set(load.statuses)) == ([], {200})
    # The same command goes on with what was promoted; another folder begins anew.
    with served(bundles[0], tmp_path / "a") as running:
        assert model_of(running) == two
        assert places(running) == {two: "live", one: "previous"}


def test_a_canary_decides_the_same_texts_in_all_workers_and_outlives_a_restart(bundles: Any, tmp_path: Path) -> None:
    one, two = map(check_manifest, bundles)
    texts = [f"text {i}" for i in range(400)]

    def shared(running: Running) -> set[str]:
        """The texts that the canary decides; each is asked over connections of its own, which both workers take."""
        found: set[str] = set()
        for start in range(0, len(texts), 50):
            with Client(running.url, running.key) as client:
                part = texts[start : start + 50]
                found |= {
                    text for text, said in zip(part, client.decide(part), strict=True) if said.versions["model"] == two
                }
        return found

    def held(running: Running, place: str, name: str, workers: int = 2) -> bool:
        line = f'tamis_bundle_workers{{bundle="{name}",place="{place}"}} {workers}.0'
        return until(lambda: line in httpx.get(f"{running.url}/metrics").text)

    with served(bundles[0], tmp_path / "a", "--workers", "2") as running:
        with Load(running, 3) as load:
            assert admin(running, "load", folder=str(bundles[1])).status_code == 200
            assert admin(running, "canary", name=two, share=1.5).status_code == 422
            assert admin(running, "canary", name=one, share=0.2).status_code == 409
            told = admin(running, "canary", name=two, share=0.2).json()["bundles"]
            assert {slot["name"]: (slot["place"], slot["share"]) for slot in told} == {
                one: ("live", 0.8),
                two: ("canary", 0.2),
            }
            assert held(running, "canary", two)
            found = [shared(running) for _ in range(3)]
            assert found[0] == found[1] == found[2]
            # Four standard deviations of 400 texts, a fifth of them.
            assert abs(len(found[0]) - 80) <= 32
            assert f'tamis_bundle_texts_total{{bundle="{two}"}}' in httpx.get(f"{running.url}/metrics").text
            assert admin(running, "canary", name=two, share=0).status_code == 200
            assert held(running, "loaded", two)
            assert shared(running) == set()
            assert admin(running, "canary", name=two, share=0.2).status_code == 200
            assert held(running, "canary", two)
        assert (load.broken, set(load.statuses)) == ([], {200})
    with served(bundles[0], tmp_path / "a") as running:
        assert places(running) == {one: "live", two: "canary"}
        assert shared(running) == found[0]
        with Store.open(running.store) as store, store.begin() as connection:
            models = connection.exec_driver_sql(
                "SELECT versions FROM decisions ORDER BY number DESC LIMIT 400"
            ).scalars()
            assert sum(json.loads(one)["model"] == two for one in models) == len(found[0])
        assert admin(running, "promote", name=two).status_code == 200
        assert places(running) == {one: "previous", two: "live"}


def test_a_bundle_that_must_not_be_served_is_refused_and_the_old_one_goes_on(bundles: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    subprocess.run(["cp", "-r", str(bundles[1]), str(bad)], check=True)
    with served(bundles[0], tmp_path) as running:
        for change in (lambda: (bad / "model.onnx").write_bytes(b"x"), lambda: (bad / "weights.pkl").write_bytes(b"x")):
            change()
            refused = admin(running, "load", folder=str(bad))
            assert refused.status_code == 409
            assert refused.json()["error"]["code"] == "refused"
        assert admin(running, "promote", name="nothing").status_code == 409
        assert admin(running, "unload", name=check_manifest(bundles[0])).status_code == 409
        assert model_of(running) == check_manifest(bundles[0])


def test_keys_come_and_go_while_it_runs(server: Running) -> None:
    with Store.open(server.store) as store:
        key = add_key(store, "late", concurrency=1, per_minute=100)

        def judged() -> bool:
            try:
                with Client(server.url, key) as client:
                    return bool(client.decide(["x"]))
            except AuthError:
                return False

        assert until(judged)
        revoke_key(store, "late")
        assert until(lambda: not judged())


def test_a_rate_is_told_with_the_time_to_wait(server: Running) -> None:
    with Store.open(server.store) as store:
        key = add_key(store, "slow", per_minute=1)
    headers = {"authorization": f"Bearer {key}"}
    assert until(lambda: httpx.get(f"{server.url}/admin/bundles", headers=headers).status_code == 403)
    first = httpx.post(f"{server.url}/v1/moderations", headers=headers, json={"input": "x"})
    second = httpx.post(f"{server.url}/v1/moderations", headers=headers, json={"input": "x"})
    assert (first.status_code, second.status_code, second.headers["retry-after"]) == (200, 429, "60")
    assert second.json()["error"]["code"] == "rate_limit_exceeded"
    with Client(server.url, key) as client, pytest.raises(Overloaded) as refused:
        client.decide(["x"])
    assert refused.value.retry_after == 60


def test_both_clients(server: Running) -> None:
    async def ask() -> Any:
        async with AsyncClient(server.url, server.key) as client:
            return await client.decide(TEXTS, keys=["a-1", None, "a-3"])

    with Client(server.url, server.key) as client:
        first, again = asyncio.run(ask()), client.decide(TEXTS, keys=["a-1", None, "a-3"])
        assert [one.repeated for one in again] == [True, False, True]
        assert [one.id for one in again][::2] == [one.id for one in first][::2]
        assert {one.action for one in again} <= {"pass", "review", "block"}
        with pytest.raises(ConfigError, match="got 1 idempotency keys for 3 texts"):
            client.decide(TEXTS, keys=["a"])
        with pytest.raises(ConfigError, match="the service says: texts may have 20000 characters"):
            client.decide(["x" * 50_000])
    with Client(server.url, "wrong") as client, pytest.raises(AuthError, match="not known or was revoked"):
        client.decide(["x"])
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceError, match="cannot be reached"):
        client.decide(["x"])
    with Client(server.url + "/elsewhere", server.key) as client, pytest.raises(ConfigError, match="nothing here"):
        client.decide(["x"])


def test_without_a_log_it_answers_and_takes_no_idempotency_key(bundles: Any, tmp_path: Path) -> None:
    with served(bundles[0], tmp_path, settings={"log": "off", "require_key": False}) as running:
        with Client(running.url) as client:
            assert len({one.id for one in client.decide(TEXTS)}) == 3
            with pytest.raises(ConfigError, match="needs the decision log, which is off"):
                client.decide(["x"], keys=["a"])
        assert admin(running).status_code == 200
        assert httpx.get(f"{running.url}/admin/bundles").status_code == 401
        with Store.open(running.store) as store:
            assert verify(store).rows == 0


BAD = {
    "no bundle": (["nowhere"], "is no bundle"),
    "open to the world": (["BUNDLE", "--host", "192.0.2.1", "--set", "require_key=false"], "only a loopback address"),
    "no address": (["BUNDLE", "--host", "256.1.1.1"], "cannot listen at 256.1.1.1:8000"),
    "a setting": (["BUNDLE", "--set", "limits.text=3"], "did you mean 'texts'"),
    "no settings": (["BUNDLE", "--config", "none.yaml"], "cannot read"),
    "a store": (["BUNDLE", "--store", "mysql://x/y"], "the store cannot be mysql"),
}


def tamis(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "tamis"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)


@pytest.mark.parametrize("case", sorted(BAD))
def test_what_cannot_be_served_is_one_sentence(bundles: Any, tmp_path: Path, case: str) -> None:
    arguments, sentence = BAD[case]
    done = tamis("serve", *(str(bundles[0]) if one == "BUNDLE" else one for one in arguments), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_from_the_command_line(tmp_path: Path) -> None:
    key = tamis("keys", "add", "shop", "--per-minute", "60", "--scope", "admin", "--store", "s.db", cwd=tmp_path)
    assert key.returncode == 0, key.stderr
    listed = tamis("keys", "list", "--store", "s.db", cwd=tmp_path).stdout
    assert "shop" in listed
    assert key.stdout.strip() not in listed
    assert "1 keys are revoked" in tamis("keys", "revoke", "shop", "--store", "s.db", cwd=tmp_path).stdout
    for arguments, sentence in (
        (["revoke", "shop", "--store", "s.db"], "there is no key 'shop'"),
        (["list", "--store", "none.db"], "there is no store none.db"),
        (["add", "x", "--scope", "root", "--store", "s.db"], "scopes are moderate and admin"),
    ):
        done = tamis("keys", *arguments, cwd=tmp_path)
        assert (done.returncode, sentence in done.stderr) == (2, True)


def test_it_serves_without_torch(bundles: Any, tmp_path: Path) -> None:
    code = """
import asyncio, json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
from pathlib import Path
import httpx
from tamis.config import ServeConfig
from tamis.ship.service.app import Settings, create_app
from tamis.ship.service.serve import serve
from tamis.tiers import teachers
app = create_app(Settings(Path(sys.argv[1]), ServeConfig(store=sys.argv[2], require_key=False), teachers))
async def main():
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            print(json.dumps((await client.post("/v1/decisions", json={"texts": ["x"]})).json()))
asyncio.run(main())
"""
    command = [sys.executable, "-c", code, str(bundles[0]), str(tmp_path / "s.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decisions"][0]["action"] in {"pass", "review", "block"}
