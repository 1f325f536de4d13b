from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.config import DataConfig
from tamis.data import Row, check_leaks, prepare, split
from tamis.errors import DataError, LeakError
from tamis.policy import Policy
from tamis.records import CalibrationSplit, Example, Splits, TestSplit, TrainSplit, ValidationSplit, content_id

Data = Callable[..., DataConfig]
NAMES = ("train", "validation", "calibration", "test")
LABELS = ("normal", "abuse", "fraud")
LONG = "今天晚上八点在人民广场东边的咖啡馆门口见面记得带上身份证和学生证还有那本蓝色封面的书"


def example(text: str, label: str | None = None, source: str = "s") -> Example:
    return Example(content_id(text), text, "zh", source, label)


def gold(count: int, source: str = "s") -> list[Example]:
    return [example(f"{source} {n}", LABELS[n % 3], source) for n in range(count)]


def config_of(**shares: float) -> DataConfig:
    return DataConfig.model_validate({"sources": [{"path": "s.jsonl"}], "split": shares})


def parts(splits: Splits) -> dict[str, tuple[Example, ...]]:
    return {name: getattr(splits, name).examples for name in NAMES}


def test_shares_and_strata_are_kept(data: Data, policy: Policy) -> None:
    splits = split(gold(300), data(), policy)
    sizes = {name: len(found) for name, found in parts(splits).items()}
    assert sizes == {"train": 180, "validation": 30, "calibration": 30, "test": 60}
    assert Counter(found.label for found in splits.test.examples) == dict.fromkeys(LABELS, 20)
    assert isinstance(splits.test, TestSplit)
    assert isinstance(splits.train, TrainSplit)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from([*LABELS, None])), min_size=40, max_size=120),
    seed=st.integers(0, 5),
)
def test_a_split_loses_nothing_and_repeats_itself(
    rows: list[tuple[int, str | None]], seed: int, policy: Policy
) -> None:
    found = list({n: example(f"t{n}", label) for n, label in rows}.values())
    config = config_of(seed=seed)
    try:
        splits = split(found, config, policy)
    except DataError:
        return
    everything = [one for part in parts(splits).values() for one in part]
    assert sorted(everything, key=lambda one: one.id) == sorted(found, key=lambda one: one.id)
    assert all(one.is_gold for name in NAMES[1:] for one in parts(splits)[name])
    shuffled = random.Random(seed).sample(found, len(found))
    again = split(shuffled, config, policy)
    assert [set(part) for part in parts(again).values()] == [set(part) for part in parts(splits).values()]
    assert split(found, config, policy) == splits


def test_another_seed_gives_another_split(policy: Policy) -> None:
    found = gold(300)
    assert split(found, config_of(seed=1), policy) != split(found, config_of(seed=2), policy)


def test_new_rows_move_few_others(policy: Policy) -> None:
    found = gold(300)
    before = {one.id: name for name, part in parts(split(found, config_of(), policy)).items() for one in part}
    more = [*found, *gold(30, "new")]
    after = {one.id: name for name, part in parts(split(more, config_of(), policy)).items() for one in part}
    assert sum(before[key] != after[key] for key in before) <= 30


def test_unlabelled_rows_are_for_training(data: Data, policy: Policy) -> None:
    splits = split([*gold(60), *(example(f"u{n}") for n in range(60))], data(), policy)
    assert sum(not one.is_gold for one in splits.train.examples) == 60
    assert all(one.is_gold for name in NAMES[1:] for one in parts(splits)[name])


def test_rows_go_where_their_source_says(data: Data, policy: Policy) -> None:
    config = data({"a": "train", "b": "validation", "c": "calibration", "d": "test"})
    splits = split([one for name in "abcd" for one in gold(6, name)], config, policy)
    assert [{one.source for one in part} for part in parts(splits).values()] == [{"a"}, {"b"}, {"c"}, {"d"}]


def test_multi_label_and_score_rows_are_stratified(multi_policy: Policy, policy: Policy, data: Data) -> None:
    several = [
        replace(example(f"t{n}"), labels=(("normal",), ("abuse",), ("abuse", "fraud"))[n % 3]) for n in range(90)
    ]
    assert Counter(one.labels for one in split(several, data(), multi_policy).test.examples) == {
        ("normal",): 6,
        ("abuse",): 6,
        ("abuse", "fraud"): 6,
    }
    scored = [replace(example(f"t{n}"), score=(n % 2) * 0.95) for n in range(100)]
    assert Counter(one.score for one in split(scored, data(), policy).test.examples) == {0.0: 10, 0.95: 10}


@pytest.mark.parametrize("keep", [1, 3, 10, 59, 1000])
def test_gold_beyond_the_limit_is_hidden_in_training_only(keep: int, data: Data, policy: Policy) -> None:
    found = [example(f"s {n}", "normal" if n % 10 else "abuse") for n in range(100)]
    whole = split(found, data(), policy)
    few = split(found, data(gold=keep), policy)
    assert len(few.train.gold) == min(keep, len(whole.train.gold))
    assert [one.id for one in few.train.examples] == [one.id for one in whole.train.examples]
    assert (few.validation, few.calibration, few.test) == (whole.validation, whole.calibration, whole.test)
    if keep >= 2:
        assert {one.label for one in few.train.gold} == {"normal", "abuse"}
    assert split(found, data(gold=keep), policy) == few


@pytest.mark.parametrize(
    ("found", "shares", "message"),
    [
        ([example("a"), example("b")], {}, "none of the 2 rows has a human verdict"),
        ([example(f"t{n}", "abuse") for n in range(9)], {}, "all 9 human verdicts are abuse: add rows"),
        ([example("a", "abuse"), example("b", "normal")], {}, r"2 human verdicts for 3 classes: .*policy\.only"),
        (gold(3), {"validation": 0.01}, r"the validation split is empty: .*`data\.split\.validation` to 0"),
        (gold(30), {"test": 0.9}, "come to more than 1"),
        (gold(30), {"test": 0.8}, "the train split is empty"),
    ],
)
def test_what_cannot_be_split_is_an_error(
    found: list[Example], shares: dict[str, float], message: str, policy: Policy
) -> None:
    with pytest.raises(DataError, match=message):
        split(found, config_of(**shares), policy)


def test_forced_sources_alone_leave_a_split_empty(data: Data, policy: Policy) -> None:
    found = [*gold(9, "a"), *gold(9, "d")]
    with pytest.raises(DataError, match="the validation split is empty"):
        split(found, data({"a": "train", "d": "test"}), policy)
    with pytest.raises(DataError, match="the train split is empty"):
        split(gold(9, "d"), data({"d": "test"}, split={"validation": 0, "calibration": 0}), policy)


def test_an_evaluation_source_without_rows_is_not_replaced_in_silence(data: Data, policy: Policy) -> None:
    with pytest.raises(DataError, match="source d is used for test and none of its rows is left"):
        split(gold(90, "a"), data({"a": None, "d": "test"}), policy)


def planted(train: list[str], test: list[str], validation: list[str] | None = None) -> Splits:
    def made(found: list[str]) -> tuple[Example, ...]:
        return tuple(example(text, "normal") for text in found)

    return Splits(
        TrainSplit(made(train)), ValidationSplit(made(validation or [])), CalibrationSplit(()), TestSplit(made(test))
    )


@pytest.mark.parametrize(
    "copy",
    [
        LONG,
        LONG + "啊",
        "请" + LONG,
        LONG.replace("，", ""),
        f"{LONG}。电话：12345",
        "【" + "】【".join(LONG) + "】",
    ],
)
def test_a_leak_is_found_and_told_without_its_text(copy: str) -> None:
    with pytest.raises(LeakError, match=r"1 pairs .*\(1 between train/test\)") as told:
        check_leaks(planted([LONG, "别的"], [copy, "另外"]))
    assert LONG[:4] not in str(told.value)
    assert content_id(copy) in str(told.value)


def test_short_texts_leak_only_when_equal() -> None:
    check_leaks(planted(["哈哈哈", "好的1", "12345"], ["哈哈哈哈", "好的2", "54321"]))
    with pytest.raises(LeakError, match="1 pairs"):
        check_leaks(planted(["好 的"], ["好的"]))


def test_copies_inside_one_split_are_no_leak() -> None:
    check_leaks(planted([LONG, LONG + "啊"], ["别的"]))
    check_leaks(planted([], []))


def test_a_leak_names_three_pairs_at_most_and_counts_all() -> None:
    with pytest.raises(LeakError, match=r"9 pairs .*\(4 between") as told:
        check_leaks(planted([LONG + mark for mark in "一二三四"], [LONG], [LONG + "五"]))
    assert len(re.findall("[0-9a-f]{16} and [0-9a-f]{16}", str(told.value))) == 3


def test_the_check_finds_what_prepare_was_told_to_overlook(data: Data, policy: Policy) -> None:
    config = data({"a": "train", "d": "test", "s": None}, near_duplicate=1.0)
    rows = [Row(f"{one.text} {n * 7919:b}", "s", "s:1", None, one.label) for n, one in enumerate(gold(60))]
    rows += [Row(LONG, "a", "a:1", None, "normal"), Row(LONG + "啊", "d", "d:1", None, "normal")]
    splits = split(prepare(rows, config).examples, config, policy)
    with pytest.raises(LeakError, match=r"1 pairs .*lower `data\.near_duplicate`"):
        check_leaks(splits)
    sound = config.model_copy(update={"near_duplicate": 0.8})
    check_leaks(split(prepare(rows, sound).examples, sound, policy))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_what_prepare_lets_through_never_leaks(seed: int) -> None:
    random_source = random.Random(seed)
    letters = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可abcdefgh123，。 😀🐷"
    bases = ["".join(random_source.choices(letters, k=random_source.randint(3, 80))) for _ in range(10)]
    rows = []
    for n in range(200):
        text = list(random_source.choice(bases))
        for _ in range(random_source.randrange(6)):
            text[random_source.randrange(len(text))] = random_source.choice(letters)
        source = random_source.choice("ad")
        rows.append(Row("".join(text), source, f"s:{n}", None, "normal"))
    sources = [{"path": "a.jsonl", "split": "train"}, {"path": "d.jsonl", "split": "test"}]
    prepared = prepare(rows, DataConfig.model_validate({"sources": sources}))
    by_source = {name: tuple(one for one in prepared.examples if one.source == name) for name in "ad"}
    check_leaks(
        Splits(TrainSplit(by_source["a"]), ValidationSplit(()), CalibrationSplit(()), TestSplit(by_source["d"]))
    )
