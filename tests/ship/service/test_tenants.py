"""Several bundles over one base behind one service: each request is judged by the one it names."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from tests.ship.service.conftest import Running, served
from tests.ship.service.fleet.conftest import flipped
from tests.ship.service.test_operation import Load, tamis
from tests.waiting import until

from tamis.client import Client
from tamis.config import BatchConfig
from tamis.policy import Policy
from tamis.records import NO_ANSWER, Scores
from tamis.ship.backends import Backend
from tamis.ship.bundle import check_manifest, load_bundle
from tamis.ship.service.bases import Bases
from tamis.ship.service.engine import Engine
from tamis.ship.service.keys import add_key
from tamis.store import Store
from tamis.windows import Array, Ids

TEXTS = ["今天天气很好", "注册就送彩金", "easy money no fee", "", "日入上千私我" * 60]
NEAR = 0.02
"""Between two batches of different company, whose sums are rounded to 16 bits."""


PATIENT = BatchConfig(wait=3600)
SLOW: dict[str, object] = {"timeout": 25, "batch": {"wait": 20}, "cascade": {"audit": 0}}
"""A busy machine is no reason to be refused here."""


def same(found: Sequence[Scores], wanted: Sequence[Scores]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.probabilities == pytest.approx(dict(other.probabilities), abs=NEAR)


def watched(engine: Engine) -> list[set[int]]:
    """Which backends the rows of each batch had, from now on."""
    batches: list[set[int]] = []
    compute = engine.line._logits

    def noted(ids: Ids, mask: Ids, backends: Sequence[Backend]) -> Sequence[Array]:
        batches.append(set(map(id, backends)))
        return compute(ids, mask, backends)

    engine.line._logits = noted
    return batches


def far() -> float:
    return asyncio.get_running_loop().time() + 60


async def ask(engines: dict[str, Engine], times: int = 5) -> dict[str, list[Scores]]:
    """What each engine says of TEXTS, all of them asked before a batch is computed."""
    asked = [name for _ in range(times) for name in engines]
    line = next(iter(engines.values())).line
    with line._batch:
        tasks = [asyncio.create_task(engines[name].score(TEXTS, far())) for name in asked]
        # A second is for the tokenizer of a busy machine.
        await asyncio.sleep(1)
    return dict(zip(asked, await asyncio.gather(*tasks), strict=True))


async def ask_together(engines: dict[str, Engine], batches: Sequence[set[int]]) -> dict[str, list[Scores]]:
    """As `ask`, again if a tokenizer that had to wait for longer has kept all engines apart."""
    for _ in range(10):
        found = await ask(engines)
        if max(map(len, batches)) > 1:
            return found
    raise AssertionError("no batch held rows of two engines")


def test_bundles_over_one_base_share_it_and_their_batches(over_one_base: dict[str, Path]) -> None:
    async def work() -> None:
        bases = Bases(PATIENT)
        engines = {name: await bases.open(folder) for name, folder in over_one_base.items()}
        assert len({engine.moderator.backend.over for engine in engines.values()}) == 1  # type: ignore[attr-defined]
        assert len({engine.line for engine in engines.values()}) == 1
        batches = watched(engines["forum"])
        found = await ask_together(engines, batches)
        for name, folder in over_one_base.items():
            same(found[name], load_bundle(folder).score(TEXTS))
        # One goes: the others go on, and its weights are freed.
        base: Any = engines["forum"].moderator.backend.over._base  # type: ignore[attr-defined]
        await engines.pop("chat").close()
        assert len(base.peft_config) == 1
        for name, scores in (await ask(engines)).items():
            same(scores, load_bundle(over_one_base[name]).score(TEXTS))
        line = engines["forum"].line
        for engine in engines.values():
            await engine.close()
            # Twice is once.
            await engine.close()
        assert not any(thread.is_alive() for thread in line._threads)
        assert bases._held == []

    asyncio.run(work())


def test_one_that_cannot_be_computed_does_not_take_the_others_with_it(over_one_base: dict[str, Path]) -> None:
    async def work() -> None:
        bases = Bases(PATIENT)
        engines = {name: await bases.open(over_one_base[name]) for name in ("forum", "chat")}
        batches = watched(engines["forum"])
        engines["chat"].moderator.backend.network.head = torch.nn.Linear(7, 3)  # type: ignore[attr-defined]
        found = await ask_together(engines, batches)
        assert found["chat"] == [NO_ANSWER] * len(TEXTS)
        same(found["forum"], load_bundle(over_one_base["forum"]).score(TEXTS))
        for engine in engines.values():
            await engine.close()

    asyncio.run(work())


def test_who_gave_up_is_in_no_batch_after_it_left(over_one_base: dict[str, Path]) -> None:
    async def work() -> None:
        bases = Bases(PATIENT.model_copy(update={"tokens": 64}))
        engines = {name: await bases.open(over_one_base[name]) for name in ("forum", "chat")}
        wanted = load_bundle(over_one_base["forum"]).score(TEXTS)
        for _ in range(5):
            going = await bases.open(over_one_base["chat"])
            lost = [asyncio.create_task(going.score(TEXTS * 20, far())) for _ in range(3)]
            kept = [asyncio.create_task(engines["forum"].score(TEXTS, far())) for _ in range(3)]
            await asyncio.sleep(0.01)
            for task in lost:
                task.cancel()
            await going.close()
            for scores in await asyncio.gather(*kept):
                same(scores, wanted)
        for engine in engines.values():
            await engine.close()

    asyncio.run(work())


@pytest.fixture(scope="module")
def running(over_one_base: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The head alone decides without a name: over the base with all adapters switched off."""
    tenants = {name: str(over_one_base[name]) for name in ("forum", "chat")}
    folder = tmp_path_factory.mktemp("tenants")
    with served(over_one_base["bare"], folder, settings=SLOW | {"tenants": tenants}) as made:
        yield made


def test_each_is_answered_as_its_bundle_alone_would_answer(
    running: Running, over_one_base: dict[str, Path], small_policy: Policy
) -> None:
    wanted = {name: load_bundle(folder)(TEXTS) for name, folder in over_one_base.items()}
    # Else a mix-up would show nowhere.
    rows = [[one.probabilities[id] for one in wanted[name] for id in small_policy.ids] for name in over_one_base]
    assert min(np.abs(np.subtract(one, other)).max() for one, other in combinations(rows, 2)) > 5 * NEAR
    asked = ["forum", "chat", "bare"] * 6

    def answers(name: str) -> Any:
        with Client(running.url, running.key) as client:
            return client.decide(TEXTS, model=None if name == "bare" else name)

    with ThreadPoolExecutor(6) as pool:
        for name, found in zip(asked, pool.map(answers, asked), strict=True):
            for told, one in zip(found, wanted[name], strict=True):
                assert told.probabilities == pytest.approx(dict(one.probabilities), abs=NEAR)
                assert told.versions.get("tenant", "bare") == name
                assert told.versions["model"] == check_manifest(over_one_base[name])


def test_the_openai_client_names_a_tenant(running: Running, over_one_base: dict[str, Path]) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        for model, name in {"chat": "chat", "forum": "forum", "omni-moderation-latest": "bare"}.items():
            found = client.moderations.create(input=TEXTS, model=model)
            assert found.model == f"tamis-{check_manifest(over_one_base[name])}"
            ids = load_bundle(over_one_base[name]).policy.ids
            assert set(found.results[0].model_extra["tamis"]["category_scores"]) == set(ids) - {"normal"}  # type: ignore[index]
        with pytest.raises(openai.NotFoundError) as unknown:
            client.moderations.create(input="x", model="secret")
    assert unknown.value.code == "model_not_found"
    assert "take one of chat, forum" in unknown.value.message
    assert "secret" not in unknown.value.message


def test_what_a_tenant_was_told_is_in_the_log_and_counted(running: Running) -> None:
    named = [{"text": "easy money", "idempotency_key": "m-1"}]
    with running.client as http:
        told = {
            model: http.post("/v1/decisions", json={"texts": named, "model": model}).json()["decisions"][0]
            for model in ("forum", "chat")
        }
        # The key of one tenant is nothing to another.
        assert [one["repeated"] for one in told.values()] == [False, False]
        again = http.post("/v1/decisions", json={"texts": named, "model": "chat"}).json()["decisions"][0]
        assert (again["repeated"], again["id"]) == (True, told["chat"]["id"])
        unknown = http.post("/v1/decisions", json={"texts": ["x"], "model": "none"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model")
        metrics = http.get("/metrics").text
    with Store.open(running.store) as store, store.begin() as connection:
        rows = dict(connection.exec_driver_sql("SELECT id, versions FROM decisions").all())
    assert {json.loads(rows[one["id"]])["tenant"] for one in told.values()} == {"forum", "chat"}
    assert f'tamis_tenant_decisions_total{{action="{told["chat"]["action"]}",tenant="chat"}}' in metrics
    assert 'tenant="none"' not in metrics


def test_a_key_of_one_tenant_needs_no_name_and_reaches_no_other(running: Running) -> None:
    with Store.open(running.store) as store:
        key = add_key(store, "chat", ["moderate:chat"])
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=running.url, headers=headers, timeout=30) as http:
        assert until(lambda: http.post("/v1/moderations", json={"input": "x"}).status_code == 200)
        (told,) = http.post("/v1/decisions", json={"texts": ["x"]}).json()["decisions"]
        assert told["versions"]["tenant"] == "chat"
        other = http.post("/v1/decisions", json={"texts": ["x"], "model": "forum"})
        assert other.status_code == 404
        assert other.json()["error"]["message"].endswith("take one of chat")
        # Perspective's API has no field for it: the key says whose policy it is.
        body = {"comment": {"text": "x"}, "requestedAttributes": {"SPAM_AD": {}}}
        assert "SPAM_AD" in http.post("/v1alpha1/comments:analyze", json=body).json()["attributeScores"]
        assert http.get("/admin/tenants").status_code == 403


def admin(running: Running, call: str, **body: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {running.admin}"}
    return httpx.post(f"{running.url}/admin/tenants/{call}", headers=headers, json=body, timeout=60)


def status(running: Running, model: str) -> int:
    with running.client as http:
        return http.post("/v1/decisions", json={"texts": ["x"], "model": model}).status_code


def test_tenants_come_and_go_in_all_workers_under_load(over_one_base: dict[str, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(over_one_base["chat"], bad)
    flipped(bad / "head.safetensors")
    settings = SLOW | {"tenants": {"forum": str(over_one_base["forum"])}}
    version = check_manifest(over_one_base["chat"])

    def held(running: Running, place: str, workers: float) -> bool:
        line = f'{{bundle="{version}",place="tenant {place}"}} {workers}'
        return line in httpx.get(f"{running.url}/metrics", timeout=30).text

    with served(over_one_base["bare"], tmp_path / "a", "--workers", "2", settings=settings) as running:
        with Load(running, 2) as base, Load(running, 2, model="forum") as forum:
            refused = admin(running, "add", name="chat", folder=str(bad))
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "refused")
            assert "head.safetensors is missing or its sha256 differs" in refused.json()["error"]["message"]
            added = admin(running, "add", name="chat", folder=str(over_one_base["chat"]))
            assert {one["name"] for one in added.json()["tenants"]} == {"forum", "chat"}
            assert until(lambda: held(running, "chat", 2.0))
            # The same name again is another bundle for the same tenant.
            assert admin(running, "add", name="forum", folder=str(over_one_base["chat"])).status_code == 200
            assert until(lambda: held(running, "forum", 2.0))
            assert admin(running, "remove", name="chat").status_code == 200
            assert until(lambda: held(running, "chat", 0.0))
            assert {status(running, "chat") for _ in range(8)} == {404}
            assert admin(running, "remove", name="chat").status_code == 409
        for load in (base, forum):
            assert (load.broken, set(load.statuses)) == ([], {200})
            assert len(load.statuses) > 10
        assert "Traceback" not in running.errors.read_text()
    # The same command goes on with what was added; one with other tenants begins anew.
    with served(over_one_base["bare"], tmp_path / "a", settings=settings) as running:
        assert held(running, "forum", 1.0)
    with served(over_one_base["bare"], tmp_path / "a") as running:
        assert status(running, "forum") == 404


def test_a_tenant_that_must_not_be_served_ends_the_command(over_one_base: dict[str, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(over_one_base["chat"], bad)
    flipped(bad / "adapter_model.safetensors")
    done = tamis("serve", str(over_one_base["bare"]), "--set", f"tenants.chat={bad}", cwd=tmp_path)
    assert done.returncode == 2
    assert "adapter_model.safetensors is missing or its sha256 differs" in done.stderr
    assert "Traceback" not in done.stderr


WITHOUT_TORCH = """
import asyncio, json, sys
sys.modules["torch"] = None
from pathlib import Path
import httpx
from tamis.config import ServeConfig
from tamis.ship.service.app import Settings, create_app
from tamis.tiers import teachers
config = ServeConfig(store=sys.argv[2], require_key=False, tenants={"chat": sys.argv[3]})
app = create_app(Settings(Path(sys.argv[1]), config, teachers))
async def main():
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            for model in (None, "chat"):
                told = await client.post("/v1/decisions", json={"texts": ["x"], "model": model})
                print(told.status_code)
asyncio.run(main())
"""


def test_without_torch_the_rest_goes_on(bundles: Any, over_one_base: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(bundles[0]), str(tmp_path / "s.db"), str(over_one_base["chat"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["200", "404"], done.stderr
    assert "is served by adapter, which needs torch, transformers, peft: run `pip install" in done.stderr
