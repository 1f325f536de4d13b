from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tamis.errors import PolicyError
from tamis.policy import Actions, Policy, load_policy, parse_policy, shipped

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
