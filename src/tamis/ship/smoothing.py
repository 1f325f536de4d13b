"""Outliers moved from activations into weights before both are rounded to 8 bits.

A few channels of an activation are some ten times as large as the others, and one scale for all leaves these few
levels. Dividing a channel by a factor and multiplying its row of weights by the same changes no product (SmoothQuant:
Xiao et al., 2023, arXiv 2211.10438).
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.errors import need
from tamis.windows import padded

STRENGTH = 0.7
"""How much of the difference between channels moves into the weights; with 1 the activations would be even."""

LEAST = 1e-5
Floats = NDArray[np.float32]


def smooth(graph: Any, largest: Mapping[str, Floats]) -> None:
    """Put a division before the matrices that are multiplied with an activation, and its factors into their rows.

    Those that share an activation share its factors: s = a^0.7 / w^0.3, with a the largest of the channel and w the
    largest of its row in any of the matrices.

    Args:
        graph: of an ONNX model, which is changed.
        largest: of each activation the largest magnitude by channel, shape (inputs,), as `magnitudes` finds it.
    """
    onnx = need("onnx", "serve")
    held = {tensor.name: tensor for tensor in graph.initializer}
    for name, nodes in multiplied(graph).items():
        weights = {node.input[1]: onnx.numpy_helper.to_array(held[node.input[1]]) for node in nodes}
        rows = np.max([np.abs(weight).max(1) for weight in weights.values()], axis=0)
        factor = np.maximum(largest[name], LEAST) ** STRENGTH / np.maximum(rows, LEAST) ** (1 - STRENGTH)
        for key, weight in weights.items():
            held[key].CopyFrom(onnx.numpy_helper.from_array(weight * factor[:, None].astype(weight.dtype), key))
        graph.initializer.append(onnx.numpy_helper.from_array((1 / factor).astype(np.float32), f"{name}.factor"))
        place = list(graph.node).index(nodes[0])
        graph.node.insert(place, onnx.helper.make_node("Mul", [name, f"{name}.factor"], [f"{name}.smooth"]))
        for node in nodes:
            node.input[0] = f"{name}.smooth"


def magnitudes(path: Path, rows: Sequence[Sequence[int]]) -> dict[str, Floats]:
    """The largest magnitude of each channel of the activations that are multiplied with weights.

    Args:
        path: of a model.onnx with the inputs `ids` and `mask`, both (batch, length).
        rows: token ids of some texts, at least one.
    """
    onnx, runtime = need("onnx", "serve"), need("onnxruntime", "serve")
    model = onnx.load(path)
    names = list(multiplied(model.graph))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    largest: dict[str, Floats] = {}
    with tempfile.TemporaryDirectory() as folder:
        watched = Path(folder) / "watched.onnx"
        onnx.save_model(model, watched, save_as_external_data=True, location="weights")
        session = runtime.InferenceSession(watched, providers=["CPUExecutionProvider"])
        # One at a time: no padding is seen, and what one text makes fits the memory.
        for row in rows:
            ids, mask = padded([row])
            for name, found in zip(names, session.run(names, {"ids": ids, "mask": mask}), strict=True):
                seen = np.abs(found).reshape(-1, found.shape[-1]).max(0)
                largest[name] = np.maximum(largest.get(name, seen), seen)
    return largest


def multiplied(graph: Any) -> dict[str, list[Any]]:
    """The nodes that multiply an activation with a matrix of their own, by the name of the activation."""
    held = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    uses = Counter(name for node in graph.node for name in node.input)
    found = defaultdict(list)
    for node in graph.node:
        # A matrix that several layers share would need the factors of all of them.
        if node.op_type == "MatMul" and node.input[1] in held and uses[node.input[1]] == 1:
            found[node.input[0]].append(node)
    return dict(found)
