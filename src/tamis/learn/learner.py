"""What is trained as one module: the network, and projections of its hidden states that training alone needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tamis.errors import TrainingError
from tamis.network import Network, layers_of, tapped


@dataclass(frozen=True)
class Seen:
    """What the student says of some rows.

    `logits` are (rows, categories), `state` is what the head reads, (rows, width), and `hidden` the state of each
    chosen layer, projected to the teacher's width.
    """

    logits: Tensor
    state: Tensor
    hidden: tuple[Tensor, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """Several parts of a batch as one."""
        hidden = zip(*(part.hidden for part in parts), strict=True)
        return cls(
            torch.cat([part.logits for part in parts]),
            torch.cat([part.state for part in parts]),
            tuple(map(torch.cat, hidden)),
        )

    @property
    def nothing(self) -> Tensor:
        """0 with a gradient of 0 to every weight, for workers and projections that have no part in a loss."""
        return sum((one.sum() * 0 for one in self.hidden), self.logits.sum() * 0)


class Learner(nn.Module):
    """The student's network with a learnt projection a chosen layer (FitNets), which is thrown away after training.

    Args:
        network: the student's.
        layers: student layers whose states are compared with the teacher's, counted from the top: -1 is the last.
        width: of the teacher's states.

    Raises:
        TrainingError: a layer the student does not have.
    """

    def __init__(self, network: Network, layers: Sequence[int] = (), width: int = 0) -> None:
        super().__init__()
        self.network = network
        self.layers = tuple(layers)
        depth = len(layers_of(network.base))
        for layer in layers:
            if not -depth <= layer <= -1:
                raise TrainingError(
                    f"objective.layers names layer {layer} of the student, which has {depth}: -1 is the last one"
                )
        self.projections = nn.ModuleList(nn.Linear(network.head.in_features, width, bias=False) for _ in layers)

    def forward(self, ids: Tensor, mask: Tensor) -> Seen:
        """Logits and states of (batch, length) ids and their mask."""
        states: list[Tensor] = []
        head = self.network.head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
        try:
            with tapped(self.network.base, self.layers) as hidden:
                logits = self.network(ids, mask)
        finally:
            head.remove()
        with torch.autocast(ids.device.type, enabled=False):
            projected = tuple(
                project(self.network.state(hidden[layer], mask))
                for layer, project in zip(self.layers, self.projections, strict=True)
            )
        return Seen(logits, states[0], projected)
