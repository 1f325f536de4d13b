"""The layers below the lowest trained one: they never change, so each row goes through them once, not once an epoch."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from tamis.config import TrainConfig
from tamis.errors import TrainingError
from tamis.learn.pclora import constant_layers
from tamis.network import Network, frozen_layers, layers_of, logits_of, mixed_precision, pad
from tamis.windows import Array, by_length

SPARE, TOKENS = 1 << 30, 4096


def constant_depth(network: Network) -> int:
    """How many of the lowest layers give the same states at every step: neither trained nor fading."""
    return min(frozen_layers(network), constant_layers(network))


def logits_above(
    network: Network, depth: int, rows: Sequence[Sequence[int]], config: TrainConfig, folder: Path
) -> Array:
    """Logits of token rows, (rows, categories), whose states above so many layers are computed once for all runs.

    Args:
        network: a student's, as it was trained or merged.
        depth: its `constant_depth` while it was trained.
        rows: token ids.
        config: see `Trunk`.
        folder: see `Trunk`.

    Raises:
        TrainingError: the disk cannot hold the states.
    """
    return Trunk(network, depth, rows, config, folder).logits() if depth and rows else logits_of(network, rows)


class Trunk:
    """Hidden states of some rows above the frozen layers, in a memory-mapped file.

    Dropout inside the frozen layers, where a model has any, is off.

    Args:
        network: the student's; its lowest layers are frozen.
        depth: how many of them, at least 1.
        rows: token ids.
        config: `precision` of the computation, and `frozen_states`, the folder in which other runs find the file.
        folder: where the file is made and left behind by nobody, without `frozen_states`; it takes width times bytes
            for each token.

    Raises:
        TrainingError: the disk cannot hold the states.
    """

    def __init__(
        self, network: Network, depth: int, rows: Sequence[Sequence[int]], config: TrainConfig, folder: Path
    ) -> None:
        self.network, self.rows, self.precision = network, rows, config.precision
        self.layers, self.depth = layers_of(network.base), depth
        self.lengths = [len(row) for row in rows]
        self.starts = [0, *accumulate(self.lengths)]
        self.device = network.head.weight.device
        network.eval()
        like = self._computed(network, rows[:1], config.precision)
        if config.frozen_states is None:
            with tempfile.NamedTemporaryFile(dir=folder) as file:
                self.states = self._filled(network, rows, config.precision, Path(file.name), like)
            return
        kept = Path(config.frozen_states) / f"{self._digest(network, rows, config.precision)}.states"
        if kept.is_file():
            self.states = _mapped(kept, self.starts[-1], like)
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
            self.states = self._filled(network, rows, config.precision, Path(file.name), like)
        Path(file.name).replace(kept)

    @torch.inference_mode()
    def logits(self) -> Array:
        """What the network says of all rows now, (rows, categories)."""
        self.network.eval()
        found = np.empty((len(self.rows), self.network.head.out_features), np.float32)
        for part in by_length(self.lengths, tokens=TOKENS):
            ids, mask = (one.to(self.device) for one in pad([self.rows[i] for i in part]))
            with self.of(part), mixed_precision(self.device, self.precision):
                found[part] = self.network(ids, mask).cpu().numpy()
        return found

    def _filled(
        self, network: Network, rows: Sequence[Sequence[int]], precision: str, path: Path, like: Tensor
    ) -> Tensor:
        """States of all rows, end to end, in a file."""
        _make_room(path, self.starts[-1], like)
        found = _mapped(path, self.starts[-1], like)
        parts = list(by_length(self.lengths, tokens=TOKENS))
        for part in track(parts, "frozen layers", console=Console(stderr=True), transient=True):
            states = self._computed(network, [rows[i] for i in part], precision)
            for i, one in zip(part, states, strict=True):
                found[self.starts[i] : self.starts[i + 1]] = one[: self.lengths[i]]
        return found

    def _digest(self, network: Network, rows: Sequence[Sequence[int]], precision: str) -> str:
        """Of all that decides the states: the weights they pass through, the rows, the precision."""
        digest = hashlib.sha256(json.dumps([precision, self.depth, list(rows)]).encode())
        upper = {id(p) for layer in list(self.layers)[self.depth :] for p in layer.parameters()}
        for name, weight in network.base.named_parameters():
            if id(weight) not in upper:
                digest.update(name.encode())
                digest.update(weight.detach().contiguous().view(torch.uint8).cpu().numpy().data)
        return digest.hexdigest()[:24]

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


def _make_room(path: Path, tokens: int, like: Tensor) -> None:
    size = tokens * like.shape[-1] * like.element_size()
    if size + SPARE > shutil.disk_usage(path.parent).free:
        raise TrainingError(
            f"{path.parent} has no room for {size / 1e9:.1f} GB of hidden states: free some, or adapt all layers"
            " (student.lora.layers: null)"
        )
    with path.open("r+b") as file:
        file.truncate(size)


def _mapped(path: Path, tokens: int, like: Tensor) -> Tensor:
    """(tokens, width) of a file of that size; `like` has its width and type."""
    flat = torch.from_file(str(path), shared=True, size=tokens * like.shape[-1], dtype=like.dtype)
    return flat.view(tokens, like.shape[-1])
