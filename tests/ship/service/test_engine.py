"""The engine on a tiny real bundle; where time matters its backend is one that computes when it is let."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.config import BatchConfig
from tamis.errors import Closing, Overloaded, TooLate
from tamis.records import NO_ANSWER, Scores
from tamis.ship.backends import Backend
from tamis.ship.bundle import Moderator, load_bundle
from tamis.ship.service.engine import AHEAD, Engine, Line
from tamis.windows import Array, Ids

TEXTS = ["今天天气很好", "注册就送彩金", "easy money no fee", "", "日入上千私我" * 60, "a\0b\ud800", "nice garden " * 9]
LONG = "日入上千私我" * 400
FAR = 30.0


class Watched:
    """A real backend that notes what it computes, waits at a gate and for so long a token, and can break."""

    def __init__(self, backend: Backend, seconds: float = 0.0) -> None:
        self.backend, self.seconds = backend, seconds
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.batches: list[Ids] = []
        self.breaks = False

    def logits(self, ids: Ids, mask: Ids) -> Array:
        self.batches.append(ids)
        self.entered.set()
        assert self.gate.wait(FAR)
        time.sleep(self.seconds * ids.size)
        if self.breaks:
            raise RuntimeError("secret text")
        return self.backend.logits(ids, mask)

    @property
    def rows(self) -> int:
        return sum(map(len, self.batches))


@pytest.fixture(scope="module")
def real(bundles: Sequence[Path]) -> Moderator:
    return load_bundle(bundles[0])


def watched(real: Moderator, seconds: float = 0.0) -> tuple[Moderator, Watched]:
    backend = Watched(real.backend, seconds)
    return Moderator(backend, real.encoder, real.policy, real.spec, "watched"), backend


def run(moderator: Moderator, work: Callable[[Engine], Awaitable[None]], lanes: int = 1, **changes: float) -> None:
    """Do some work with an engine, which afterwards holds nothing back."""

    async def all_of_it() -> None:
        engine = Engine(moderator, Line(BatchConfig.model_validate(changes), lanes=lanes))
        engine.line.tokens_per_second = 1e6
        try:
            await work(engine)
        finally:
            await engine.close()
        assert (engine.depth, engine.line.depth) == (0, 0)

    asyncio.run(all_of_it())


def soon(seconds: float = FAR) -> float:
    return asyncio.get_running_loop().time() + seconds


def same(found: Sequence[Scores], wanted: Sequence[Scores]) -> bool:
    assert len(found) == len(wanted)
    pairs = [
        (list(a.probabilities.values()), list(b.probabilities.values())) for a, b in zip(found, wanted, strict=True)
    ]
    return all(np.allclose(a, b, atol=1e-4) for a, b in pairs)


@settings(deadline=None, max_examples=25)
@given(
    requests=st.lists(st.lists(st.sampled_from(TEXTS), max_size=6), min_size=1, max_size=8),
    tokens=st.sampled_from([16, 60, 1024]),
    lanes=st.sampled_from([1, 3]),
)
def test_each_request_gets_its_own_scores_in_its_order(
    requests: list[list[str]], tokens: int, lanes: int, real: Moderator
) -> None:
    moderator, backend = watched(real)

    async def work(engine: Engine) -> None:
        found = await asyncio.gather(*(engine.score(texts, soon()) for texts in requests))
        for scores, texts in zip(found, requests, strict=True):
            assert same(scores, real.score(texts))

    run(moderator, work, lanes, tokens=tokens)
    # A batch holds its budget, or a single window that is longer.
    assert all(batch.size <= tokens or len(batch) == 1 for batch in backend.batches)


def test_batches_of_several_lanes_are_computed_side_by_side(real: Moderator) -> None:
    moderator, backend = watched(real)

    async def work(engine: Engine) -> None:
        backend.gate.clear()
        asked = [asyncio.create_task(engine.score([text, LONG], soon())) for text in TEXTS]
        while len(backend.batches) < 3:
            await asyncio.sleep(0.005)
        backend.gate.set()
        for text, found in zip(TEXTS, await asyncio.gather(*asked), strict=True):
            assert same(found, real.score([text, LONG]))

    run(moderator, work, lanes=3)


def test_the_pace_of_several_lanes_is_that_of_all_together(real: Moderator) -> None:
    moderator, _ = watched(real, seconds=0.001)

    async def work(engine: Engine) -> None:
        engine.line.tokens_per_second = 1.0
        await engine.score([LONG] * 2, soon(1e6))
        # A token takes each of the two a millisecond.
        assert 1200 < engine.line.tokens_per_second < 2100

    run(moderator, work, lanes=2, tokens=256)


def test_texts_of_many_requests_are_one_batch(real: Moderator) -> None:
    moderator, backend = watched(real)

    async def work(engine: Engine) -> None:
        backend.gate.clear()
        first = asyncio.create_task(engine.score(["first"], soon()))
        await asyncio.to_thread(backend.entered.wait)
        rest = [asyncio.create_task(engine.score([text], soon())) for text in ["今天天气很好"] * 20]
        while engine.line._encoded.qsize() < len(rest):
            await asyncio.sleep(0.005)
        backend.gate.set()
        await asyncio.gather(first, *rest)

    run(moderator, work)
    assert [len(batch) for batch in backend.batches] == [1, 20]


def test_the_worst_window_of_a_long_text_counts(real: Moderator) -> None:
    parts = real.encoder.encode([LONG]).ids
    assert len(parts) > 50
    moderator, _ = watched(real)

    async def work(engine: Engine) -> None:
        (found,) = await engine.score([LONG], soon())
        alone = [real.backend.logits(np.array([row]), np.ones((1, len(row)), np.int64)) for row in parts]
        risks = [real.scores(logits, [0], [""])[0].risk for logits in alone]
        assert max(risks) > min(risks) + 0.01
        assert found.risk == pytest.approx(max(risks), abs=1e-4)
        assert found.evidence == real.score([LONG])[0].evidence != ()

    run(moderator, work, tokens=64)


def test_a_long_text_does_not_hold_up_the_others(real: Moderator) -> None:
    moderator, backend = watched(real)

    async def work(engine: Engine) -> None:
        backend.gate.clear()
        first = asyncio.create_task(engine.score(["first"], soon()))
        await asyncio.to_thread(backend.entered.wait)
        long = asyncio.create_task(engine.score([LONG], soon()))
        short = asyncio.create_task(engine.score(["nice"], soon()))
        while engine.line._encoded.qsize() < 2:
            await asyncio.sleep(0.005)
        backend.gate.set()
        await short
        assert not long.done()
        await asyncio.gather(first, long)

    run(moderator, work, tokens=24)
    lengths = [batch.shape[1] for batch in backend.batches]
    assert len(lengths) > 3 * AHEAD
    assert min(lengths[1 : 2 * AHEAD + 1]) < 24


def test_too_much_is_refused_at_once_and_what_is_taken_is_answered(real: Moderator) -> None:
    moderator, backend = watched(real)

    async def work(engine: Engine) -> None:
        engine.line.tokens_per_second, backend.seconds = 1000.0, 1e-3
        taken, refused = [], []
        for _ in range(200):
            task = asyncio.ensure_future(engine.score(["今天天气很好"], soon()))
            # One turn of the loop is all that a refusal takes.
            await asyncio.sleep(0)
            (refused if task.done() else taken).append(task)
        assert engine.depth <= 0.2 * 1000
        assert len(taken) > 5
        assert len(refused) > 50
        for task in refused:
            with pytest.raises(Overloaded, match=r"in \d\.\d seconds") as caught:
                await task
            assert 0 < caught.value.retry_after <= 0.2
        assert len(await asyncio.gather(*taken)) == len(taken)

    run(moderator, work, wait=0.2)
    assert backend.rows < 200


def test_what_could_only_just_be_in_time_is_refused(real: Moderator) -> None:
    moderator, backend = watched(real)

    async def work(engine: Engine) -> None:
        engine.line.tokens_per_second = 10.0
        backend.gate.clear()
        before = asyncio.create_task(engine.score(["今天天气很好"] * 40, soon(1000)))
        await asyncio.sleep(0)
        # A tenth of a token for one more character.
        needed = engine.depth / 10 + 0.1
        with pytest.raises(Overloaded):
            await engine.score(["a"], soon(needed / 0.9))
        taken = asyncio.create_task(engine.score(["a"], soon(needed / 0.7)))
        await asyncio.sleep(0)
        backend.gate.set()
        assert len(await before) == 40
        assert len(await taken) == 1

    run(moderator, work, wait=1000)


def test_a_large_request_is_taken_alone_if_there_is_time(real: Moderator) -> None:
    moderator, _ = watched(real)

    async def work(engine: Engine) -> None:
        engine.line.tokens_per_second = 10_000.0
        texts = ["今天天气很好"] * 100
        taken = asyncio.create_task(engine.score(texts, soon()))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await engine.score(["a"], soon())
        assert len(await taken) == 100
        with pytest.raises(TooLate, match="send fewer texts"):
            await engine.score(texts, soon(0.001))

    run(moderator, work, wait=0.01)


def test_an_idle_engine_takes_a_large_request_whatever_it_did_before(real: Moderator) -> None:
    moderator, _ = watched(real)

    async def work(engine: Engine) -> None:
        # Fractions of tokens would leave a rest that is no work.
        await asyncio.gather(*(engine.score([text], soon()) for text in TEXTS))
        assert engine.depth == 0
        engine.line.tokens_per_second = 10_000.0
        assert len(await engine.score(["今天天气很好"] * 100, soon())) == 100

    run(moderator, work, wait=0.01)


def test_it_comes_back_from_a_stall_although_little_is_let_in(real: Moderator) -> None:
    moderator, _ = watched(real)

    async def work(engine: Engine) -> None:
        engine.line.tokens_per_second = 20.0
        for _ in range(20):
            await engine.score(["今天天气很好"], soon())
        # What may wait is under 512 tokens at the pace of the stall.
        assert engine.line.tokens_per_second > 100

    run(moderator, work, tokens=512)


def test_who_does_not_wait_is_not_computed_for(real: Moderator) -> None:
    moderator, backend = watched(real)

    async def work(engine: Engine) -> None:
        backend.gate.clear()
        first = asyncio.create_task(engine.score(["first"], soon()))
        await asyncio.to_thread(backend.entered.wait)
        late = asyncio.create_task(engine.score(["late"] * 3, soon(0.02)))
        left = asyncio.create_task(engine.score(["left"] * 5, soon()))
        with pytest.raises(TooLate, match="wait longer, or send fewer"):
            await late
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        backend.gate.set()
        await first
        await engine.score(["last"], soon())

    run(moderator, work)
    assert backend.rows == 2


def test_one_that_ends_answers_what_it_has_taken_and_takes_no_more(real: Moderator) -> None:
    moderator, backend = watched(real)

    async def work(engine: Engine) -> None:
        backend.gate.clear()
        taken = [asyncio.create_task(engine.score([text, LONG], soon())) for text in TEXTS]
        await asyncio.to_thread(backend.entered.wait)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        with pytest.raises(Closing):
            await engine.score(["more"], soon())
        backend.gate.set()
        await closing
        assert all(len(scores) == 2 for scores in await asyncio.gather(*taken))
        await engine.close()

    run(moderator, work, tokens=256)


def test_what_cannot_be_computed_has_no_answer_and_the_engine_goes_on(
    real: Moderator, caplog: pytest.LogCaptureFixture
) -> None:
    moderator, backend = watched(real)

    async def work(engine: Engine) -> None:
        backend.breaks = True
        broken = await engine.score(["a", LONG], soon())
        assert broken == [NO_ANSWER] * 2
        assert {moderator.decide("a", one).action for one in broken} == {"review"}
        backend.breaks = False
        assert same(await engine.score(TEXTS, soon()), real.score(TEXTS))

    run(moderator, work, tokens=64)
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_no_texts_are_no_work(real: Moderator) -> None:
    moderator, backend = watched(real)

    async def work(engine: Engine) -> None:
        assert await engine.score([], soon()) == []
        with pytest.raises(TooLate):
            await engine.score(["a"], -math.inf)

    run(moderator, work)
    assert backend.rows == 0


def test_it_is_warm_and_knows_its_pace(real: Moderator) -> None:
    moderator, backend = watched(real, seconds=1e-5)

    async def work(engine: Engine) -> None:
        await asyncio.to_thread(engine.warm)
        assert {batch.shape for batch in backend.batches} == {(32, 16), (21, 24)}
        # At most one token in ten microseconds.
        assert 1e3 < engine.line.tokens_per_second <= 1e5

    run(moderator, work)
