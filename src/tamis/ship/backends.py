"""What computes a bundle's logits: torch, ONNX Runtime, OpenVINO, llama.cpp, a shared base, or a server.

A backend turns padded ids and their mask into logits; template, windows and probabilities are those of `tamis.windows`
for all of them, as in training. Nothing here imports torch before a bundle that needs it is opened or written.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from tamis.errors import BundleError, MissingExtraError
from tamis.policy import Policy
from tamis.ship.gguf import GgufBackend, holds, write_gguf
from tamis.ship.graph import check_graph, exported, write_dynamic, write_float, write_weights
from tamis.ship.head import HEAD, Head, write_head
from tamis.ship.ort import OnnxBackend
from tamis.ship.remote import open_remote, write_remote
from tamis.windows import Array, Ids, by_length, padded

if TYPE_CHECKING:
    from tamis.config import RemoteConfig
    from tamis.network import Network, Pooling

Name = Literal["torch", "onnx", "openvino", "gguf", "adapter", "remote"]
Quantize = Literal["none", "int8", "int4"]
# Activations that share a scale. OpenVINO rounds none where the number does not divide a layer's width.
GROUP = 128


class Backend(Protocol):
    """Computes logits."""

    def logits(self, ids: Ids, mask: Ids) -> Array:
        """(batch, length) ids and mask, 1 for tokens and 0 for padding -> (batch, categories) in float32."""
        ...


class Parts:
    """What the bundles of one student are written from; each is made when it is first asked for, and once.

    Args:
        merge: makes the network as it is served, or with True all of it in float32.
        trained: the network as it was trained, adapters and base apart; without it the one that is served.
        base: name of the base.
        remote: the server that computes, where one does.
        rows: token ids of texts it was trained on, which show how large its activations become.
    """

    def __init__(
        self,
        merge: Callable[[bool], Network],
        trained: Network | None = None,
        base: str = "",
        remote: RemoteConfig | None = None,
        rows: Sequence[Sequence[int]] = (),
    ) -> None:
        self._merge, self.rows = merge, rows
        self._trained, self.base, self.remote = trained, base, remote

    @cached_property
    def network(self) -> Network:
        """The network as it is served by torch."""
        return self._merge(False)

    @property
    def trained(self) -> Network:
        """The network as it was trained."""
        return self._trained or self.network

    @cached_property
    def whole(self) -> Network:
        """The network in float32."""
        return self._merge(True)

    @cached_property
    def program(self) -> Any:
        """The float32 network as an ONNX program."""
        return exported(self.whole)


@dataclass(frozen=True)
class Kind:
    """One backend: the packages it needs, the extra that brings them, how its files are written and opened.

    `open` is given the bundle's folder, its pooling, policy and window length; `suits` says whether `auto` tries it.
    """

    needs: tuple[str, ...]
    extra: str
    write: dict[Quantize, Callable[[Parts, Path], None]]
    open: Callable[[Path, Pooling, Policy, int], Backend]
    suits: Callable[[Network], bool] = lambda _network: True


Open = Callable[[str, Path, "Pooling", Policy, int], Backend]
"""Makes the backend of a bundle, as `open_backend` does."""


def logits_of(backend: Backend, rows: Sequence[Sequence[int]], tokens: int = 4096) -> Array:
    """Logits of token rows in their order, (rows, categories); `tokens` padded tokens are computed at a time."""
    parts = list(by_length([len(row) for row in rows], tokens))
    found = [backend.logits(*padded([rows[i] for i in part])) for part in parts]
    order = np.argsort(np.concatenate(parts))
    return np.concatenate(found)[order]


def lanes_of(backend: Backend) -> int:
    """How many batches are best computed side by side: one a core where a core computes alone what it is given."""
    return backend.cores if isinstance(backend, OnnxBackend) else 1


def installed(name: str) -> bool:
    """Whether the packages of a backend are there."""
    return all(importlib.util.find_spec(package) for package in BACKENDS[name].needs)


def open_backend(name: str, folder: Path, pooling: Pooling, policy: Policy, max_tokens: int) -> Backend:
    """The backend of a bundle.

    Args:
        name: of the backend.
        folder: of the bundle.
        pooling: of its student.
        policy: of its student.
        max_tokens: tokens of the longest window.

    Raises:
        BundleError: a backend this version does not have, or files it must not read.
        RemoteError: a server computes whose key is not set.
        MissingExtraError: its packages are not installed.
    """
    return kind_of(name, folder).open(folder, pooling, policy, max_tokens)


def kind_of(name: str, folder: Path) -> Kind:
    """The backend's entry, whose packages are there.

    Raises:
        BundleError: this version has none of that name.
        MissingExtraError: its packages are not installed.
    """
    if name not in BACKENDS:
        raise BundleError(f"{folder} is served by {name!r}, this version has {', '.join(BACKENDS)}: export it again")
    kind = BACKENDS[name]
    if not installed(name):
        needs = ", ".join(kind.needs)
        raise MissingExtraError(
            f"{folder} is served by {name}, which needs {needs}: run `pip install 'tamis[{kind.extra}]'`"
        )
    return kind


class TorchBackend:
    """The network itself, which can also show its hidden states."""

    def __init__(self, network: Network) -> None:
        self.network = network.eval()

    def logits(self, ids: Ids, mask: Ids) -> Array:
        """As `Backend` says."""
        import torch

        from tamis.network import mixed_precision

        device = self.network.head.weight.device
        with torch.inference_mode(), mixed_precision(device):
            found = self.network(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
        return found.float().cpu().numpy()


class OpenvinoBackend:
    """OpenVINO on the processor, in bfloat16 where it has that."""

    def __init__(self, path: Path) -> None:
        import openvino

        core = openvino.Core()
        fast = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP,
        }
        self._model = core.compile_model(path, "CPU", settings)

    def logits(self, ids: Ids, mask: Ids) -> Array:
        """As `Backend` says; safe in several threads, since each call has a request of its own."""
        return self._model.infer_new_request({"ids": ids, "mask": mask})["logits"]


def _write_torch(parts: Parts, folder: Path) -> None:
    parts.network.base.save_pretrained(folder / "model")  # type: ignore[operator]
    write_head(parts.network, folder)


def _open_torch(folder: Path, pooling: Pooling, policy: Policy, _max_tokens: int) -> Backend:
    import torch
    from safetensors.torch import load_file

    from tamis.network import Network, bfloat16_is_fast, load_base

    base = load_base(folder / "model", torch.bfloat16 if bfloat16_is_fast() else torch.float32)
    network = Network(base, len(policy.ids), pooling, policy.kind)
    network.head.load_state_dict(load_file(folder / HEAD))
    return TorchBackend(network)


def _open_gguf(folder: Path, pooling: Pooling, policy: Policy, max_tokens: int) -> Backend:
    return GgufBackend(folder, pooling, Head(folder / HEAD, policy), max_tokens)


def _write_adapter(parts: Parts, folder: Path) -> None:
    from tamis.ship.adapters import write_adapter

    write_adapter(parts.trained, parts.base, folder)


def _open_adapter(folder: Path, pooling: Pooling, policy: Policy, _max_tokens: int) -> Backend:
    from tamis.ship.adapters import open_adapter

    return open_adapter(folder, pooling, policy)


BACKENDS: dict[str, Kind] = {
    "torch": Kind(("torch", "transformers"), "train", {"none": _write_torch}, _open_torch),
    "onnx": Kind(
        ("onnx", "onnxruntime"),
        "serve",
        {
            "none": lambda parts, folder: write_float(parts.program, folder),
            "int8": lambda parts, folder: write_dynamic(parts.program, parts.rows, folder),
        },
        lambda folder, *_: OnnxBackend(check_graph(folder)),
    ),
    "openvino": Kind(
        ("onnx", "openvino"),
        "serve",
        {
            "none": lambda parts, folder: write_float(parts.program, folder),
            "int8": lambda parts, folder: write_weights(parts.program, folder),
        },
        lambda folder, *_: OpenvinoBackend(check_graph(folder)),
    ),
    "gguf": Kind(
        ("gguf", "xllamacpp"),
        "serve",
        {
            "none": lambda parts, folder: write_gguf(parts.whole, "F16", folder),
            "int8": lambda parts, folder: write_gguf(parts.whole, "Q8_0", folder),
            "int4": lambda parts, folder: write_gguf(parts.whole, "Q4_0", folder),
        },
        _open_gguf,
        suits=holds,
    ),
    # As fast as torch, for several students in the memory of one: a wish, not a measurement.
    "adapter": Kind(
        ("torch", "transformers", "peft"),
        "train",
        {"none": _write_adapter},
        _open_adapter,
        suits=lambda _network: False,
    ),
    "remote": Kind(
        ("httpx",),
        "serve",
        {"none": lambda parts, folder: write_remote(parts.network, parts.remote, folder)},
        lambda folder, _pooling, policy, _max_tokens: open_remote(folder, policy),
        suits=lambda _network: False,
    ),
}
"""Backends by the name that `export.backend` and a bundle's bundle.json give them."""
