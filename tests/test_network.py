from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import WeightsError
from tamis.network import (
    Network,
    OrdinalHead,
    bfloat16_is_fast,
    by_length,
    is_decoder,
    load_base,
    logits_of,
    mixed_precision,
    outputs_of,
    pad,
    pool,
)

ROWS = [[5, 6, 7, 8, 9], [5, 6], [7]]


@pytest.fixture(params=["tiny_qwen", "tiny_bert"])
def network(request: pytest.FixtureRequest) -> Network:
    folder = request.getfixturevalue(request.param)
    torch.manual_seed(0)
    return Network(load_base(folder, torch.float32), 3, "last" if "qwen" in request.param else "mean").eval()


def test_pitfall_12_padding_changes_nothing(network: Network) -> None:
    with torch.inference_mode():
        alone = torch.cat([network(*pad([row])) for row in ROWS])
        right = network(*pad(ROWS))
        ids, mask = pad(ROWS)
        shifts = (mask.shape[1] - mask.sum(1)).tolist()
        left = network(
            torch.stack([row.roll(k) for row, k in zip(ids, shifts, strict=True)]),
            torch.stack([row.roll(k) for row, k in zip(mask, shifts, strict=True)]),
        )
        other_pad = network(*pad(ROWS, pad_id=3))
    for got in (right, left, other_pad):
        torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)


def test_logits_come_back_in_order(network: Network) -> None:
    together = outputs_of(network, ROWS, (), tokens=8)[0]
    singly = np.concatenate([logits_of(network, [row]) for row in ROWS])
    np.testing.assert_allclose(together, singly, atol=2e-2)


@pytest.mark.parametrize(("pooling", "expected"), [("mean", 1.5), ("last", 2.0), ("first", 1.0)])
def test_pooling_by_hand(pooling: str, expected: float) -> None:
    hidden = torch.tensor([[[9.0], [1.0], [2.0], [9.0]]])
    assert pool(hidden, torch.tensor([[0, 1, 1, 0]]), pooling).item() == expected  # type: ignore[arg-type]


def test_batches_of_similar_length_waste_little() -> None:
    lengths = [256] + [30] * 31
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in by_length(lengths, 2048))
    assert padded <= 1.1 * sum(lengths)


def test_weights_of_another_model_are_refused(tiny_qwen: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(tiny_qwen / "model.safetensors")
    state.pop("model.layers.0.mlp.up_proj.weight")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((tiny_qwen / "config.json").read_bytes())
    with pytest.raises(WeightsError, match=r"lacks 1 weights, first .*up_proj"):
        load_base(tmp_path, torch.float32)


def test_an_empty_folder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot load a model"):
        load_base(tmp_path, torch.float32)


def test_a_decoder_is_told_from_an_encoder(tiny_qwen: Path, tiny_bert: Path) -> None:
    assert is_decoder(load_base(tiny_qwen, torch.float32))
    assert not is_decoder(load_base(tiny_bert, torch.float32))


@pytest.mark.parametrize(("wanted", "mixed"), [("float32", False), ("bfloat16", True), ("auto", bfloat16_is_fast())])
def test_precision_is_the_wanted_one_or_what_is_fast(wanted: str, mixed: bool) -> None:
    with mixed_precision(torch.device("cpu"), wanted):
        assert torch.is_autocast_enabled("cpu") is mixed


def ordinal(levels: int, bias: list[float] | None = None) -> OrdinalHead:
    """A head over states of one number, which is the score."""
    head = OrdinalHead(1, levels).double()
    with torch.no_grad():
        head.weight.fill_(1.0)
        if bias is not None:
            head.bias.copy_(torch.tensor(bias))
    return head


def test_cumulative_link_by_hand() -> None:
    # log(e - 1) is a gap of 1: thresholds 0.5 and -0.5. At a score of 1: P(> 0) = sigmoid(1.5), P(> 1) = sigmoid(0.5).
    head = ordinal(3, [0.5, math.log(math.e - 1)])
    torch.testing.assert_close(head.thresholds, torch.tensor([0.5, -0.5], dtype=torch.float64))
    found = head(torch.tensor([[1.0]], dtype=torch.float64)).exp()[0].tolist()
    assert found == pytest.approx([1 - 0.8175745, 0.8175745 - 0.6224593, 0.6224593], abs=1e-6)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_all_levels_are_equally_likely_at_first(levels: int) -> None:
    found = ordinal(levels)(torch.zeros(1, 1, dtype=torch.float64)).exp()[0]
    assert found.tolist() == pytest.approx([1 / levels] * levels)


def test_the_gradient_of_the_ordinal_head_is_right() -> None:
    head = ordinal(4, [0.7, -0.3, 0.2])
    states = torch.tensor([[-2.0], [0.3], [1.5]], dtype=torch.float64, requires_grad=True)

    def logs(state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(head, {"weight": weight, "bias": bias}, state)

    assert torch.autograd.gradcheck(logs, (states, head.weight, head.bias))


@given(st.lists(st.floats(-8, 8), min_size=3, max_size=3), st.floats(-30, 30), st.floats(0, 10), st.floats(0.2, 5))
def test_thresholds_stay_ordered_and_a_higher_score_never_lowers_the_risk(
    bias: list[float], score: float, more: float, temperature: float
) -> None:
    head = ordinal(4, bias)
    assert (head.thresholds.diff() < 0).all()
    logs = head(torch.tensor([[score], [score + more]], dtype=torch.float64))
    assert torch.isfinite(logs).all()
    assert logs.exp().sum(1).tolist() == pytest.approx([1, 1])
    low, high = ((logs / temperature).softmax(1) @ torch.arange(4.0, dtype=torch.float64)).tolist()
    assert high >= low - 1e-9


def test_sixteen_standard_deviations_out_a_level_still_has_a_logarithm() -> None:
    found = OrdinalHead(1, 4).double()
    with torch.no_grad():
        found.weight.fill_(1.0)
    logs = found(torch.tensor([[-700.0], [700.0]], dtype=torch.float64))
    assert torch.isfinite(logs).all()
