from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tamis.errors import WeightsError
from tamis.factored import Factored, put, ranks_of
from tamis.network import layers_of, load_base

RANK = 3


@pytest.fixture(params=["tiny_qwen", "tiny_bert"])
def base(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    loaded = load_base(request.getfixturevalue(request.param), torch.float32)
    put(loaded, {name: _fresh(module) for name, module in linear(loaded).items()})
    return loaded


def linear(base: nn.Module) -> dict[str, nn.Linear]:
    inside = {id(module) for module in layers_of(base)[1].modules()}
    return {n: m for n, m in base.named_modules() if isinstance(m, nn.Linear) and id(m) in inside}


def _fresh(module: nn.Linear) -> Factored:
    return Factored(module.in_features, module.out_features, RANK)


def edited(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_factored_layer_is_the_product_of_its_factors_and_a_bias() -> None:
    layer = Factored(2, 2, 1)
    with torch.no_grad():
        layer.down.weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.up.weight.copy_(torch.tensor([[3.0], [-1.0]]))
        layer.up.bias.copy_(torch.tensor([0.5, 0.0]))
    # 1 * 4 + 2 * 5 = 14, up to (42, -14), and the bias.
    assert layer(torch.tensor([4.0, 5.0])).tolist() == [42.5, -14.0]


def test_a_saved_folder_says_itself_which_layers_are_factored(base: nn.Module, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path)  # type: ignore[operator]
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        back = load_base(tmp_path, torch.float32)
        torch.testing.assert_close(back.eval()(ids).last_hidden_state, base.eval()(ids).last_hidden_state)
    assert ranks_of(back.config) == ranks_of(base.config)
    assert len(ranks_of(back.config)) >= 6
    assert linear(back).keys() == {f"{name}.{part}" for name in ranks_of(base.config) for part in ("down", "up")}


class Watch(TorchFunctionMode):
    """The shapes of all tensors that come to be in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.device.type == "cpu":
            self.shapes.add(tuple(found.shape))
        return found


def test_the_weights_that_were_replaced_are_never_held(tiny_bert: Path, tmp_path: Path) -> None:
    base = load_base(tiny_bert, torch.float32)
    layers = {name: module for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    put(base, {name: _fresh(module) for name, module in layers.items()})
    base.save_pretrained(tmp_path)  # type: ignore[operator]
    replaced = {tuple(layer.weight.shape) for layer in layers.values()} - {(32, 32)}  # which a BERT's pooler has too
    assert replaced == {(64, 32), (32, 64)}
    with Watch() as watch:
        back = load_base(tmp_path, torch.float32)
    assert not watch.shapes & replaced
    with Watch() as watch:  # Built in memory and then replaced, they would be seen.
        type(back)(back.config)
    assert watch.shapes >= replaced


def test_ranks_that_the_weights_do_not_have_are_refused(base: nn.Module, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path)  # type: ignore[operator]
    ranks = ranks_of(base.config)
    with pytest.raises(WeightsError, match=r"is \[3, .*\] and config.json wants \[5, .*\]: they are of two models"):
        load_base(edited(tmp_path, factored=dict.fromkeys(ranks, 5)), torch.float32)


def test_a_configuration_without_its_ranks_is_refused(base: nn.Module, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=r"lacks \d+ weights"):
        load_base(edited(tmp_path, factored={}), torch.float32)


def test_an_unknown_factored_layer_is_refused(base: nn.Module, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=r"names a factored layer layers\.9\.x and the model has no such"):
        load_base(edited(tmp_path, factored={"layers.9.x": 3}), torch.float32)
