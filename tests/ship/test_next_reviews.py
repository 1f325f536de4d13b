"""What people should see next: SQLite always, PostgreSQL where TAMIS_TEST_POSTGRES names one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tamis import reviews
from tamis.config import StudentConfig
from tamis.decisions import DecisionLog
from tamis.errors import ConfigError, DataError
from tamis.learn.student import build_student, merged
from tamis.policy import Policy
from tamis.records import Decision, Scores, TeacherSignal, content_id
from tamis.reviews import Judgement, Wanted
from tamis.ship import monitor
from tamis.ship.backends import Parts
from tamis.ship.bundle import BundleSpec, Moderator, load_bundle, write_bundle
from tamis.ship.next_reviews import Picked, Wish, pick
from tamis.store import Store

START = datetime(2026, 3, 2, tzinfo=UTC)
WEEK = timedelta(days=7)
CASINO = [f"注册就送彩金 casino slots bonus {i}" for i in range(40)]
CALM = [f"今天天气很好, nice garden number {i}" for i in range(160)]


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(tiny_qwen: Path, small_policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Moderator:
    student = build_student(
        StudentConfig(model=str(tiny_qwen), max_tokens=24, pretrained_dtype="float32"), small_policy
    )
    served = merged(student)
    spec = BundleSpec.of(served.network.pooling, student.encoder, small_policy)
    folder = tmp_path_factory.mktemp("next") / "bundle"
    return load_bundle(write_bundle(Parts(lambda _: served.network), student.encoder, small_policy, spec, [], folder))


def decide(
    store: Store,
    texts: Sequence[str],
    at: datetime,
    unsure: float = 0.1,
    keep: int | None = 30,
    tiers: tuple[str, ...] = ("student",),
    **told: float,
) -> list[str]:
    """Decisions about texts, all with the same scores; returns their ids."""
    probabilities = told or {"normal": 0.8, "gambling": 0.1, "fraud": 0.1}
    scores = Scores(probabilities, 1 - probabilities["normal"], unsure)
    with DecisionLog(store, keep, lambda: at) as log:
        found = [
            log.add(Decision(content_id(text), "pass", scores.category, scores, {"model": "m"}, tiers), text)
            for text in texts
        ]
        return [one.result(30).id for one in found]


def picked(store: Store, policy: Policy, *by: str, model: Moderator | None = None, count: int = 3) -> Picked:
    return pick(store, policy, Wish(START, START + WEEK, by, count, rare=0.0), model)


def test_the_unsure_come_first_and_nobody_is_asked_twice(store: Store, small_policy: Policy) -> None:
    sure = decide(store, ["calm a", "calm b", "calm c", "calm d"], START)
    unsure = decide(store, ["odd a", "odd b", "odd c"], START, 0.9)
    waits, judged = decide(store, ["waits", "was judged"], START, 1.0)
    reviews.queue(store, [waits, judged], now=START)
    item = next(one for one in reviews.listing(store, Wanted()) if one.decision == judged)
    reviews.judge(store, [item.id], Judgement("ann", "fraud"), START)
    decide(store, ["not kept"], START, 1.0, keep=None)
    decide(store, ["of another week"], START + WEEK, 1.0)
    decide(store, ["of a tenant with a category of its own"], START, 1.0, normal=0.5, gambling=0.4, piracy=0.1)
    asked = decide(store, ["a teacher was asked"], START, 1.0, tiers=("student", "large"))
    decide(store, ["calm b"], START, 0.1, normal=0.5, gambling=0.4, piracy=0.1)
    (again,) = decide(store, ["calm a"], START + timedelta(days=1))

    every = picked(store, small_policy, "uncertain", count=99)
    assert every.candidates == 8
    assert set(every.ids) - {sure[0], again} == {*sure[1:], *unsure, *asked}
    assert len({sure[0], again} & set(every.ids)) == 1, "a text once"
    assert every.categories == ("normal",) * 8
    # Two are taken from the best four, three of which are unsure.
    assert set(picked(store, small_policy, "uncertain", count=2).ids) < {*unsure}


def test_what_a_teacher_saw_otherwise_is_disputed(store: Store, small_policy: Policy) -> None:
    texts = [f"text {i}" for i in range(6)]
    ids = decide(store, texts[:5], START) + decide(store, texts[5:], START, tiers=("student", "large"))
    for text, fraud, known in (("text 2", 0.9, 1.0), ("text 4", 0.1, 0.5), ("text 5", 0.9, 1.0)):
        told = {name: known * share for name, share in (("normal", 0.9 - fraud), ("gambling", 0.1), ("fraud", fraud))}
        signal = TeacherSignal(
            content_id(text), "t", small_policy.label_space, "logprobs", "ok", told, known_mass=known
        )
        store.add(signal)
    assert picked(store, small_policy, "disputed", count=1).ids == (ids[2],)


def test_what_came_into_the_traffic_is_found_by_states(store: Store, small_policy: Policy, model: Moderator) -> None:
    decide(store, CALM[:120], START - WEEK)
    monitor.pin(store, small_policy, START, 7)
    decide(store, CALM[120:], START)
    casino = decide(store, CASINO, START)
    found = picked(store, small_policy, "now", model=model, count=20)
    assert found.candidates == 80
    assert len(set(found.ids) & set(casino)) >= 18


def test_what_is_unlike_all_that_was_judged_is_new(store: Store, small_policy: Policy, model: Moderator) -> None:
    judged = decide(store, CALM[:30], START)
    reviews.queue(store, judged, now=START)
    reviews.judge(store, [one.id for one in reviews.listing(store, Wanted())], Judgement("ann", "normal"), START)
    decide(store, CALM[30:60], START)
    casino = decide(store, CASINO[:20], START)
    found = picked(store, small_policy, "new", model=model, count=10)
    assert len(set(found.ids) & set(casino)) >= 9


def test_what_cannot_be_chosen_is_said(store: Store, small_policy: Policy, model: Moderator) -> None:
    with pytest.raises(DataError, match="no whole text is kept that nobody was asked about: serve with keep_days"):
        picked(store, small_policy, "uncertain")
    decide(store, CALM[:5], START)
    with pytest.raises(ConfigError, match="nothing is chosen by 'novel': take some of uncertain, disputed, new, now"):
        picked(store, small_policy, "novel")
    with pytest.raises(ConfigError, match="name a bundle that shows them with --bundle"):
        picked(store, small_policy, "new")
    for by, why in (("uncertain", "as sure"), ("disputed", "no teacher's answer"), ("new", "no text that people have")):
        with pytest.raises(DataError, match=f"'{by}' tells none of 5 texts from another, as .*{why}"):
            picked(store, small_policy, by, model=model)
    with pytest.raises(ConfigError, match="other categories than policy default: name the --policy"):
        picked(store, small_policy.only(["normal", "gambling"]), "uncertain")
    with pytest.raises(DataError, match="no traffic is pinned"):
        picked(store, small_policy, "now", model=model)
    decide(store, CALM[:120], START - WEEK, keep=None)
    monitor.pin(store, small_policy, START, 7)
    with pytest.raises(DataError, match="0 whole texts are kept and 100 are needed: pin a later normal week"):
        picked(store, small_policy, "now", model=model)
