"""What the teacher is asked and how its answers are read; pure functions."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import pytest
from tests.teach.conftest import ROWS, example

from tamis.config import FewShotConfig
from tamis.errors import ConfigError
from tamis.policy import Policy, load_policy
from tamis.teach.answers import category_of, from_json, from_logprobs, from_votes, logprobs_are_usable, parse_choice
from tamis.teach.prompt import Prompt, choose_style
from tamis.teach.shots import FixedShots, make_shots, stratified


@pytest.fixture
def small(policy: Policy) -> Policy:
    return policy.only(["normal", "gambling", "fraud"])


def test_the_prompt_is_this(small: Policy) -> None:
    plain = small.model_copy(update={"guidance": {"zh": "看意图。", "en": "Judge the intent."}})
    shots = FixedShots([example("买彩票吗", "gambling")])
    messages = Prompt(plain, "zh", shots=shots).messages(example("你{text}好"))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    system = messages[0]["content"].splitlines()
    assert system[:3] == ["你是内容审核员，判断每段文本属于哪一类。", "看意图。", "类别："]
    assert system[4].startswith("赌博：邀人参与")
    assert system[-1] == "只回答一个类别：正常、赌博、欺诈。"
    assert [m["content"] for m in messages[1:]] == ["文本：买彩票吗\n类别：", "赌博", "文本：你{text}好\n类别："]
    english = Prompt(plain, "en", "letters").messages(example("hi"))
    assert "B. gambling: Inviting" in english[0]["content"]
    assert english[0]["content"].endswith("Answer with one category only: A, B, C.")


def test_orders_rotate_and_every_category_stands_first_once(small: Policy) -> None:
    prompt = Prompt(small, "zh", "letters", orders=3)
    assert [prompt.categories(order)[0].id for order in range(3)] == ["normal", "gambling", "fraud"]
    assert prompt.options(1) == {"gambling": "A", "fraud": "B", "normal": "C"}


def test_pitfall_20_the_hash_changes_with_all_that_is_asked(small: Policy) -> None:
    gold = [example("甲", "fraud"), example("乙", "gambling")]
    prompts = [
        Prompt(small, "zh"),
        Prompt(small, "en"),
        Prompt(small, "zh", "letters"),
        Prompt(small, "zh", orders=2),
        Prompt(small, "zh", shots=FixedShots(gold)),
        Prompt(small, "zh", shots=FixedShots(gold[::-1])),
        Prompt(small, "zh", shots=make_shots(FewShotConfig(kind="nearest", n=1), small, gold)),
        Prompt(small.model_copy(update={"guidance": {}}), "zh"),
    ]
    assert len({prompt.hash for prompt in prompts}) == len(prompts)
    assert Prompt(small, "zh").hash == Prompt(small, "zh").hash


def test_pitfall_3_one_token_that_fits_two_labels_counts_for_none() -> None:
    options = {"gambling": "gambling", "game": "game", "fraud": "fraud"}
    assert category_of("gam", options) is None
    assert category_of(" fra", options) == "fraud"
    assert category_of("Fraud", options) == "fraud"
    assert category_of("", options) is None
    assert category_of("frauds", options) is None


def test_pitfall_3_words_only_where_their_first_tokens_differ(policy: Policy, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_style(policy, "zh") == "words"
    assert choose_style(load_policy("default"), "zh") == "words"
    pieces = {"赌博": [1, 2], "欺诈": [1, 3]}
    with caplog.at_level(logging.WARNING):
        assert choose_style(policy, "zh", lambda word: pieces.get(word, [ord(word[0])])) == "letters"
    assert "赌博 and 欺诈 begin with the same token" in caplog.text


def test_letters_are_exact() -> None:
    options = {"normal": "A", "fraud": "B"}
    assert category_of(" A", options) == "normal"
    assert category_of("a", options) is None
    assert category_of("Abuse", options) is None


def test_pitfall_2_only_real_logprobs_are_usable() -> None:
    assert not logprobs_are_usable([("A", 0.0), ("B", -9999.0)])
    assert not logprobs_are_usable([])
    assert logprobs_are_usable([("A", 0.0), ("B", -31.2)])


def test_logprobs_of_several_spellings_add_up(small: Policy) -> None:
    options = Prompt(small, "zh").options()
    tokens = [("赌博", math.log(0.5)), ("赌", math.log(0.1)), ("其他", math.log(0.2)), ("欺诈", -9999.0)]
    assert from_logprobs(tokens, options) == pytest.approx({"normal": 0.0, "gambling": 0.6, "fraud": 0.0})
    assert from_logprobs([("其他", -0.1)], options) == {}


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("赌博。", "gambling"),
        (" gambling ", "gambling"),
        ("<think>嗯</think>\n欺诈", "fraud"),
        ("不是赌博", None),
        ("", None),
    ],
)
def test_choices(small: Policy, answer: str, name: str | None) -> None:
    assert parse_choice(answer, Prompt(small, "zh").options(), small) == name


def test_votes(small: Policy) -> None:
    options = Prompt(small, "zh").options()
    assert from_votes(["赌博", "赌博", "？", "正常"], options, small) == {"normal": 0.25, "gambling": 0.5, "fraud": 0.0}
    assert from_votes(["？"], options, small) == {}


@pytest.mark.parametrize(
    ("answer", "gambling"),
    [
        ('{"赌博": 0.5, "正常": 0.5}', 0.5),
        ('```json\n{"gambling": 1, "normal": 1}\n```', 0.5),
        ('{"赌博": 0.3}', 0.3),
        ('{"赌博": 1.5}', None),
        ('{"赌博": true}', None),
        ('{"赌博": "0.5"}', None),
        ('{"别的": 0.5}', None),
        ('{"赌博": NaN}', None),
        ('{"赌博": 0}', None),
        ("[0.5]", None),
        ("{}", None),
        ('{"赌博": 0.5} 因为', None),
    ],
)
def test_verbalised_is_parsed_strictly(small: Policy, answer: str, gambling: float | None) -> None:
    found = from_json(answer, Prompt(small, "zh").options(), small)
    assert found.get("gambling") == gambling


def test_fixed_shots_are_stratified_and_do_not_depend_on_the_order_of_gold(small: Policy) -> None:
    gold = [example(f"{name}{i}", name) for name in small.ids for i in range(4)]
    chosen = stratified(gold, small, 7)
    assert [row.label for row in chosen] == [*small.ids, *small.ids, "normal"]
    assert stratified(gold[::-1], small, 7) == chosen
    long = [example("长" * 300, "fraud"), example("短", "fraud")]
    assert stratified(long, small, 1) == [long[1]]


def test_a_shot_is_left_out_when_it_is_the_text_itself(small: Policy) -> None:
    shots = make_shots(FewShotConfig(kind="fixed", n=4), small, [example("甲", "fraud"), example("乙", "normal")])
    assert [shot.text for shot in shots.of(example("甲"))] == ["乙"]


def test_gold_of_another_policy_is_refused(small: Policy) -> None:
    with pytest.raises(ConfigError, match="gold for few-shot carries violence"):
        make_shots(FewShotConfig(), small, [example("甲", "violence")])
    assert make_shots(FewShotConfig(), small, ROWS).of(ROWS[0]) == ()


def test_where_several_may_hold_the_teacher_is_told_so_and_shown_so(policy: Policy) -> None:
    several = policy.only(["normal", "abuse", "fraud"]).model_copy(update={"kind": "multi_label"})
    known = replace(example("甲"), labels=("abuse", "fraud"))
    partly = replace(example("乙"), labels=("abuse",), unknown=("fraud",))
    shots = make_shots(FewShotConfig(kind="fixed", n=4), several, [partly, known])
    prompt = Prompt(several, "zh", shots=shots)
    system, _, shown, _ = (turn["content"] for turn in prompt.messages(example("丙"), ask="json"))
    assert "可以同时属于多个类别" in system
    assert json.loads(shown) == {"正常": 0.0, "辱骂": 1.0, "欺诈": 1.0}
    assert "可以同时属于多个类别" not in Prompt(policy, "zh").system()
