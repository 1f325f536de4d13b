from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import TrainingError
from tamis.learn.batches import batches, micro_batches, rows_of
from tamis.policy import Policy
from tamis.records import Example, TeacherSignal
from tamis.windows import Encoder

MakeSignal = Callable[..., TeacherSignal]


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 5))
def test_an_epoch_has_every_row_once(count: int, size: int, epoch: int) -> None:
    made = batches(count, size, seed=3, epoch=epoch)
    assert sorted(row for batch in made for row in batch) == list(range(count))
    assert made == batches(count, size, seed=3, epoch=epoch)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=64), st.integers(1, 4))
def test_micro_batches_lose_nothing_and_keep_the_budget(lengths: list[int], parts: int) -> None:
    batch = list(range(len(lengths)))
    made = list(micro_batches(batch, lengths, 512, parts))
    assert sorted(row for part in made for row in part) == batch
    assert all(len(part) == 1 or max(lengths[i] for i in part) * len(part) <= 512 for part in made)
    assert len(made) >= min(parts, len(batch))


@pytest.fixture
def encoder(tokenizer: Path) -> Encoder:
    return Encoder.from_file(tokenizer / "tokenizer.json", "{text}", 32)


def test_pitfall_9_signals_are_matched_by_content_not_order(
    examples: tuple[Example, ...], make_signal: MakeSignal, encoder: Encoder, small_policy: Policy
) -> None:
    signals = {example.id: make_signal(example) for example in reversed(examples)}
    rows = rows_of(examples, signals, encoder, small_policy)
    assert rows.examples == examples
    wanted = torch.tensor([small_policy.ids.index(example.label or "") for example in examples])
    torch.testing.assert_close(rows.targets.soft.argmax(1), wanted)


def test_pitfall_9_a_signal_of_another_example_stops_the_run(
    examples: tuple[Example, ...], make_signal: MakeSignal, encoder: Encoder, small_policy: Policy
) -> None:
    wrong = {examples[0].id: make_signal(examples[1])}
    with pytest.raises(TrainingError, match="label again"):
        rows_of(examples, wrong, encoder, small_policy)
    other_space = {examples[0].id: make_signal(examples[0], label_space="other")}
    with pytest.raises(TrainingError, match="label again"):
        rows_of(examples, other_space, encoder, small_policy)


def test_refused_rows_keep_their_gold_and_teach_no_soft_label(
    examples: tuple[Example, ...], make_signal: MakeSignal, encoder: Encoder, small_policy: Policy
) -> None:
    refused = {examples[0].id: make_signal(examples[0], outcome="refused", probabilities={})}
    rows = rows_of(examples[:1], refused, encoder, small_policy)
    assert not rows.targets.has_soft.any()
    assert rows.targets.has_hard.all()


def test_long_rows_are_counted_not_cut_in_silence(
    examples: tuple[Example, ...], encoder: Encoder, small_policy: Policy
) -> None:
    long = replace(examples[0], text="注册就送彩金" * 40)
    assert rows_of((long, examples[1]), {}, encoder, small_policy).long == 1


def test_rows_with_a_score_alone_are_learnt_from_too(
    examples: tuple[Example, ...], make_signal: MakeSignal, encoder: Encoder, small_policy: Policy
) -> None:
    scored = replace(examples[0], label=None, score=0.9)
    bare = replace(examples[1], label=None)
    rows = rows_of([scored, bare, examples[3]], {}, encoder, small_policy)
    assert [row.id for row in rows.examples] == [scored.id, examples[3].id]
    assert rows.targets.has_score.tolist() == [True, False]
    assert rows.targets.has_label.tolist() == [False, True]


def test_a_category_nobody_has_judged_is_no_target(
    examples: tuple[Example, ...], encoder: Encoder, small_policy: Policy
) -> None:
    policy = small_policy.model_copy(update={"kind": "multi_label"})
    row = replace(examples[0], label=None, labels=("gambling",), unknown=("fraud",))
    bare = replace(examples[1], label=None, score=0.5)
    hard = rows_of([row, bare], {}, encoder, policy).targets.hard
    torch.testing.assert_close(hard[0], torch.tensor([0.0, 1.0, float("nan")]), equal_nan=True)
    assert hard[1].isnan().all()


def test_nothing_to_learn_is_said(examples: tuple[Example, ...], encoder: Encoder, small_policy: Policy) -> None:
    with pytest.raises(TrainingError, match="label first"):
        rows_of([replace(examples[0], label=None)], {}, encoder, small_policy)
