"""Labelling: cached, resumable, inside a budget."""

from __future__ import annotations

import os
import signal as signals
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from tests.teach.conftest import ROWS, FakeEndpoint, completion, example, settings

from tamis.config import TeacherConfig
from tamis.errors import BudgetError, TeacherError
from tamis.policy import Policy
from tamis.records import Example, Scores, TeacherSignal
from tamis.store import Store
from tamis.teach import agreement_with_itself, label, local_teacher, make_teacher


@dataclass
class FakeTeacher:
    """Stands at the one-method seam."""

    label_space: str
    fingerprint: str = "fake@1"
    outcomes: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: int = 100

    def ask(self, examples: Iterable[Example]) -> Generator[TeacherSignal, None, None]:
        for row in examples:
            self.asked.append(row.id)
            yield self.answer(row)

    def answer(self, row: Example) -> TeacherSignal:
        outcome = self.outcomes.get(row.text, "ok")
        said = (
            {"normal": 0.6, "abuse": 0.3} if row.text not in ("", "N/A", "无", "……") else {"normal": 0.8, "abuse": 0.1}
        )
        return TeacherSignal(
            example_id=row.id,
            teacher=self.fingerprint,
            label_space=self.label_space,
            method="logprobs",
            outcome=outcome,  # type: ignore[arg-type]
            probabilities=said if outcome == "ok" else {},
            known_mass=0.9,
            prompt_hash="p",
            prompt_tokens=self.tokens,
        )


@pytest.fixture
def two(policy: Policy) -> Policy:
    return policy.only(["normal", "abuse"])


@pytest.fixture
def teacher(two: Policy) -> FakeTeacher:
    return FakeTeacher(two.label_space)


OFF = TeacherConfig(prior_correction=False)


def test_what_is_stored_is_not_asked_again(teacher: FakeTeacher, store: Store, two: Policy) -> None:
    teacher.outcomes = {ROWS[0].text: "refused", ROWS[1].text: "unparsable", ROWS[2].text: "failed"}
    first = label(ROWS[:4], teacher, store, OFF, two)
    teacher.outcomes, teacher.asked = {}, []
    again = label([*ROWS[:5], ROWS[4]], teacher, store, OFF, two)
    assert teacher.asked == [ROWS[2].id, ROWS[4].id], "only what failed, and what is new, once"
    assert [again[row.id].outcome for row in ROWS[:5]] == ["refused", "unparsable", "ok", "ok", "ok"]
    assert again[ROWS[3].id] == first[ROWS[3].id]


def test_no_rows(teacher: FakeTeacher, store: Store, two: Policy) -> None:
    assert label([], teacher, store, OFF, two) == {}


def test_prior_is_divided_out_but_not_stored(teacher: FakeTeacher, store: Store, two: Policy) -> None:
    config = TeacherConfig.model_validate({"few_shot": {"kind": "fixed"}})
    signal = label(ROWS[:1], teacher, store, config, two)[ROWS[0].id]
    # 0.6 / (8/9) = 0.675 and 0.3 / (1/9) = 2.7; 0.675 / 3.375 = 0.2
    assert signal.probabilities == pytest.approx({"normal": 0.2, "abuse": 0.8})
    assert (signal.risk, signal.known_mass) == (pytest.approx(0.8), 0.9)
    assert store.signals(teacher.fingerprint, teacher.label_space)[ROWS[0].id].probabilities["normal"] == 0.6


def test_nearest_examples_have_no_common_prior(teacher: FakeTeacher, store: Store, two: Policy) -> None:
    config = TeacherConfig.model_validate({"few_shot": {"kind": "nearest"}})
    assert label(ROWS[:1], teacher, store, config, two)[ROWS[0].id].probabilities["normal"] == 0.6
    assert teacher.asked == [ROWS[0].id]


def test_a_budget_is_never_passed(teacher: FakeTeacher, store: Store, two: Policy) -> None:
    config = TeacherConfig.model_validate({"prior_correction": False, "budget": {"tokens": 550}})
    with pytest.raises(BudgetError, match=r"stopped at 500 tokens.*budget of 550 tokens.*3 rows are left"):
        label(ROWS, teacher, store, config, two)
    assert len(store.signals(teacher.fingerprint, teacher.label_space)) == 5
    teacher.asked = []
    with pytest.raises(BudgetError):
        label(ROWS, teacher, store, config, two)
    assert teacher.asked == [], "what an earlier run spent counts"
    assert len(label(ROWS, teacher, store, OFF, two)) == len(ROWS)


def test_a_money_budget_holds_with_requests_in_flight(endpoint: FakeEndpoint, policy: Policy, store: Store) -> None:
    budget = {"money": 0.0004, "price_prompt": 1.0, "price_completion": 2.0}
    config = settings(endpoint, budget=budget, concurrency=4)
    with pytest.raises(BudgetError, match="in money"):
        label(ROWS, make_teacher(config, policy), store, config, policy)
    stored = store.signals(make_teacher(config, policy).fingerprint, policy.label_space)
    assert 2 <= len(stored) < len(ROWS)
    assert sum(signal.cost for signal in stored.values()) <= 0.0004


@pytest.mark.parametrize("lie", [{"example_id": "other"}, {"label_space": "other"}, {"teacher": "other"}])
def test_pitfall_9_an_answer_to_another_question_is_refused(
    teacher: FakeTeacher, store: Store, two: Policy, lie: dict[str, str]
) -> None:
    honest = teacher.answer
    teacher.answer = lambda row: replace(honest(row), **lie)  # type: ignore[method-assign]
    with pytest.raises(TeacherError, match="nothing of this answer was kept"):
        label(ROWS, teacher, store, OFF, two)
    assert store.signals("fake@1", two.label_space) == {}


def test_pitfall_9_answers_are_matched_by_id_whatever_their_order(
    endpoint: FakeEndpoint, policy: Policy, store: Store
) -> None:
    endpoint.rule = lambda _body, text, _times: time.sleep(0.01 * (9 - len(text)))
    config = settings(endpoint, concurrency=8)
    found = label(ROWS, make_teacher(config, policy), store, config, policy)
    tops = [max(found[row.id].probabilities, key=found[row.id].probabilities.__getitem__) for row in ROWS]
    expected = ["normal", "pornography", "gambling", "abuse", "fraud", "spam_ad", "normal", "gambling"]
    assert tops == expected


def test_pitfall_5_agreement_with_itself(endpoint: FakeEndpoint, policy: Policy, store: Store) -> None:
    def rule(_body: object, text: str, times: int) -> object:
        changed = text == ROWS[0].text and times == 2
        return (200, completion("广告", [("广告", -0.1), ("正常", -3.0)]), {}) if changed else None

    endpoint.rule = rule
    config = settings(endpoint)
    found = agreement_with_itself(ROWS[:4], make_teacher(config, policy), store, config, policy)
    assert found["rows"] == 4
    assert found["same"] == 0.75
    assert found["distance"] > 0
    agreement_with_itself(ROWS[:4], make_teacher(config, policy), store, config, policy)
    assert all(endpoint.asked[row.text] == 2 for row in ROWS[:4])


CHILD = """
import sys
from tamis.config import TeacherConfig
from tamis.policy import load_policy
from tamis.store import Store
from tamis.teach import label, make_teacher
from tests.teach.conftest import SIX, example
policy = load_policy("default").only(SIX)
config = TeacherConfig.model_validate_json(sys.argv[1])
with Store.open(sys.argv[2]) as store:
    rows = [example(f"第{i}条") for i in range(60)]
    label(rows, make_teacher(config, policy, (), store), store, config, policy)
"""


def test_killed_in_the_middle_nothing_is_asked_twice(endpoint: FakeEndpoint, policy: Policy, tmp_path: Path) -> None:
    """`kill -9` while requests are out; only those that were never answered are put again."""
    endpoint.rule = lambda *_: time.sleep(0.1)
    config = settings(endpoint, concurrency=4)
    command = [sys.executable, "-c", CHILD, config.model_dump_json(), str(tmp_path / "s.db")]
    root = Path(__file__).parents[2]
    child = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    while endpoint.answered.total() < 12:
        assert child.poll() is None
        time.sleep(0.01)
    # Answered and committed are a few milliseconds apart, a request takes a hundred: kill between two waves.
    time.sleep(0.05)
    child.send_signal(signals.SIGKILL)
    child.wait()
    time.sleep(0.2)
    assert 12 <= endpoint.answered.total() < 60
    with Store.open(tmp_path / "s.db") as store:
        stored = len(store.signals(make_teacher(config, policy).fingerprint, policy.label_space))
    before = endpoint.asked.total()
    assert before - 1 - stored <= 4, "only requests in flight are lost"
    subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=True)
    twice = [text for text, times in endpoint.asked.items() if times > 1]
    assert len(twice) <= 4
    assert len(twice) == before - 1 - stored
    assert len(endpoint.asked) == 61, "sixty rows and the probe, which was noted"


def test_a_scorer_as_teacher_refuses_what_it_was_trained_on(store: Store, two: Policy) -> None:
    def judge(texts: Sequence[str], layers: Sequence[int]) -> tuple[list[Scores], np.ndarray]:
        return [two.scores({"normal": 0.9, "abuse": 0.1}) for _ in texts], np.zeros((len(texts), len(layers), 3))

    teacher = local_teacher(judge, two, "bundle:x@1", frozenset({ROWS[2].id}), OFF)
    assert label(ROWS[:2], teacher, store, OFF, two)[ROWS[0].id].risk == pytest.approx(0.1)
    with pytest.raises(TeacherError, match=f"was trained on row {ROWS[2].id}"):
        label(ROWS, teacher, store, OFF, two)


def test_nearest_shots_are_never_the_text_itself(endpoint: FakeEndpoint, policy: Policy, store: Store) -> None:
    gold = [replace(row, label="gambling") for row in ROWS] + [example("又见赌博网站", "gambling")]
    config = settings(endpoint, few_shot={"kind": "nearest", "n": 2})
    label(ROWS, make_teacher(config, policy, gold), store, config, policy)
    for body in endpoint.bodies:
        turns = [message["content"] for message in body["messages"]]
        assert len(turns) == 6
        assert turns[-1] not in turns[:-1]


def test_independent_probabilities_of_a_local_teacher_may_sum_to_more_than_one(store: Store, two: Policy) -> None:
    several = two.model_copy(update={"kind": "multi_label"})

    def judge(texts: Sequence[str], layers: Sequence[int]) -> tuple[list[Scores], np.ndarray]:
        return [several.scores({"normal": 0.7, "abuse": 0.8}) for _ in texts], np.zeros((len(texts), len(layers), 3))

    teacher = local_teacher(judge, several, "bundle:x@1", frozenset(), OFF)
    signal = label(ROWS[:1], teacher, store, OFF, several)[ROWS[0].id]
    assert (signal.probabilities, signal.risk, signal.known_mass) == ({"normal": 0.7, "abuse": 0.8}, 0.8, 1.0)
    assert agreement_with_itself(ROWS[:1], teacher, store, OFF, several) == {"rows": 1, "same": 1.0, "distance": 0.0}
