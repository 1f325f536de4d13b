from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.errors import WeightsError
from tamis.network import (
    Network,
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
