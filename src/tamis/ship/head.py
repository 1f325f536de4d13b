"""The head where no torch is: a runtime that stops at hidden states leaves normalising and the last layer to this."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file

from tamis.errors import BundleError
from tamis.policy import Policy
from tamis.windows import Array

if TYPE_CHECKING:
    from tamis.network import Network

HEAD = "head.safetensors"
EPSILON = 1e-5
"""Of the layer norm, as torch has it by default."""


class Head:
    """Pooled states to logits, as `network.Network` computes them from its pooled states on.

    Raises:
        BundleError: the weights are not those of a head for this policy.
    """

    def __init__(self, path: Path, policy: Policy) -> None:
        weights = load_file(path)
        self._weight, self._bias = weights["weight"].astype(np.float32), weights["bias"].astype(np.float32)
        self._ordinal = policy.kind == "ordinal"
        rows = (1, len(policy.ids) - 1) if self._ordinal else (len(policy.ids), len(policy.ids))
        if (len(self._weight), len(self._bias)) != rows:
            raise BundleError(f"{path} is the head of another policy: export the bundle again")

    @property
    def width(self) -> int:
        """Numbers a state has."""
        return int(self._weight.shape[1])

    def __call__(self, states: Array) -> Array:
        """(rows, width) pooled states -> (rows, categories) logits in float32.

        Layer normalisation without weights: Ba, Kiros and Hinton, 2016, arXiv 1607.06450.
        """
        spread = np.sqrt(states.var(axis=1, keepdims=True) + EPSILON)
        normal = (states - states.mean(axis=1, keepdims=True)) / spread
        scores = normal @ self._weight.T
        return (self._levels(scores) if self._ordinal else scores + self._bias).astype(np.float32)

    def _levels(self, scores: Array) -> Array:
        """Log-probabilities of levels; the formula is that of `network.OrdinalHead`."""
        gaps = np.logaddexp(0, self._bias[1:])
        steps = scores + self._bias[0] - np.concatenate([[0], gaps.cumsum()])
        above, below = -np.logaddexp(0, -steps), -np.logaddexp(0, steps)
        inner = above[:, :-1] + below[:, 1:] + np.log(-np.expm1(-gaps))
        return np.concatenate([below[:, :1], inner, above[:, -1:]], axis=1)


def write_head(network: Network, folder: Path) -> None:
    """Write the head's weights, which torch and this module both read."""
    from safetensors.torch import save_file

    save_file({name: p.detach().contiguous() for name, p in network.head.named_parameters()}, folder / HEAD)
