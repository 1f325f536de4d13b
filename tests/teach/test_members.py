"""Several teachers at real endpoints: who is asked what, each budget, and the audit of each and of all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from tests.teach.conftest import ROWS, FakeEndpoint, completion, example, settings

from tamis.config import TeachingConfig
from tamis.errors import BudgetError, ConfigError, DataError
from tamis.policy import Policy
from tamis.records import TestSplit, TrainSplit, ValidationSplit
from tamis.store import Store
from tamis.teach import Ensemble, Member, audit_together, label_together, make_teacher
from tamis.teach.audit import measure
from tamis.teach.members import ask_members

REFUSAL = (400, {"error": {"message": "Content Exists Risk"}}, {})
WORDS = {"normal": "吃饭", "gambling": "赌博", "abuse": "辱骂"}
PROBE = "今天天气不错。"

Make = Callable[..., Ensemble]


def gold(n: int) -> tuple:
    return tuple(example(f"{word}{i:03d}", name) for i in range(n) for name, word in WORDS.items())


def refuses(word: str) -> Callable[..., Any]:
    return lambda _body, text, _times: REFUSAL if word in text else None


def always(word: str) -> Callable[..., Any]:
    answer = completion(word, [(word, math.log(0.9)), ("广告", math.log(0.1))])
    return lambda _body, _text, _times: (200, answer, {})


@pytest.fixture
def make(endpoint: FakeEndpoint, second: FakeEndpoint, policy: Policy, store: Store) -> Make:
    def build(combine: str, *changes: dict[str, Any], policy: Policy = policy, weights: tuple = ()) -> Ensemble:
        more = (*changes, {}, {})[:2]
        configs = [settings(one, self_check=0, **change) for one, change in zip((endpoint, second), more, strict=True)]
        config = TeachingConfig(kind="ensemble", members=tuple(configs), combine=combine, weights=weights)  # type: ignore[arg-type]
        members = tuple(Member(make_teacher(one, policy, (), store), one) for one in configs)
        return Ensemble(members, config, policy, store)

    return build


def test_a_later_member_is_asked_only_what_no_earlier_one_answered(
    make: Make, endpoint: FakeEndpoint, second: FakeEndpoint
) -> None:
    endpoint.rule = refuses("赌博")
    told = ask_members(ROWS, make("fallback"))
    left = {row.text for row in ROWS if "赌博" in row.text}
    assert set(second.asked) == left | {PROBE}
    assert {row.text for row in ROWS if row.id in told[1]} == left
    before = endpoint.asked + second.asked
    assert ask_members(ROWS, make("fallback")) == told
    assert endpoint.asked + second.asked == before, "nothing is asked twice"


def test_a_later_member_is_left_alone_where_all_is_answered(make: Make, second: FakeEndpoint) -> None:
    prior = {"prior_correction": True, "few_shot": {"kind": "fixed"}}
    found = label_together(ROWS, ValidationSplit(()), [], make("fallback", prior, prior))
    assert all(signal.outcome == "ok" for signal in found.values())
    assert not second.asked, "not even the questions about nothing"


def test_what_failed_goes_back_to_the_first_member(make: Make, endpoint: FakeEndpoint, second: FakeEndpoint) -> None:
    endpoint.rule = lambda _body, text, _times: (400, {}, {}) if "欺诈" in text else None
    assert len(ask_members(ROWS, make("fallback"))[1]) == 1
    endpoint.rule = None
    assert ask_members(ROWS, make("fallback"))[1] == {}
    assert second.asked["欺诈教程"] == 1


def test_rows_that_all_refuse_stay_rows(make: Make, endpoint: FakeEndpoint, second: FakeEndpoint) -> None:
    endpoint.rule = second.rule = refuses("色情")
    found = label_together(ROWS[:4], ValidationSplit(gold(2)), ROWS[4:], make("mean"))
    assert set(found) == {row.id for row in (*ROWS, *gold(2))}
    assert {row.text for row in ROWS if found[row.id].outcome == "refused"} == {"加我看色情"}


def test_each_member_keeps_its_own_budget(make: Make, endpoint: FakeEndpoint, second: FakeEndpoint) -> None:
    small = {"budget": {"tokens": 300}, "concurrency": 1}
    with pytest.raises(BudgetError, match="budget of 300 tokens"):
        ask_members(ROWS, make("mean", {}, small))
    assert set(endpoint.asked) == {PROBE, *(row.text for row in ROWS)}
    # Five rows of 51 tokens are 255; a sixth could take 51 more and a token a byte.
    assert second.asked.total() - second.asked[PROBE] == 5
    with pytest.raises(BudgetError):
        ask_members(ROWS, make("mean", {}, small))
    assert second.asked.total() - second.asked[PROBE] == 5, "what an earlier run spent counts"
    assert len(ask_members(ROWS, make("mean"))[1]) == len(ROWS)
    assert max(endpoint.asked.values()) == 1


def test_the_same_teacher_twice_is_refused(make: Make, endpoint: FakeEndpoint) -> None:
    with pytest.raises(ConfigError, match=r"names openai:fake@\w+ twice"):
        make("mean", {}, {"base_url": endpoint.url})


def test_error_rates_want_one_label_a_text(make: Make, policy: Policy) -> None:
    many = policy.model_copy(update={"kind": "multi_label"})
    with pytest.raises(ConfigError, match=r"teacher\.combine dawid_skene gives one"):
        make("dawid_skene", policy=many)
    assert make("majority", policy=many).names


def test_the_name_tells_the_combination_and_what_changes_it(make: Make) -> None:
    names = {make(method).fingerprint for method in ("mean", "majority")} | {make("mean", weights=(1, 2)).fingerprint}
    assert len(names) == 3
    assert sorted(name.partition("@")[0] for name in names) == ["ensemble:majority", "ensemble:mean", "ensemble:mean"]


def test_each_member_is_audited_and_all_together(make: Make, endpoint: FakeEndpoint, second: FakeEndpoint) -> None:
    endpoint.rule = refuses("赌博")
    page = audit_together(make("mean"), ValidationSplit(gold(10)), TrainSplit(()))
    first, other = page["members"]
    assert (first["rows"], first["outcomes"]["refused"], first["reliability"]) == (30, 10, 1.0)
    assert first["macro_f1"] == pytest.approx(2 / 3)
    assert (other["macro_f1"], page["macro_f1"], page["outcomes"]["ok"]) == (1.0, 1.0, 30)
    assert other["tokens"] == 30 * 51
    assert page["kappa"] == [{"members": [first["name"], other["name"]], "rows": 20, "kappa": 1.0}]
    assert page["disagreement"] == 0
    assert page["warnings"] == []
    json.dumps(page, allow_nan=False)


def test_a_fallback_is_audited_on_what_it_is_for(make: Make, endpoint: FakeEndpoint, second: FakeEndpoint) -> None:
    endpoint.rule = refuses("赌博")
    page = audit_together(make("fallback"), ValidationSplit(gold(10)), TrainSplit(()))
    assert page["members"][1]["rows"] == 10
    assert {text for text in second.asked if text != PROBE} == {f"赌博{i:03d}" for i in range(10)}
    assert (page["macro_f1"], page["kappa"][0]["rows"], page["kappa"][0]["kappa"]) == (1.0, 0, None)


def test_a_fallback_nobody_needs_costs_nothing(make: Make, second: FakeEndpoint) -> None:
    page = audit_together(make("fallback"), ValidationSplit(gold(10)), TrainSplit(()))
    assert (page["members"][1]["rows"], page["members"][1]["tokens"]) == (0, 0)
    assert not second.asked


@pytest.mark.parametrize(
    ("language", "sentence"), [("en", "are worse than openai:fake"), ("zh", "反而不如单用 openai:fake")]
)
def test_a_combination_below_its_best_member_is_warned_about(
    make: Make, second: FakeEndpoint, language: str, sentence: str
) -> None:
    second.rule = always("广告")
    ensemble = make("mean", weights=(1, 3))
    page = audit_together(ensemble, ValidationSplit(gold(10)), TrainSplit(()), language)  # type: ignore[arg-type]
    assert any(sentence in warning and "1.000" in warning for warning in page["warnings"])
    trusted = audit_together(make("mean"), ValidationSplit(gold(10)), TrainSplit(()))
    assert trusted["macro_f1"] == 1, "reliability silences who answers the same to everything"


def test_kappa_by_hand(make: Make, endpoint: FakeEndpoint, second: FakeEndpoint) -> None:
    swapped = completion("正常", [("正常", math.log(0.9)), ("广告", math.log(0.1))])
    second.rule = lambda _body, text, _times: (200, swapped, {}) if "赌博" in text else None
    page = audit_together(make("mean"), ValidationSplit(gold(10)), TrainSplit(()))
    # Agreement 2/3; by chance 1/3 x 2/3 + 1/3 x 0 + 1/3 x 1/3 = 1/3: (2/3 - 1/3) / (1 - 1/3).
    assert page["kappa"][0]["kappa"] == pytest.approx(0.5)


def test_no_row_of_the_gold_vouches_for_its_own_answer(
    make: Make, endpoint: FakeEndpoint, second: FakeEndpoint, policy: Policy
) -> None:
    """One row a category, each answered with the next one: error rates that saw all six labels would know them all."""
    words = ["吃饭", "色情", "赌博", "辱骂", "欺诈", "广告"]
    rows = tuple(example(f"{word}一", name) for word, name in zip(words, policy.ids, strict=True))
    following = dict(zip(words, ["色情", "赌博", "辱骂", "欺诈", "广告", "正常"], strict=True))

    def rule(_body: object, text: str, _times: int) -> Any:
        word = following.get(text[:2], "正常")
        return 200, completion(word, [(word, math.log(0.9)), ("其他", math.log(0.1))]), {}

    endpoint.rule = second.rule = rule
    ensemble = make("dawid_skene")
    seen = label_together([], ValidationSplit(rows), [], ensemble)
    assert measure(rows, seen, policy)["accuracy"] == 1
    assert audit_together(ensemble, ValidationSplit(rows), TrainSplit(()))["accuracy"] < 0.5


def test_a_test_split_audits_nobody(make: Make) -> None:
    with pytest.raises(DataError, match="got TestSplit"):
        audit_together(make("mean"), TestSplit(gold(2)), TrainSplit(()))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="got TestSplit"):
        label_together([], TestSplit(gold(2)), [], make("mean"))  # type: ignore[arg-type]
