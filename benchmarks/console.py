"""How long every page of the console takes over a busy month: 100,000 decisions and 20,000 reviews.

    python benchmarks/console.py BUNDLE [--store URL] [--decisions N] [--reviews N] [--times N]

Fills an empty store so (SQLite in a temporary folder, or the URL), serves it in this process without a network and asks
each page for its median; prints a line a page, and ends with 1 where one is over its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import insert

from tamis import reviews
from tamis.config import ServeConfig
from tamis.decisions import GENESIS, canonical, decisions_table, stamp
from tamis.policy import Policy
from tamis.records import AUDIT, Example, content_id
from tamis.reviews import Judgement
from tamis.reviews.tables import ITEMS, items_table, verdicts_table
from tamis.ship.bundle import load_bundle
from tamis.ship.console.hours import fold
from tamis.ship.console.users import add_user
from tamis.ship.monitor import look
from tamis.ship.service.app import Settings, create_app
from tamis.store import Store
from tamis.tiers import teachers

LIMIT, QUEUE_LIMIT = 0.3, 0.1
DAYS, PEOPLE, GOLD, SECONDS = 30, 10, 100, 0.1
PAGES = (
    "queue",
    "decisions",
    "dashboard",
    "dashboard?days=1",
    "dashboard?days=90",
    "quality",
    "quality?days=90",
    "bulk",
    "bulk?category=&low=50&high=90",
    "thresholds",
    "thresholds/figures?{moved}",
    "thresholds/diff?{moved}",
    "models",
    "settings",
)


def fill(store: Store, policy: Policy, decisions: int, judged: int) -> None:
    """Decisions of a month as rows; the chain is of no matter here. Reviews of them, with gold and second looks."""
    chance, now = random.Random(0), datetime.now(UTC)
    rows = list(decided(policy, decisions, now, chance))
    with store.begin() as connection:
        for start in range(0, decisions, 1000):
            connection.execute(insert(decisions_table), rows[start : start + 1000])
    reviews.fill(store)
    gold = [Example(content_id(f"gold {i}"), f"gold {i}", "en", "b", label=policy.ids[i % 2]) for i in range(GOLD)]
    reviews.add_gold(store, gold)
    judge(store, policy, judged, now, chance)
    fold(store)
    if store.folder is None:
        # As a server's autovacuum does within a minute.
        with store.begin() as connection:
            connection.exec_driver_sql("ANALYZE")


def decided(policy: Policy, number: int, now: datetime, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Rows of the decision log: three quarters pass, of which 2 % are audited."""
    for i in range(number):
        risk = chance.random() ** 2
        action = "pass" if risk < 0.5 else "review" if risk < 0.9 else "block"
        harmful = chance.choice(policy.ids[1:])
        told = {name: 0.0 for name in policy.ids} | {policy.benign: 1 - risk, harmful: risk}
        marked = [AUDIT] if action == "pass" and chance.random() < 0.02 else []
        name = f"{i:032x}"
        yield {
            "number": i + 1,
            "id": name,
            "key": name,
            "time": stamp(now - timedelta(days=DAYS) * (1 - i / number)),
            "content": content_id(f"text {i}"),
            "action": action,
            "category": policy.benign if risk < 0.5 else harmful,
            "scores": canonical({"probabilities": told, "risk": risk, "uncertainty": 0.5}),
            "tiers": canonical(["student"] if chance.random() < 0.9 else ["student", "teacher t", "person"]),
            "reasons": canonical(marked),
            "versions": canonical({"model": "may" if i < number / 2 else "june", "policy": "p 1.0", "tamis": "0"}),
            "latency_ms": 5 * chance.random() + 1,
            "signals": canonical({"language": chance.choice(["zh", "en"]), "length": chance.randrange(5, 200)}),
            "seal": GENESIS,
            "previous": GENESIS,
            "hash": GENESIS,
            "kept": canonical({"salt": "", "text": f"text {i} " + "字" * chance.randrange(5, 200)}),
        }


def judge(store: Store, policy: Policy, number: int, now: datetime, chance: random.Random) -> None:
    """Verdicts of several people: a tenth are blind second ones, and everybody judges all of the gold."""
    people = [f"reviewer {i}" for i in range(PEOPLE)]
    open_ = reviews.listing(store, limit=number)
    golds = [one for one in _all(store) if one["cause"] == "gold"]
    first = number - int(number * SECONDS) - PEOPLE * len(golds)
    said = [(one.id, chance.choice(people), chance.choice(policy.ids)) for one in open_[:first]]
    for i, who in enumerate(people):
        reviews.judge(
            store, [one[0] for one in said[i :: len(people)]], Judgement(who, policy.ids[i % 2]), None, SECONDS
        )
        for gold in golds:
            verdict = policy.ids[chance.randrange(2)]
            with store.begin() as connection:
                row = {"item": gold["id"], "reviewer": who, "time": stamp(now), "verdict": verdict, "reason": ""}
                connection.execute(insert(verdicts_table), [row])
    for one in reviews.listing(store, reviews.Wanted(cause="second"), number):
        other = next(who for who in people if who != one.not_for)
        reviews.judge(store, [one.id], Judgement(other, chance.choice(policy.ids)))


def _all(store: Store) -> list[dict[str, Any]]:
    with store.begin() as connection:
        return [dict(row) for row in connection.execute(items_table.select().where(ITEMS.cause == "gold")).mappings()]


@asynccontextmanager
async def visiting(bundle: Path, url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that is signed in as an admin."""
    with Store.open(url) as store:
        password = add_user(store, "bench", "admin")
    app = create_app(Settings(bundle, ServeConfig(store=url, require_key=False), teachers))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here/console", timeout=60) as client:
            await client.post("/sign-in", data={"name": "bench", "password": password})
            yield client


async def measure(bundle: Path, url: str, moved: str, times: int) -> bool:
    """Whether every page is answered within its limit in the median."""
    fine = True
    async with visiting(bundle, url) as client:
        for page in PAGES:
            took = []
            for _ in range(times):
                began = time.perf_counter()
                answer = await client.get("/" + page.format(moved=moved))
                took.append(time.perf_counter() - began)
                assert answer.status_code == 200, (page, answer.status_code)
            middle, limit = statistics.median(took), QUEUE_LIMIT if page == "queue" else LIMIT
            fine &= middle <= limit
            mark = "" if middle <= limit else f"  over {1000 * limit:.0f} ms"
            print(f"{page.partition('?{')[0]:32}{1000 * middle:8.1f} ms {1000 * max(took):8.1f} at most{mark}")
    return fine


def main() -> None:
    """Fill, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--store")
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--reviews", type=int, default=20_000)
    parser.add_argument("--times", type=int, default=15)
    asked = parser.parse_args()
    policy = load_bundle(asked.bundle).policy
    with tempfile.TemporaryDirectory() as folder:
        url = asked.store or str(Path(folder) / "s.sqlite")
        with Store.open(url) as store:
            fill(store, policy, asked.decisions, asked.reviews)
            with store.begin() as connection:
                rows = connection.execute(verdicts_table.select()).all()
            print(f"{asked.decisions} decisions, {len(rows)} verdicts")
            began = time.perf_counter()
            look(store, policy, 7)
            print(f"a look in the background takes {time.perf_counter() - began:.1f} s")
        moved = f"review.risk.any={policy.actions.review / 2:g}"
        sys.exit(0 if asyncio.run(measure(asked.bundle, url, moved, asked.times)) else 1)


if __name__ == "__main__":
    main()
