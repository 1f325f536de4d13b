"""Linear layers as two thin ones: what a compressed student is served with, and how a model with such layers loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tamis.errors import WeightsError


class Factored(nn.Module):
    """A linear layer of low rank: `rank * (inputs + outputs)` weights and a bias.

    Args:
        inputs: width of what comes in, (..., inputs).
        outputs: width of what goes out, (..., outputs).
        rank: width in between.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        outputs: Tensor = self.up(self.down(inputs))
        return outputs


def put(base: PreTrainedModel, layers: Mapping[str, Factored]) -> None:
    """Put factored layers in place of others and note their ranks in the model's configuration.

    The configuration travels with the weights, so a folder says itself which of its layers are factored.
    """
    for name, layer in layers.items():
        base.set_submodule(name, layer)
    base.config.factored = {name: layer.down.out_features for name, layer in layers.items()}


def ranks_of(config: PretrainedConfig) -> dict[str, int]:
    """Names of the factored layers of a model with this configuration, and their ranks."""
    ranks: dict[str, int] = getattr(config, "factored", {})
    return ranks


def factored_class(kind: type[PreTrainedModel], ranks: Mapping[str, int]) -> type[PreTrainedModel]:
    """A kind of model that is built with factored layers, so that loading it never holds the weights they replace."""

    def build(self: PreTrainedModel, config: PretrainedConfig, *more: Any, **named: Any) -> None:
        kind.__init__(self, config, *more, **named)
        put(self, {name: _empty(self, name, rank) for name, rank in ranks.items()})

    return type(kind.__name__, (kind,), {"__init__": build, "__module__": kind.__module__})


def _empty(base: nn.Module, name: str, rank: int) -> Factored:
    linear = dict(base.named_modules()).get(name)
    if not isinstance(linear, nn.Linear):
        raise WeightsError(f"config.json names a factored layer {name} and the model has no such linear layer")
    return Factored(linear.in_features, linear.out_features, rank)
