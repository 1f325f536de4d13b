"""Where training stands, in one safetensors file: weights, optimiser moments and the state as its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tamis.errors import TrainingError
from tamis.learn.score import Quality

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class State:
    """Where training stands; saved with the weights, so a killed run goes on as if nothing had happened."""

    step: int = 0
    best: Quality | None = None
    stale: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write beside the place, then rename: a kill leaves the file of before or the new one, never half of it."""
    fresh = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, fresh, metadata)
    fresh.replace(path)


def save_progress(
    path: Path, weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, state: State
) -> None:
    """Keep the weights that are trained, what the optimiser remembers of each, and the state."""
    tensors = {name: weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        # A weight that no step has touched yet, for its stage is still to come, has no moments.
        tensors |= {f"{key}/{name}": optimizer.state[weight][key] for key in MOMENTS if weight in optimizer.state}
    save_tensors(tensors, path, {"state": json.dumps(asdict(state))})


def load_progress(path: Path, weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> State:
    """Put weights and moments in place and return the state.

    Raises:
        TrainingError: the file is of another student.
    """
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if {name for name in tensors if "/" not in name} != set(weights):
        raise TrainingError(f"{path} is of another student: remove the folder to train again")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[name])
            if f"step/{name}" in tensors:
                optimizer.state[weight] = {key: tensors[f"{key}/{name}"] for key in MOMENTS}
    best = state.pop("best")
    return State(best=Quality(**best) if best else None, **state)
