"""Bundles that are loaded, swapped and refused under load."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.ship.service.fleet.conftest import SECONDS, TEXTS, answered_by, flipped, known, places, run

from tamis.config import ServeConfig
from tamis.errors import BundleError, ConfigError
from tamis.policy import Policy
from tamis.records import Decision
from tamis.ship.bundle import Moderator
from tamis.ship.service.fleet import Fleet


def test_it_decides_as_its_bundle(bundles: Sequence[Path], judges: dict[str, Moderator], small_policy: Policy) -> None:
    async def work(fleet: Fleet) -> None:
        assert fleet.ready
        assert fleet.policy == small_policy
        decisions = await fleet.decide(TEXTS, SECONDS)
        assert answered_by(decisions, judges) == next(iter(judges))
        assert all(decision.latency_ms > 0 for decision in decisions)
        assert {decision.tiers[0] for decision in decisions} == {"student"}
        assert {"person" in decision.tiers for decision in decisions if decision.action == "review"} <= {True}
        assert {"person" in decision.tiers for decision in decisions if decision.action != "review"} <= {False}

    run(bundles[0], work)


def test_swapped_under_load_nothing_is_dropped_and_each_request_has_one_model(
    bundles: Sequence[Path], judges: dict[str, Moderator]
) -> None:
    one, two = judges
    asked = Counter[str]()

    async def ask(fleet: Fleet, over: asyncio.Event) -> None:
        while not over.is_set():
            asked[answered_by(await fleet.decide(TEXTS, SECONDS), judges)] += 1

    async def work(fleet: Fleet) -> None:
        over = asyncio.Event()
        callers = [asyncio.create_task(ask(fleet, over)) for _ in range(8)]
        for _ in range(3):
            assert (await fleet.load(bundles[1])).place in ("loaded", "previous")
            await fleet.promote(two)
            before = asked[two]
            while asked[two] == before:
                await asyncio.sleep(0.01)
            assert places(fleet.slots) == {one: "previous", two: "live"}
            await fleet.rollback()
            before = asked[one]
            while asked[one] == before:
                await asyncio.sleep(0.01)
            await fleet.unload(two)
            assert places(fleet.slots) == {one: "live"}
        over.set()
        # An exception of any caller comes up here.
        await asyncio.gather(*callers)

    run(bundles[0], work)
    assert min(asked[one], asked[two]) >= 3


DAMAGE: dict[str, Callable[[Path], object]] = {
    "tampered weights": lambda folder: flipped(folder / "model.onnx.data"),
    "tampered thresholds": lambda folder: flipped(folder / "bundle.json"),
    "truncated": lambda folder: (folder / "model.onnx.data").write_bytes(b"\0" * 64),
    "missing": lambda folder: (folder / "policy.json").unlink(),
    "pickled": lambda folder: (folder / "model.pkl").write_bytes(b"\x80\x04."),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: (folder / "manifest.json").write_text('{"files": '),
    "not there": shutil.rmtree,
}


def test_a_damaged_bundle_is_refused_and_the_old_one_goes_on(
    bundles: Sequence[Path], judges: dict[str, Moderator], tmp_path: Path
) -> None:
    async def work(fleet: Fleet) -> None:
        before = fleet.slots
        for name, damage in DAMAGE.items():
            folder = tmp_path / name
            shutil.copytree(bundles[1], folder)
            damage(folder)
            with pytest.raises(BundleError):
                await fleet.load(folder)
            assert fleet.slots == before
            assert answered_by(await fleet.decide(TEXTS, SECONDS), judges) == before[0].name

    run(bundles[0], work)


def test_what_cannot_be_done_is_said_and_changes_nothing(bundles: Sequence[Path], judges: dict[str, Moderator]) -> None:
    one, two = judges

    async def work(fleet: Fleet) -> None:
        with pytest.raises(ConfigError, match="no bundle was live before"):
            await fleet.rollback()
        for change in (fleet.promote, fleet.shadow, fleet.unload):
            with pytest.raises(ConfigError, match=f"no bundle 'nobody' is loaded: load it, or take one of {one}"):
                await change("nobody")
        for change in (fleet.shadow, fleet.unload):
            with pytest.raises(ConfigError, match="is live: promote another one first"):
                await change(one)
        assert places(fleet.slots) == {one: "live"}
        # Twice is once.
        await fleet.load(bundles[1])
        await fleet.load(bundles[1])
        await fleet.promote(two)
        await fleet.promote(two)
        assert places(fleet.slots) == {one: "previous", two: "live"}

    run(bundles[0], work)


def test_what_was_taken_is_answered_before_it_ends(bundles: Sequence[Path], judges: dict[str, Moderator]) -> None:
    async def all_of_it() -> list[list[Decision]]:
        fleet = await Fleet.start(bundles[0], ServeConfig(), known({}), b"salt")
        taken = [asyncio.create_task(fleet.decide(TEXTS, SECONDS)) for _ in range(20)]
        await asyncio.sleep(0)
        await fleet.drain()
        assert all(task.done() for task in taken)
        return await asyncio.gather(*taken)

    assert len({answered_by(decisions, judges) for decisions in asyncio.run(all_of_it())}) == 1
