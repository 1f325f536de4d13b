"""A service in a process of its own: traffic sent through it, and its bundle changed while it is under load."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
from kills import ready
from sqlalchemy import func, select

from tamis.decisions import decisions_table
from tamis.records import Decision
from tamis.ship.service.answers import recorded
from tamis.ship.service.keys import add_key
from tamis.store import Store

CLIENTS, TOGETHER = 4, 4
"""Clients, each with one request in flight, and texts of a request."""

WAIT = 5.0
"""Seconds of work that may wait: the machine may have other work, and how fast an answer is plays no part here."""

COMPARED, PROBES, PATIENCE = 200, 64, 300.0
"""Answers that are waited for before the next change, probes, and seconds after which it is given up."""


@dataclass
class Tally:
    """What clients got: requests sent, answers by status, answered texts by model, and what must not be."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    mixed: int = 0

    def add(self, status: int, texts: int, models: Sequence[str]) -> None:
        """Count one request; status 0 stands for a connection that broke."""
        self.sent += 1
        self.statuses[status] += 1
        self.models.update(models)
        self.unanswered += texts - len(models)
        self.mixed += len(set(models)) > 1


@dataclass(frozen=True)
class Running:
    """A service that runs: how to ask it, and its store."""

    client: httpx.Client
    admin: dict[str, str]
    store: Path

    def ask(self, texts: Sequence[str | dict[str, str]]) -> list[dict[str, Any]]:
        """Decisions about texts, asked again while the service has no room."""
        until = time.monotonic() + PATIENCE
        while (got := self.client.post("/v1/decisions", json={"texts": texts})).status_code in (429, 503):
            if time.monotonic() > until:
                raise SystemExit(f"the service had no room for {len(texts)} texts in {PATIENCE:.0f} s: {got.text}")
            time.sleep(float(got.headers.get("retry-after", 1)))
        decisions: list[dict[str, Any]] = got.raise_for_status().json()["decisions"]
        return decisions

    def bundles(self, action: str, **body: str) -> dict[str, Any]:
        """One admin call; an empty action lists the bundles."""
        path, body_ = f"/admin/bundles/{action}".rstrip("/"), body or None
        got = self.client.request("POST" if action else "GET", path, json=body_, headers=self.admin)
        found: dict[str, Any] = got.raise_for_status().json()
        return found

    def placed(self, place: str) -> str:
        """The name of the bundle in a place."""
        return next(str(one["name"]) for one in self.bundles("")["bundles"] if one["place"] == place)

    def logged(self) -> int:
        """Decisions in the service's log."""
        with Store.open(self.store, create=False) as store, store.begin() as connection:
            return int(connection.execute(select(func.count()).select_from(decisions_table)).scalar_one())


@contextmanager
def serving(bundle: Path, store: Path, audit: float) -> Iterator[Running]:
    """`tamis serve` on loopback until the block ends."""
    with Store.open(store) as opened:
        admin = {"authorization": f"Bearer {add_key(opened, 'operator', ['admin'])}"}
    with socket.create_server(("127.0.0.1", 0)) as free:  # Not one that the service of a killed run still holds.
        port = free.getsockname()[1]
    settings = [f"store={store}", "require_key=false", f"cascade.audit={audit}", f"batch.wait={WAIT}"]
    options = [part for one in settings for part in ("--set", one)]
    command = [str(Path(sys.executable).with_name("tamis")), "serve", str(bundle), "--port", str(port), *options]
    with subprocess.Popen(command) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
        try:
            ready(port, process)
            yield Running(client, admin, store)
        finally:
            process.terminate()


def send(service: Running, texts: Sequence[str], name: str) -> list[Decision]:
    """Traffic through the service; returns the decisions as it logged them, in the order of the texts.

    Each text has an idempotency key, so after a kill what was answered is not decided again.
    """
    asked = [{"text": text, "idempotency_key": f"{name}-{number}"} for number, text in enumerate(texts)]
    parts, began, ids = [asked[n : n + TOGETHER] for n in range(0, len(asked), TOGETHER)], time.monotonic(), []
    with ThreadPoolExecutor(CLIENTS) as pool:
        try:
            for done, answer in enumerate(pool.map(service.ask, parts), 1):
                ids += [one["id"] for one in answer]
                left = (time.monotonic() - began) / done * (len(parts) - done)
                print(f"\r  {len(ids)} of {len(texts)} texts, {left:.0f} s left ", end="", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)  # Else who ends it waits for all texts.
    print()
    with Store.open(service.store, create=False) as store:
        found = {one: told for n in range(0, len(ids), 500) for one, told in recorded(store, ids[n : n + 500]).items()}
    return [found[one] for one in ids]


def _client(service: Running, texts: Sequence[str], over: threading.Event, tally: Tally, lock: threading.Lock) -> None:
    """One client without a pause, which counts whatever comes."""
    turn = cycle(range(0, len(texts), 2))
    while not over.is_set():
        asked, models, status = texts[(start := next(turn)) : start + 2], [], 0
        try:
            got = service.client.post("/v1/decisions", json={"texts": asked})
            status = got.status_code
            models = [one["versions"]["model"] for one in got.json().get("decisions", ())]
        except (httpx.HTTPError, ValueError):
            pass
        with lock:
            tally.add(status, len(asked), models)


@contextmanager
def load(service: Running, texts: Sequence[str]) -> Iterator[Tally]:
    """Load on a service while the block lasts; every request that was begun is waited for."""
    tally, over, lock = Tally(), threading.Event(), threading.Lock()
    part = len(texts) // CLIENTS
    clients = [
        threading.Thread(target=_client, args=(service, texts[n * part : (n + 1) * part], over, tally, lock))
        for n in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    try:
        yield tally
    finally:
        over.set()
        for client in clients:
            client.join()


def swap(service: Running, candidate: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Load, shadow and promote a candidate under load, roll back under load, and promote it for good.

    Probes are asked when there is no load, as one request: what is computed together decides the last bits.
    """
    old, logged = service.placed("live"), service.logged()
    probes = [probe(service, texts)]
    with load(service, texts) as promoting:
        _wait(lambda: promoting.models[old] >= COMPARED, "answers of the running bundle")
        service.bundles("load", folder=str(candidate.resolve()))
        new = service.placed("loaded")
        service.bundles("shadow", name=new)
        _wait(lambda: sum(service.bundles("")["agreement"].values()) >= COMPARED, "comparisons with the shadow")
        agreement = service.bundles("")["agreement"]
        service.bundles("promote", name=new)
        _wait(lambda: promoting.models[new] >= COMPARED, "answers of the candidate")
    probes.append(probe(service, texts))
    with load(service, texts) as returning:
        _wait(lambda: returning.models[new] >= COMPARED, "answers of the candidate")
        service.bundles("rollback")
        _wait(lambda: returning.models[old] >= COMPARED, "answers of the bundle before")
    probes.append(probe(service, texts))
    answered = sum(sum(one.models.values()) for one in (promoting, returning)) + sum(map(len, probes))
    lost = answered - (service.logged() - logged)
    service.bundles("promote", name=new)
    same, differ = probes[0] == probes[2], probes[0] != probes[1]
    tallies = {"promoting": vars(promoting), "returning": vars(returning)}
    found = {"old": old, "new": new, "agreement": agreement, "not_logged": lost, "probes": len(probes[0])}
    return found | tallies | {"rollback_same": same, "candidate_differs": differ}


def probe(service: Running, texts: Sequence[str]) -> list[tuple[str, float, dict[str, float]]]:
    """Action and scores of some texts, to the bit."""
    return [(one["action"], one["risk"], one["probabilities"]) for one in service.ask(list(texts[:PROBES]))]


def _wait(reached: Callable[[], bool], what: str) -> None:
    """Wait until something is so, but not for ever."""
    until = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > until:
            raise SystemExit(f"no {COMPARED} {what} in {PATIENCE:.0f} s: see what the service says")
        time.sleep(0.2)
