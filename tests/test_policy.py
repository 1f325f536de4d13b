from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tamis.errors import PolicyError
from tamis.policy import Actions, Policy, load_policy, parse_policy, shipped
from tamis.records import Example

HARMFUL = {"pornography", "gambling", "abuse", "fraud", "spam_ad", "self_harm", "violence"}


def test_the_shipped_policy_covers_what_it_must_in_both_languages() -> None:
    policy = load_policy("default")
    assert set(policy.ids) == HARMFUL | {"normal"}
    for category in policy.categories:
        for language in ("zh", "en"):
            assert len(category.definition[language]) > 20
            assert category.positive[language]
            assert category.negative[language]
    assert shipped() == ["default", "severity"]


def test_a_stricter_threshold_never_blocks_more() -> None:
    loose, strict = Actions(review=0.3, block=0.6), Actions(review=0.3, block=0.8)
    risks = [i / 100 for i in range(101)]
    assert sum(strict.of(r) == "block" for r in risks) < sum(loose.of(r) == "block" for r in risks)


def test_a_risk_that_is_no_number_is_reviewed() -> None:
    assert Actions(review=0.5, block=0.9).of(float("nan")) == "review"
    policy = load_policy("default")
    assert policy.actions.of(policy.scores({}).risk) == "review"


def test_part_of_a_policy_has_another_label_space() -> None:
    policy = load_policy("default")
    part = policy.only(["fraud", "normal"])
    assert part.ids == ("normal", "fraud")
    assert part.label_space != policy.label_space
    with pytest.raises(PolicyError, match="must keep the benign"):
        policy.only(["fraud"])
    with pytest.raises(PolicyError, match="no category 'frod'"):
        policy.only(["normal", "frod"])


def test_risk_by_hand() -> None:
    policy = load_policy("default").only(["normal", "fraud", "abuse"])
    assert policy.risk({"normal": 0.25, "fraud": 0.5, "abuse": 0.25}) == 0.75
    several = policy.model_copy(update={"kind": "multi_label"})
    assert several.risk({"normal": 0.25, "fraud": 0.5, "abuse": 0.75}) == 0.75


def changed(**changes: object) -> str:
    return yaml.safe_dump(load_policy("default").model_dump(mode="json") | changes, allow_unicode=True)


def test_a_policy_survives_its_own_yaml() -> None:
    assert parse_policy(changed(), "here") == load_policy("default")
    assert isinstance(parse_policy(changed(), "here"), Policy)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is not YAML"),
        (changed(actions={"review": 0.9, "block": 0.5}), "must not be above block"),
        (changed(severities=3), "severities"),
        (changed(categories=[]), "categories"),
    ],
)
def test_a_policy_that_does_not_hold_together(text: str, sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        parse_policy(text, "here")


def test_twins_and_two_benign_categories_are_refused() -> None:
    categories = load_policy("default").model_dump(mode="json")["categories"]
    with pytest.raises(PolicyError, match="occurs twice"):
        parse_policy(changed(categories=[*categories, categories[1]]), "here")
    with pytest.raises(PolicyError, match="exactly one category"):
        parse_policy(changed(categories=categories[1:]), "here")


def test_no_such_policy(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="give a YAML file or one of default"):
        load_policy(tmp_path / "none.yaml")


def test_a_policy_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "gb.yaml"
    path.write_bytes("name: 政策".encode("gb18030"))
    with pytest.raises(PolicyError, match=r"gb\.yaml is not UTF-8 \(byte 6\): save it as UTF-8$"):
        load_policy(path)


def test_the_risk_of_levels_is_the_expected_severity_over_the_largest() -> None:
    policy = load_policy("severity")
    assert policy.harm == pytest.approx((0, 1 / 3, 2 / 3, 1))
    # (0.5 * 0 + 0.2 * 1 + 0.2 * 2 + 0.1 * 3) / 3
    assert policy.risk({"none": 0.5, "mild": 0.2, "serious": 0.2, "extreme": 0.1}) == pytest.approx(0.3)
    assert load_policy("default").only(["normal", "fraud", "abuse"]).harm == (0, 1, 1)


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 2, 1], [0, 1, 1]])
def test_levels_out_of_order_are_refused(order: list[int]) -> None:
    tree = load_policy("severity").model_dump(mode="json")
    tree["categories"] = [tree["categories"][i] | {"id": f"l{place}"} for place, i in enumerate(order)]
    with pytest.raises(PolicyError, match="each above the one before"):
        parse_policy(yaml.safe_dump(tree), "here")


def judged(**verdict: object) -> Example:
    return Example("1", "x", "en", "made", **verdict)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdict", "known"),
    [
        ({}, {}),
        ({"score": 0.4}, {}),
        ({"labels": ()}, {"normal": True, "fraud": False, "abuse": False}),
        ({"labels": ("fraud",)}, {"normal": False, "fraud": True, "abuse": False}),
        ({"labels": ("fraud",), "unknown": ("abuse",)}, {"normal": False, "fraud": True}),
        ({"labels": (), "unknown": ("normal", "abuse")}, {"fraud": False}),
        # Where no harmful category holds, the benign one does.
        ({"labels": (), "unknown": ("normal",)}, {"normal": True, "fraud": False, "abuse": False}),
    ],
)
def test_verdicts_say_what_is_known(verdict: dict[str, object], known: dict[str, bool]) -> None:
    policy = load_policy("default").only(["normal", "fraud", "abuse"]).model_copy(update={"kind": "multi_label"})
    assert policy.verdicts(judged(**verdict)) == known


def test_scores_and_levels_meet_in_an_ordinal_policy_alone() -> None:
    policy, other = load_policy("severity"), load_policy("default")
    assert [policy.levelled(judged(score=s)).label for s in (0.0, 0.3, 0.55, 1.0)] == [
        "none",
        "mild",
        "serious",
        "extreme",
    ]
    assert policy.human_risk(judged(label="serious")) == pytest.approx(2 / 3)
    assert policy.human_risk(judged(score=0.55)) == 0.55
    assert other.levelled(judged(score=0.9)) == judged(score=0.9)
    assert other.human_risk(judged(label="fraud")) is None


def test_an_answer_names_its_likeliest_category_or_all_of_one_half() -> None:
    policy = load_policy("default").only(["normal", "fraud", "abuse"])
    several = policy.model_copy(update={"kind": "multi_label"})
    answer = {"normal": 0.4, "fraud": 0.5, "abuse": 0.6}
    assert policy.named(answer) == ("abuse",)
    assert several.named(answer) == ("fraud", "abuse")
    assert several.named(dict.fromkeys(answer, 0.4)) == ("normal",)
    assert several.named({}) == policy.named({}) == ()


def test_a_policy_grows_by_categories_alone() -> None:
    whole, severity = load_policy("default"), load_policy("severity")
    old = whole.only(["normal", "fraud"])
    assert whole.grown_from(whole.model_copy(update={"version": "0.9"})) == ()
    assert whole.only(["normal", "gambling", "fraud"]).grown_from(old) == ("gambling",)
    with pytest.raises(PolicyError, match=r"has no gambling, violence, which the running model knows: an update only"):
        old.grown_from(whole.only(["normal", "gambling", "fraud", "violence"]))
    fewer = severity.only(severity.ids[:-1])
    with pytest.raises(PolicyError, match="levels stay as they are in an update"):
        severity.grown_from(fewer)
    assert severity.grown_from(severity) == ()
