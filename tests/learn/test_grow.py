from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tamis.config import LoraConfig, StudentConfig
from tamis.errors import PolicyError, TrainingError
from tamis.learn.grow import Merged, _imprinted, grown, on_merged
from tamis.learn.score import scorer_of
from tamis.learn.student import Student, build_student, merged
from tamis.policy import Policy, load_policy
from tamis.records import Example

TEXTS = ["今天天气很好", "注册就送彩金", "easy money no fee", "日入上千私我" * 20]


def _student(base: Path, policy: Policy, **settings: object) -> Student:
    config = {"model": str(base), "max_tokens": 24, "pretrained_dtype": "float32", **settings}
    made = build_student(StudentConfig.model_validate(config), policy)
    torch.manual_seed(1)
    with torch.no_grad():
        made.network.head.bias.normal_()
    return made


@pytest.fixture(params=["single_label", "multi_label"])
def policies(request: pytest.FixtureRequest) -> tuple[Policy, Policy]:
    """Two categories, and the same with one between them."""
    whole = load_policy("default").model_copy(update={"kind": request.param})
    return whole.only(["normal", "fraud"]), whole.only(["normal", "gambling", "fraud"])


def _judged(examples: tuple[Example, ...], policy: Policy) -> list[Example]:
    if policy.kind == "single_label":
        return list(examples)
    return [replace(example, label=None, labels=(str(example.label),)) for example in examples]


def test_old_categories_are_kept_to_the_last_bit(
    tiny_bert: Path, policies: tuple[Policy, Policy], examples: tuple[Example, ...]
) -> None:
    old, new = policies
    student = _student(tiny_bert, old)
    before = {name: one.clone() for name, one in student.network.state_dict().items()}
    larger = grown(student, new, _judged(examples, new))
    head = larger.network.head
    assert torch.equal(head.weight[[0, 2]], before.pop("head.weight"))
    assert torch.equal(head.bias[[0, 2]], before.pop("head.bias"))
    assert {name for name, one in before.items() if not torch.equal(one, larger.network.state_dict()[name])} == set()
    assert set(larger.trained()) == larger.learnt
    for text, one in zip(TEXTS, scorer_of(larger)(TEXTS), strict=True):
        assert set(one.probabilities) == set(new.ids), text


def test_a_new_category_is_likelier_for_its_own_examples(
    tiny_bert: Path, policies: tuple[Policy, Policy], examples: tuple[Example, ...]
) -> None:
    larger = grown(_student(tiny_bert, policies[0]), policies[1], _judged(examples, policies[1]))
    told = [one.probabilities["gambling"] for one in scorer_of(larger)([example.text for example in examples])]
    own = [p for p, example in zip(told, examples, strict=True) if example.label == "gambling"]
    others = [p for p, example in zip(told, examples, strict=True) if example.label != "gambling"]
    assert sum(own) / len(own) > sum(others) / len(others)


def test_the_row_of_a_new_category_by_hand(tiny_bert: Path) -> None:
    student = _student(tiny_bert, load_policy("default").only(["normal", "fraud"]))
    student.network.head = nn.Linear(2, 2)
    with torch.no_grad():
        student.network.head.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        student.network.head.bias.zero_()
        states = torch.tensor([[4.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
        weight, bias = _imprinted(states, torch.tensor([True, False, False, False]), student)
    # The mean of all is (1, 0), of its own (4, 0); the mean norm of the rows is 2; 1 of 4 and one more are its own.
    assert weight.tolist() == [2, 0]
    assert bias.item() == pytest.approx(math.log(math.exp(3) + 1) + math.log(1 / 4) - 2)


def test_what_cannot_grow_is_refused(tiny_bert: Path, examples: tuple[Example, ...]) -> None:
    whole = load_policy("default")
    student = _student(tiny_bert, whole.only(["normal", "fraud"]))
    with pytest.raises(TrainingError, match="category violence is new and none of the 144 labelled training rows"):
        grown(student, whole.only(["normal", "fraud", "violence"]), _relabelled(examples))
    with pytest.raises(PolicyError, match="has no fraud, which the running model knows"):
        grown(student, whole.only(["normal", "gambling"]), examples)
    with pytest.raises(PolicyError, match="kind, benign category and levels stay as they are"):
        grown(student, whole.model_copy(update={"kind": "multi_label"}), examples)


def _relabelled(examples: tuple[Example, ...]) -> list[Example]:
    return [replace(one, label="fraud" if one.label == "gambling" else one.label) for one in examples]


def test_a_policy_that_is_only_reworded_changes_no_answer(tiny_bert: Path, small_policy: Policy) -> None:
    student = _student(tiny_bert, small_policy)
    before = scorer_of(student)(TEXTS)
    reworded = grown(student, small_policy.model_copy(update={"version": "1.1"}), [])
    assert reworded.policy.version == "1.1"
    assert scorer_of(reworded)(TEXTS) == before


def test_new_adapters_over_merged_weights_say_what_these_say(
    tiny_bert: Path, small_policy: Policy, tmp_path: Path
) -> None:
    from tamis.ship.backends import Parts, _write_torch

    served = merged(_student(tiny_bert, small_policy))
    _write_torch(Parts(lambda _whole: served.network), tmp_path)
    weights = Merged(tmp_path / "model", tmp_path / "head.safetensors", served.encoder, small_policy, "mean")
    fresh = on_merged(weights, LoraConfig(rank=4))
    assert any("lora_A" in name for name in fresh.learnt)
    for one, other in zip(scorer_of(fresh)(TEXTS), scorer_of(served)(TEXTS), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=0.02)
