"""Bundles that judge beside the live one: in shadow, and as a canary."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.ship.service.fleet.conftest import SECONDS, TEXTS, answered_by, places, run

from tamis.errors import BundleError, ConfigError
from tamis.records import content_id
from tamis.ship.bundle import Moderator
from tamis.ship.cascade import is_chosen
from tamis.ship.service.fleet import Fleet


def test_a_shadow_counts_and_changes_no_answer(bundles: Sequence[Path], judges: dict[str, Moderator]) -> None:
    one, two = judges
    pairs = Counter((a.action, b.action) for a, b in zip(judges[one](TEXTS), judges[two](TEXTS), strict=True))
    assert any(live != other for live, other in pairs)

    async def work(fleet: Fleet) -> None:
        await fleet.load(bundles[1])
        await fleet.shadow(two)
        for rounds in range(1, 4):
            assert answered_by(await fleet.decide(TEXTS, SECONDS), judges) == one
            while sum(fleet.slots[1].agreement.values()) < rounds * len(TEXTS):
                await asyncio.sleep(0.01)
        shown = fleet.slots[1]
        assert (shown.place, Counter(shown.agreement)) == ("shadow", Counter({k: 3 * n for k, n in pairs.items()}))
        # Under load it is left out rather than waited for.
        many = await asyncio.gather(*(fleet.decide(TEXTS, SECONDS) for _ in range(50)))
        assert {answered_by(decisions, judges) for decisions in many} == {one}
        assert sum(fleet.slots[1].agreement.values()) < 53 * len(TEXTS)
        await fleet.shadow(None)
        assert fleet.slots[1].place == "loaded"
        await fleet.shadow(two)
        assert fleet.slots[1].agreement == {}
        await fleet.promote(two)
        assert places(fleet.slots) == {one: "previous", two: "live"}
        assert answered_by(await fleet.decide(TEXTS, SECONDS), judges) == two

    run(bundles[0], work)


def test_a_canary_decides_a_share_and_always_of_the_same_texts(
    bundles: Sequence[Path], judges: dict[str, Moderator]
) -> None:
    one, two = judges
    texts = [f"text {i}" for i in range(2000)]

    async def shares(fleet: Fleet, share: float) -> set[str]:
        """The texts that the canary decides."""
        assert (await fleet.canary(two, share)).place == ("canary" if share else "loaded")
        assert {slot.name: slot.share for slot in fleet.slots} == {one: 1 - share, two: share}
        decisions = [d for i in range(0, len(texts), 100) for d in await fleet.decide(texts[i : i + 100], SECONDS)]
        assert [d.id for d in decisions] == [content_id(text) for text in texts]
        found = {text for text, d in zip(texts, decisions, strict=True) if d.versions["model"] == two}
        # Four standard deviations of the binomial: one such test in ten thousand fails by chance.
        assert abs(len(found) - share * len(texts)) <= 4 * (len(texts) * share * (1 - share)) ** 0.5
        return found

    async def work(fleet: Fleet) -> None:
        await fleet.load(bundles[1])
        few = await shares(fleet, 0.1)
        assert await shares(fleet, 0.1) == few
        assert few < await shares(fleet, 0.3)
        for text in (next(iter(few)), next(text for text in texts if text not in few)):
            (alone,) = await fleet.decide([text], SECONDS)
            assert (alone.versions["model"] == two) == (text in few)
        audited = {text for text in texts if is_chosen(content_id(text), b"salt", 0.1)}
        # Neither all nor nothing of what is audited is the canary's.
        assert 0 < len(audited & few) < len(audited) / 2
        assert not await shares(fleet, 0.0)
        assert await shares(fleet, 1.0) == set(texts)
        for a, b in zip(await fleet.decide(TEXTS, SECONDS), judges[two](TEXTS), strict=True):
            assert (a.id, a.action) == (b.id, b.action)

    run(bundles[0], work)


def test_a_canary_ends_with_the_live_bundle_and_when_it_is_unloaded(
    bundles: Sequence[Path], judges: dict[str, Moderator], other_policy: Path
) -> None:
    one, two = judges

    async def work(fleet: Fleet) -> None:
        await fleet.load(bundles[1])
        await fleet.shadow(two)
        await fleet.canary(two, 0.5)
        assert places(fleet.slots) == {one: "live", two: "canary"}
        with pytest.raises(ConfigError, match="is live: promote another one first"):
            await fleet.canary(one, 0.5)
        other = (await fleet.load(other_policy)).name
        with pytest.raises(BundleError, match="judges normal, fraud, the live bundle normal, gambling, fraud: use"):
            await fleet.canary(other, 0.5)
        await fleet.unload(other)
        # What it was given is answered before it goes.
        taken = asyncio.create_task(fleet.decide([f"text {i}" for i in range(100)], SECONDS))
        await asyncio.sleep(0)
        await fleet.unload(two)
        assert taken.done()
        assert {d.versions["model"] for d in await taken} == {one, two}
        assert places(fleet.slots) == {one: "live"}
        await fleet.load(bundles[1])
        await fleet.canary(two, 0.5)
        await fleet.promote(two)
        assert {slot.name: (slot.place, slot.share) for slot in fleet.slots} == {
            one: ("previous", 0.0),
            two: ("live", 1.0),
        }
        await fleet.canary(one, 0.25)
        assert places(fleet.slots) == {one: "canary", two: "live"}

    run(bundles[0], work)


@pytest.mark.parametrize(("seconds", "judged"), [(0.01, True), (0.9, False)])
def test_a_shadow_judges_beside_a_short_queue_not_a_long_one(
    bundles: Sequence[Path], judges: dict[str, Moderator], seconds: float, judged: bool
) -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.load(bundles[1])
        await fleet.shadow([*judges][1])
        # Others wait all the time.
        tokens = int(seconds * fleet.engine.line.tokens_per_second)
        fleet.engine.line.depth += tokens
        await fleet.decide(TEXTS, SECONDS)
        fleet.engine.line.depth -= tokens
        while fleet._background:
            await asyncio.sleep(0.01)
        assert bool(fleet.slots[1].agreement) == judged

    run(bundles[0], work)
