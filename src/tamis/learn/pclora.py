"""PC-LoRA: pretrained weights fade while low-rank factors take over (Hwang et al., 2024, arXiv 2406.09117).

A fading layer is y = left * R x + up(down(x)) + bias, with `left` falling from 1 to 0. The factors start as the largest
`rank` singular parts of the pretrained weight W and R is the rest of it (as in PiSSA, Meng et al., 2024,
arXiv 2404.02948), so that at `left` = 1 the layer is the pretrained one and what fades is only what the factors cannot
hold. Once `left` is 0 the factors and the bias are all there is, and R is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tamis.errors import ConfigError
from tamis.factored import Factored, put
from tamis.network import Network, layers_of

OVERSAMPLED, ITERATIONS = 8, 4


class Fading(nn.Module):
    """A linear layer whose frozen part fades; `low` is trained, in float32, and is what remains.

    Args:
        linear: the pretrained layer.
        rank: of the factors.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.low = Factored(linear.in_features, linear.out_features, rank)
        with torch.no_grad():
            _start(self.low, weight, linear.bias)
            rest = weight - self.low.up.weight @ self.low.down.weight
        self.rest = nn.Parameter(rest.to(linear.weight.dtype), requires_grad=False)
        self.left = 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        outputs: Tensor = self.low(inputs.to(self.low.down.weight.dtype))
        if self.left:
            outputs = outputs + self.left * functional.linear(inputs, self.rest)
        return outputs if torch.is_autocast_enabled(inputs.device.type) else outputs.to(inputs.dtype)


def _start(low: Factored, weight: Tensor, bias: Tensor | None) -> None:
    """The largest singular parts of the weight, their values shared evenly between both factors."""
    rank = low.down.out_features
    wide = min(rank + OVERSAMPLED, *weight.shape)
    left, values, right = torch.svd_lowrank(weight, q=wide, niter=ITERATIONS)
    root = values[:rank].sqrt()
    low.up.weight.copy_(left[:, :rank] * root)
    low.down.weight.copy_((right[:, :rank] * root).T)
    if bias is None:
        low.up.bias.zero_()
    else:
        low.up.bias.copy_(bias)


def make_fading(base: nn.Module, names: Iterable[str], rank: int) -> None:
    """Put a fading layer in place of each linear layer named.

    Raises:
        ConfigError: a rank at which the factors are no smaller than the weight.
    """
    chosen = set(names)
    linear = {n: m for n, m in base.named_modules() if n in chosen and isinstance(m, nn.Linear)}
    for name, layer in linear.items():
        outputs, inputs = layer.weight.shape
        largest = (inputs * outputs - 1) // (inputs + outputs)
        if rank > largest:
            raise ConfigError(
                f"student.lora.rank: factors of rank {rank} are no smaller than {name}, {outputs} x {inputs}, which"
                f" they replace: take at most {largest}, or name other layers in student.lora.targets"
            )
        base.set_submodule(name, Fading(layer, rank))


def fade(network: nn.Module, progress: float) -> None:
    """Set how much is left of all fading layers: 1 - sin(pi / 2 * progress), nothing from 1 on.

    The sine of the paper's decays: fast while the factors have the most to gain, and slow towards the end.
    """
    left = 1 - math.sin(math.pi / 2 * min(1.0, progress))
    for layer in _fading(network).values():
        layer.left = left


def faded(network: nn.Module) -> bool:
    """Whether nothing is left of any pretrained weight that fades; so it is where none does."""
    return not any(layer.left for layer in _fading(network).values())


def constant_layers(network: Network) -> int:
    """How many of the lowest layers have no part that fades; the others change with every step, trained or not."""
    layers = layers_of(network.base)
    return next((depth for depth, layer in enumerate(layers) if _fading(layer)), len(layers))


def drop_faded(base: PreTrainedModel) -> None:
    """Leave only the factors of all fading layers."""
    put(base, {name: layer.low for name, layer in _fading(base).items()})


def compressed(network: nn.Module) -> dict[str, float]:
    """Weights of the factors over those of the layers they replace, as a fact; none where nothing fades."""
    layers = _fading(network).values()
    if not layers:
        return {}
    after = sum(layer.low.down.weight.numel() + layer.low.up.weight.numel() for layer in layers)
    return {"compressed_share": after / sum(layer.rest.numel() for layer in layers)}


def _fading(network: nn.Module) -> dict[str, Fading]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Fading)}
