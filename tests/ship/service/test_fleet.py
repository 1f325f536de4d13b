"""Bundles that are swapped, refused and shadowed under load, and tiers that fail."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tamis.config import ServeConfig
from tamis.errors import BundleError, Closing, ConfigError
from tamis.policy import Policy
from tamis.records import NO_ANSWER, Decision, Scores, content_id
from tamis.ship.bundle import Moderator, load_bundle
from tamis.ship.cascade import AsyncScorer, Tier, is_chosen
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


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


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


TEACHER = {"kind": "openai", "model": "big"}
UNSURE = {"cascade": {"audit": 0.0, "band": 1e9, "deadline": 0.3}}


def sure_of(policy: Policy, category: str) -> Scores:
    return policy.scores({name: 0.98 if name == category else 0.01 for name in policy.ids})


async def down(_text: str) -> Scores:
    raise ConnectionError("secret")


async def silent(_text: str) -> Scores:
    await asyncio.sleep(60)
    return NO_ANSWER


async def refusing(_text: str) -> Scores:
    return NO_ANSWER


async def garbage(_text: str) -> Scores:
    return "pass"  # type: ignore[return-value]


FAILURES = {"down": down, "slow": silent, "refused": refusing, "unparsable": garbage}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_tier_that_fails_leads_to_a_review(reason: str, bundles: Sequence[Path]) -> None:
    async def work(fleet: Fleet) -> None:
        for _ in range(2):
            for decision in await fleet.decide(TEXTS, SECONDS):
                assert decision.action == "review"
                assert decision.tiers == ("student", "teacher big", "person")
                assert decision.reasons[-1] in (f"teacher big: {reason}", "teacher big: open")

    run(bundles[0], work, {"big": FAILURES[reason]}, tiers=[{"teacher": TEACHER}], **UNSURE)


def test_a_tier_decides_what_the_student_is_not_sure_of(bundles: Sequence[Path], small_policy: Policy) -> None:
    async def says(text: str) -> Scores:
        return sure_of(small_policy, "fraud" if "money" in text else "normal")

    async def work(fleet: Fleet) -> None:
        decisions = await fleet.decide(TEXTS, SECONDS)
        assert [decision.action for decision in decisions] == ["pass", "pass", "block", "pass"]
        assert {decision.tiers for decision in decisions} == {("student", "teacher big")}

    run(bundles[0], work, {"big": says}, tiers=[{"teacher": TEACHER}], **UNSURE)


@pytest.mark.parametrize(("log", "budget"), [("durable", 100), ("durable", 3), ("off", 100)])
def test_audited_texts_are_shown_to_the_teacher_and_nobody_waits(
    log: str, budget: int, bundles: Sequence[Path], judges: dict[str, Moderator], small_policy: Policy
) -> None:
    texts = [f"又见赌博 {i}" for i in range(60)]
    passed = [one.action == "pass" for one in next(iter(judges.values()))(texts)]
    texts = [text for text, passes in zip(texts, passed, strict=True) if passes]
    assert len(texts) > 3
    asked: list[str] = []
    answers = asyncio.Event()

    async def waits(text: str) -> Scores:
        asked.append(text)
        await answers.wait()
        return sure_of(small_policy, "fraud")

    async def work(fleet: Fleet) -> None:
        decisions = await fleet.decide(texts, SECONDS)
        assert {(one.action, one.tiers, one.reasons) for one in decisions} == {("pass", ("student",), ("audit",))}
        await asyncio.sleep(0.05)
        assert asked == (texts[:budget] if log == "durable" else [])
        answers.set()

    cascade = {"audit": 1.0, "band": 0.0, "per_day": budget}
    run(bundles[0], work, {"big": waits}, tiers=[{"teacher": TEACHER}], cascade=cascade, log=log)


def test_another_bundle_can_be_the_tier_and_budgets_outlive_a_swap(
    bundles: Sequence[Path], judges: dict[str, Moderator]
) -> None:
    two = list(judges)[1]

    async def work(fleet: Fleet) -> None:
        decisions = await fleet.decide(TEXTS, SECONDS)
        for decision, wanted in zip(decisions, judges[two](TEXTS), strict=True):
            assert decision.action == wanted.action
            assert decision.tiers[:2] == ("student", f"bundle {two}")
            assert decision.probabilities == pytest.approx(dict(wanted.probabilities), abs=1e-4)
        await fleet.load(bundles[1])
        await fleet.promote(two)
        again = await fleet.decide(TEXTS[:1], SECONDS)
        assert again[0].action == "review"
        assert again[0].reasons[-1] == f"bundle {two}: budget"

    cascade = {"audit": 0.0, "band": 1e9, "per_day": len(TEXTS), "deadline": SECONDS}
    run(bundles[0], work, tiers=[{"bundle": str(bundles[1])}], cascade=cascade)


def test_a_bundle_for_another_policy_than_the_tiers_is_refused(
    bundles: Sequence[Path], other_policy: Path, judges: dict[str, Moderator]
) -> None:
    async def work(fleet: Fleet) -> None:
        with pytest.raises(BundleError, match=r"judges normal, fraud, the cascade .* normal, gambling, fraud: use"):
            await fleet.load(other_policy)
        assert places(fleet.slots) == {next(iter(judges)): "live"}

    run(bundles[0], work, tiers=[{"bundle": str(bundles[1])}])
    with pytest.raises(BundleError, match="judges normal, fraud, the cascade"):
        run(bundles[0], work, tiers=[{"bundle": str(other_policy)}])


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
