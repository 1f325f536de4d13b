from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tamis.errors import PolicyError
from tamis.policy import Policy, load_policy, parse_policy
from tamis.records import NO_ANSWER, Decision, content_id
from tamis.ship.service.answers import Answer
from tamis.ship.service.mapping import called, counterparts, probability
from tamis.ship.service.openai import response
from tamis.taxonomies import OPENAI, PERSPECTIVE

POLICY = load_policy("default")


def decision(told: dict[str, float], action: str, policy: Policy = POLICY) -> Decision:
    full = dict.fromkeys(policy.ids, 0.0) | told
    scores = policy.scores(full)
    return Decision(content_id("x"), action, scores.category, scores, {"model": "abc"})


def test_the_shipped_policy_by_hand() -> None:
    assert counterparts(POLICY, "openai") == {
        "sexual": ("pornography",),
        "illicit": ("gambling", "fraud"),
        "harassment": ("abuse",),
        "self-harm": ("self_harm",),
        "violence": ("violence",),
    }
    assert counterparts(POLICY, "perspective") == {
        "SEXUALLY_EXPLICIT": ("pornography",),
        "TOXICITY": ("abuse", "violence"),
        "INSULT": ("abuse",),
        "SPAM": ("spam_ad",),
        "THREAT": ("violence",),
    }


def test_probabilities_add_up_unless_several_may_hold() -> None:
    told = {"gambling": 0.3, "fraud": 0.4}
    assert probability(told, ("gambling", "fraud"), POLICY) == pytest.approx(0.7)
    assert probability(told, ("gambling", "fraud"), POLICY.model_copy(update={"kind": "multi_label"})) == 0.4
    assert probability(told, (), POLICY) == 0.0
    assert probability({"gambling": 0.7, "fraud": 0.4}, ("gambling", "fraud"), POLICY) == 1.0


def test_what_is_called() -> None:
    assert called(decision({"normal": 0.4, "fraud": 0.35, "spam_ad": 0.25}, "review"), POLICY) == {"fraud"}
    assert called(decision({"normal": 0.4, "fraud": 0.35, "spam_ad": 0.25}, "pass"), POLICY) == frozenset()
    several = POLICY.model_copy(update={"kind": "multi_label"})
    assert called(decision({"fraud": 0.8, "abuse": 0.6, "violence": 0.4}, "block", several), several) == {
        "fraud",
        "abuse",
    }


def test_what_has_no_counterpart_is_flagged_all_the_same() -> None:
    (told,) = response([Answer("1", decision({"spam_ad": 0.95, "normal": 0.05}, "block"))], POLICY)["results"]
    assert told["flagged"]
    assert set(told["categories"]) == set(OPENAI)
    assert not any(told["categories"].values())
    assert told["tamis"]["categories"]["spam_ad"]
    assert told["tamis"]["category_scores"]["spam_ad"] == 0.95


def test_no_answer_is_flagged() -> None:
    nothing = Decision(content_id("x"), "review", "", NO_ANSWER, {"model": "abc"}, reasons=("no answer",))
    (told,) = response([Answer("1", nothing)], POLICY)["results"]
    assert (told["flagged"], told["tamis"]["risk"], set(told["category_scores"].values())) == (True, None, {0.0})


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0, 1), min_size=8, max_size=8).filter(any), st.sampled_from(["pass", "review", "block"]))
def test_every_flag_has_its_reason(numbers: list[float], action: str) -> None:
    told = {name: number / sum(numbers) for name, number in zip(POLICY.ids, numbers, strict=True)}
    (result,) = response([Answer("1", decision(told, action))], POLICY)["results"]
    assert result["flagged"] == (action != "pass") == any(result["tamis"]["categories"].values())
    assert not any(result["categories"].values()) or result["flagged"]
    assert all(0 <= score <= 1 for score in result["category_scores"].values())


def test_a_name_that_the_other_taxonomy_does_not_have() -> None:
    text = POLICY.model_dump_json().replace('"sexual"', '"sexaul"')
    with pytest.raises(PolicyError, match="openai has no 'sexaul'; it has harassment, "):
        parse_policy(text, where="p")
    benign = POLICY.model_dump_json().replace('"counterparts":{}', '"counterparts":{"perspective":["SPAM"]}')
    with pytest.raises(PolicyError, match="perspective has no name for what breaks no rule"):
        parse_policy(benign, where="p")


def test_the_names_are_as_many_as_documented() -> None:
    assert (len(OPENAI), len(set(OPENAI))) == (13, 13)
    assert (len(PERSPECTIVE), len(set(PERSPECTIVE))) == (16, 16)
