"""From checked texts to answers: decided, written to the log, and only then told."""

from __future__ import annotations

import asyncio
import json
import math
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response

from tamis.config import ServeConfig
from tamis.decisions import DecisionLog, Logged, decisions_table
from tamis.errors import Closing, DataError, Overloaded, TamisError, TooLate
from tamis.records import Decision, Scores
from tamis.ship.monitor import Look, Looking
from tamis.ship.service import metrics
from tamis.ship.service.fleet import Fleet
from tamis.ship.service.keys import Key, Keyring
from tamis.ship.service.limits import check_texts
from tamis.ship.service.refusal import Refusal
from tamis.ship.service.tenants import TENANT, Tenants
from tamis.ship.service.traces import span
from tamis.store import Store

OPENAIS = ("omni-moderation-", "text-moderation-")
"""How OpenAI calls its own models, which clients may name without knowing whom they ask."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision as it stands in the log; `repeated` where its idempotency key had been answered before."""

    id: str
    decision: Decision
    repeated: bool = False


@dataclass
class Service:
    """What one worker answers with.

    `note` is the key under which the store says which bundles are wanted, `followed` what it said last, `shown` what
    the metrics show of them; `log` is None where nothing is logged. `looking` has the traffic looked at, and `look` is
    what the last look of any process found.
    """

    note: str
    fleet: Fleet
    tenants: Tenants
    store: Store
    log: DecisionLog | None
    config: ServeConfig
    keyring: Keyring
    looking: Looking
    look: Look | None = None
    draining: bool = False
    followed: Any = None
    shown: set[tuple[str, str]] = field(default_factory=set)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def ready(self) -> bool:
        """Whether new requests should come here."""
        return self.fleet.ready and not self.draining

    def begin_drain(self) -> bool:
        """Say from now on that no more should come; whether that is news."""
        news, self.draining = not self.draining, True
        return news

    def judge(self, caller: Key, model: str | None = None) -> Fleet:
        """Who decides: the tenant a request names, the first one its key is for, or the service's own bundle.

        Raises:
            Refusal: there is no such tenant, or the key is not for it.
        """
        known = [name for name in caller.tenants or self.tenants.fleets if name in self.tenants.fleets]
        if model not in known and (model is None or model.startswith(OPENAIS)):
            if not caller.tenants:
                return self.fleet
            model = caller.tenants[0]
        if model in known:
            return self.tenants.fleets[model]
        said = "take one of " + ", ".join(sorted(known)) if known else "there is none now"
        raise Refusal("model", f"model names no tenant that this key may ask: {said}", "model")

    async def answer(
        self,
        judge: Fleet,
        texts: Sequence[str],
        where: str,
        caller: Key,
        keys: Sequence[str | None] = (),
        keep: bool = True,
    ) -> list[Answer]:
        """Judge texts and log what was decided, which is committed when this returns.

        Args:
            judge: who decides.
            texts: what is judged.
            where: the field they stand in.
            caller: whose idempotency keys they are.
            keys: an idempotency key a text, or None.
            keep: let the log keep of the texts what it keeps.

        Raises:
            Refusal: they cannot be judged, or not now.
        """
        check_texts(texts, where, self.config.limits)
        named = list(keys) or [None] * len(texts)
        if self.log is None and any(named):
            raise Refusal("fields", "an idempotency key needs the decision log, which is off", where)
        decisions = await self._decide(judge, texts)
        count(decisions)
        if self.log is None:
            return [Answer(uuid.uuid4().hex, decision) for decision in decisions]
        # A key is the caller's own, and of one tenant: another one's with the same name is another key.
        tenant = decisions[0].versions.get(TENANT)
        owner = f"{caller.id} {tenant}" if tenant else caller.id
        full = [f"{owner}:{key}" if key else None for key in named]
        kept = texts if keep else [""] * len(texts)
        with metrics.LOG_SECONDS.time(), span("log", texts=len(texts)):
            logged = await _committed(self.log, decisions, kept, full)
        return await self._told(decisions, logged)

    async def _decide(self, judge: Fleet, texts: Sequence[str]) -> list[Decision]:
        try:
            return await judge.decide(texts, self.config.timeout)
        except Overloaded as error:
            raise Refusal(
                "overload", "the service is at its limit: try again later", retry_after=math.ceil(error.retry_after)
            ) from None
        except TooLate:
            raise Refusal("late", "there was no time to judge it: try again later", retry_after=1) from None
        except Closing:
            raise Refusal("closing", "the service is about to stop: try again", retry_after=1) from None

    async def _told(self, decisions: Sequence[Decision], logged: Sequence[Logged]) -> list[Answer]:
        old = [one.id for one in logged if not one.fresh]
        if not old:
            return [Answer(one.id, decision) for one, decision in zip(logged, decisions, strict=True)]
        metrics.REPEATS.inc(len(old))
        first = await asyncio.to_thread(recorded, self.store, old)
        return [
            Answer(one.id, decision if one.fresh else first[one.id], not one.fresh)
            for one, decision in zip(logged, decisions, strict=True)
        ]


async def _committed(
    log: DecisionLog, decisions: Sequence[Decision], texts: Sequence[str], keys: Sequence[str | None]
) -> list[Logged]:
    try:
        waiting: list[Future[Logged]] = [
            log.add(decision, text, key) for decision, text, key in zip(decisions, texts, keys, strict=True)
        ]
        return [await asyncio.wrap_future(one) for one in waiting]
    except DataError as error:
        raise Refusal("conflict", str(error)) from None
    except TamisError:
        raise Refusal(
            "broken", "the decision could not be logged, so it is not told: try again", retry_after=1
        ) from None


def recorded(store: Store, ids: Sequence[str]) -> dict[str, Decision]:
    """Decisions as the log has them, by the ids it gave them; what they found in the text is not kept there."""
    with store.begin() as connection:
        query = select(decisions_table).where(decisions_table.c.id.in_(ids))
        rows = connection.execute(query).mappings().all()
    found = {}
    for row in rows:
        told = {name: json.loads(row[name]) for name in ("scores", "versions", "tiers", "reasons")}
        scores = told["scores"]
        risk = math.nan if scores["risk"] is None else scores["risk"]
        found[row["id"]] = Decision(
            row["content"],
            row["action"],
            row["category"],
            Scores(scores["probabilities"], risk, scores["uncertainty"]),
            told["versions"],
            tuple(told["tiers"]),
            tuple(told["reasons"]),
            row["latency_ms"],
        )
    return found


def count(decisions: Sequence[Decision]) -> None:
    """Count what was decided."""
    for decision in decisions:
        metrics.DECISIONS.labels(decision.action, decision.category).inc()
        if TENANT in decision.versions:
            metrics.TENANTS.labels(decision.versions[TENANT], decision.action).inc()
        metrics.BUNDLE_TEXTS.labels(decision.versions["model"]).inc()
        for tier in decision.tiers:
            metrics.TIERS.labels(tier).inc()


def finite(number: float) -> float | None:
    """A number as JSON can say it."""
    return number if math.isfinite(number) else None


def respond(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, headers, media_type="application/json")


def bearer(request: Request) -> str | None:
    """The key of an `Authorization: Bearer` header."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def service_of(request: Request) -> Service:
    """The service a request came to."""
    return request.app.state.service
