"""A fleet that a test does some work with, and what its answers should be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tamis.config import ServeConfig
from tamis.errors import Closing
from tamis.policy import Policy
from tamis.records import Decision
from tamis.ship.bundle import Moderator, load_bundle
from tamis.ship.cascade import AsyncScorer, Tier
from tamis.ship.service.fleet import Fleet, Teachers
from tamis.ship.service.members import Slot

TEXTS = ["今天天气很好", "注册就送彩金", "easy money no fee", "日入上千私我" * 60]
SECONDS = 30.0


@pytest.fixture(scope="module")
def judges(bundles: Sequence[Path]) -> dict[str, Moderator]:
    """What each bundle says by itself, by its version."""
    return {moderator.versions["model"]: moderator for moderator in map(load_bundle, bundles)}


async def nothing(_text: str) -> None:
    """What is known of a text that nobody has asked about."""


def known(scorers: dict[str, AsyncScorer]) -> Teachers:
    """Teachers that are there already."""

    @asynccontextmanager
    async def teachers(_tiers: object, _policy: object) -> AsyncIterator[dict[str, Tier]]:
        yield {name: Tier(f"teacher {name}", scorer, known=nothing) for name, scorer in scorers.items()}

    return teachers


def run(
    bundle: Path,
    work: Callable[[Fleet], Awaitable[None]],
    teachers: dict[str, AsyncScorer] | None = None,
    **changes: object,
) -> None:
    """Do some work with a fleet, which is then drained."""

    async def all_of_it() -> None:
        config = ServeConfig.model_validate({"cascade": {"audit": 0.0}} | changes)
        fleet = await Fleet.start(bundle, config, known(teachers or {}), b"salt")
        try:
            await work(fleet)
        finally:
            await fleet.drain()
        assert not fleet.ready
        with pytest.raises(Closing):
            await fleet.decide(["a"], SECONDS)

    asyncio.run(all_of_it())


def answered_by(decisions: Sequence[Decision], judges: dict[str, Moderator]) -> str:
    """The one bundle that all decisions about TEXTS are of, as it decides by itself."""
    (version,) = {decision.versions["model"] for decision in decisions}
    for found, wanted in zip(decisions, judges[version](TEXTS), strict=True):
        assert (found.id, found.action) == (wanted.id, wanted.action)
        assert found.probabilities == pytest.approx(dict(wanted.probabilities), abs=1e-4)
    return version


def places(slots: Sequence[Slot]) -> dict[str, str]:
    return {slot.name: slot.place for slot in slots}


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def other_policy(tiny_bert: Path, small_policy: Policy, tmp_path: Path) -> Path:
    from tamis.config import StudentConfig
    from tamis.learn.student import build_student, merged
    from tamis.ship.backends import Parts
    from tamis.ship.bundle import BundleSpec, write_bundle

    policy = small_policy.only(["normal", "fraud"])
    student = build_student(StudentConfig(model=str(tiny_bert), max_tokens=24, pretrained_dtype="float32"), policy)
    spec = BundleSpec.of(student.network.pooling, student.encoder, policy)
    return write_bundle(
        Parts(lambda _whole: merged(student).network), student.encoder, policy, spec, [], tmp_path / "b"
    )
