"""The network as one ONNX file: exported in float32, rounded to 8 bits, and checked before it is opened."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.errors import BundleError, need
from tamis.ship.smoothing import magnitudes, smooth

if TYPE_CHECKING:
    from tamis.network import Network

GRAPH = "model.onnx"
DATA = GRAPH + ".data"
OPSET = 20
STANDARD = {"", "ai.onnx"}
SYMMETRIC = 127


def exported(network: Network) -> Any:
    """The whole network as a `torch.onnx.ONNXProgram`: base, pooling, layer norm and head.

    Inputs are `ids` and `mask`, both int64 (batch, length), the output is `logits`, float32 (batch, categories); batch
    and length are dynamic. Positions are counted in the graph, so padding changes nothing there either.

    Args:
        network: on the processor, merged and in float32.

    Raises:
        MissingExtraError: onnxscript is not installed.
    """
    import torch

    need("onnxscript", "train")
    network.base.set_attn_implementation("eager")  # type: ignore[operator]
    ids = torch.tensor([[0, 1, 2], [0, 1, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    free = torch.export.Dim.DYNAMIC
    # It warns of operators of packages that are not installed and of none that is used here.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    return torch.onnx.export(
        network.eval(),
        (ids, mask),
        input_names=["ids", "mask"],
        output_names=["logits"],
        # Both inputs have one shape; named twice, its axes are warned about.
        dynamic_shapes={"ids": {0: "batch", 1: "length"}, "mask": {0: free, 1: free}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )


def write_float(program: Any, folder: Path) -> None:
    """Write model.onnx with its weights beside it, in float32."""
    program.save(folder / GRAPH, external_data=True)


def write_dynamic(program: Any, rows: Sequence[Sequence[int]], folder: Path) -> None:
    """8 bits as ONNX Runtime computes in them: weights a channel each, activations as they come.

    Weights have 7 of the 8, so that two products fit the 16 bits in which processors without VNNI add them.
    Matrices that are multiplied alone: a table of embeddings is looked up, which no rounding makes faster.

    Args:
        program: as `exported` makes it.
        rows: token ids of some texts, which show where activations have outliers; without any these stay.
        folder: where model.onnx goes.
    """
    onnx = need("onnx", "serve")
    need("onnxruntime", "serve")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It warns of files that were not folded and optimised first; the exporter has done that.
    program.model.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"

    def quantise(source: Path) -> None:
        if rows:
            model, largest = onnx.load(source), magnitudes(source, rows)
            smooth(model.graph, largest)
            source = source.with_name("smooth.onnx")
            onnx.save_model(model, source, save_as_external_data=True, location=f"{source.name}.data")
        quantize_dynamic(
            source,
            folder / GRAPH,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )

    _from_scratch(program, quantise)


def write_weights(program: Any, folder: Path) -> None:
    """8 bits as OpenVINO computes in them: weights stored rounded, a scale an output channel.

    w = q * s with s = max|w| / 127 over the channel. OpenVINO rounds activations itself where it multiplies by such
    weights; what ONNX Runtime's form asks of it, it computes slower than float32.
    """
    onnx = need("onnx", "serve")

    def quantise(source: Path) -> None:
        model = onnx.load(source)
        _round_weights(model.graph, onnx)
        onnx.save_model(model, folder / GRAPH, save_as_external_data=True, location=DATA)

    _from_scratch(program, quantise)


def rounded(weight: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Eight-bit weights and the scale of each output channel: (inputs, outputs) -> int8 of that shape, (outputs,)."""
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / SYMMETRIC, 1).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


def _round_weights(graph: Any, onnx: Any) -> None:
    held = {tensor.name: tensor for tensor in graph.initializer}
    multiplied = sorted({n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in held})
    for name in multiplied:
        whole, scale = rounded(onnx.numpy_helper.to_array(held[name]))
        graph.initializer.remove(held[name])
        parts = {f"{name}.rounded": whole, f"{name}.scale": scale}
        graph.initializer.extend(onnx.numpy_helper.from_array(array, part) for part, array in parts.items())
        graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", [*parts], [name], axis=1))


def _from_scratch(program: Any, quantise: Callable[[Path], None]) -> None:
    """Quantise from a float32 file that is gone afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        write_float(program, Path(scratch))
        quantise(Path(scratch) / GRAPH)


def check_graph(folder: Path) -> Path:
    """Path of a bundle's model.onnx, which computes with standard operators and reads no other file than its own.

    Raises:
        BundleError: it is damaged, has operators of its own, or its weights lie in a file that is not the bundle's.
    """
    onnx = need("onnx", "serve")
    from google.protobuf.message import DecodeError

    path = folder / GRAPH
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, ValueError, DecodeError) as error:
        raise BundleError(f"{path} cannot be read: export the bundle again") from error
    for graph in (*_graphs(model.graph), *model.functions):
        for node in graph.node:
            if node.domain not in STANDARD:
                raise BundleError(f"{path} has the operator {node.domain}.{node.op_type}: custom operators are refused")
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value != DATA:
                raise BundleError(
                    f"{path} keeps weights in {entry.value}, wanted {DATA} alone: do not trust its source"
                )
    return path


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and all that lie inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graphs(inner)


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor a model holds, those inside nodes and functions too."""
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for graph in (*_graphs(model.graph), *model.functions):
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
