"""The layers below the lowest trained one: they never change, so each row goes through them once, not once an epoch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from tamis.errors import TrainingError
from tamis.network import Network, by_length, layers_of, mixed_precision, pad

SPARE = 1 << 30


class Trunk:
    """Hidden states of some rows above the frozen layers, in a memory-mapped file that leaves nothing behind.

    Dropout inside the frozen layers, where a model has any, is off.

    Args:
        network: the student's; its lowest layers are frozen.
        depth: how many of them, at least 1.
        rows: token ids.
        precision: of the computation, as in `TrainConfig`.
        folder: where the file is made; it takes width times bytes for each token.

    Raises:
        TrainingError: the disk cannot hold the states.
    """

    def __init__(
        self, network: Network, depth: int, rows: Sequence[Sequence[int]], precision: str, folder: Path
    ) -> None:
        self.layers, self.depth = layers_of(network.base), depth
        self.lengths = [len(row) for row in rows]
        self.starts = [0, *accumulate(self.lengths)]
        self.device = network.head.weight.device
        network.eval()
        self.states = _mapped(self.starts[-1], self._computed(network, rows[:1], precision), folder)
        parts = list(by_length(self.lengths, tokens=4096))
        for part in track(parts, "frozen layers", console=Console(stderr=True), transient=True):
            states = self._computed(network, [rows[i] for i in part], precision)
            for i, one in zip(part, states, strict=True):
                self.states[self.starts[i] : self.starts[i + 1]] = one[: self.lengths[i]]

    @contextmanager
    def of(self, part: Sequence[int]) -> Iterator[None]:
        """Within this, the network starts from the states of these rows, padded on the right as `pad` does."""
        longest = max(self.lengths[i] for i in part)
        held = self.states.new_zeros(len(part), longest, self.states.shape[1])
        for place, i in enumerate(part):
            held[place, : self.lengths[i]] = self.states[self.starts[i] : self.starts[i + 1]]
        below = [self.layers[i] for i in range(self.depth)]
        holding = _Holding(held.to(self.device))
        try:
            for i in range(self.depth):
                self.layers[i] = holding
            yield
        finally:
            for i, layer in enumerate(below):
                self.layers[i] = layer

    @torch.no_grad()
    def _computed(self, network: Network, rows: Sequence[Sequence[int]], precision: str) -> Tensor:
        """(rows, length, width) after the frozen layers; what lies above is not computed."""
        ids, mask = pad(rows)
        hook = self.layers[self.depth - 1].register_forward_hook(_stop)
        try:
            with mixed_precision(self.device, precision):
                network(ids.to(self.device), mask.to(self.device))
        except _Reached as reached:
            return reached.states
        finally:
            hook.remove()
        raise AssertionError("the network did not pass its own layers")


class _Reached(Exception):
    def __init__(self, states: Tensor) -> None:
        self.states = states


def _stop(layer: nn.Module, inputs: object, output: Tensor) -> None:
    raise _Reached(output)


class _Holding(nn.Module):
    """Stands in for a layer and gives the states it holds, whatever comes in."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *_: object, **__: object) -> Tensor:
        return self.states


def _mapped(tokens: int, like: Tensor, folder: Path) -> Tensor:
    size = tokens * like.shape[-1] * like.element_size()
    if size + SPARE > shutil.disk_usage(folder).free:
        raise TrainingError(
            f"{folder} has no room for {size / 1e9:.1f} GB of hidden states: free some, or adapt all layers"
            " (student.lora.layers: null)"
        )
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.truncate(size)
        flat = torch.from_file(file.name, shared=True, size=size // like.element_size(), dtype=like.dtype)
    return flat.view(tokens, like.shape[-1])
