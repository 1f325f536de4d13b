"""Outliers of activations that are moved into weights: no product changes, and 8 bits lose less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tamis.ship.graph import GRAPH, write_dynamic
from tamis.ship.smoothing import magnitudes, multiplied, smooth

WIDTH, OUT = 16, 8
ROWS = [[n, n + 3, n + 5] for n in range(40)]


class Program:
    """Embeddings of which one channel is fifty times the others, and two matrices they are multiplied with."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.table = generator.normal(size=(64, WIDTH)).astype(np.float32)
        self.table[:, 3] *= 50
        self.one, self.other = generator.normal(size=(2, WIDTH, OUT)).astype(np.float32)
        held = {"table": self.table, "one": self.one, "other": self.other}
        nodes = [
            helper.make_node("Gather", ["table", "ids"], ["x"]),
            helper.make_node("MatMul", ["x", "one"], ["a"]),
            helper.make_node("MatMul", ["x", "other"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["logits"]),
            helper.make_node("Identity", ["mask"], ["kept"]),
        ]
        shape = ["batch", "length"]
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("ids", "mask")]
        outputs = [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*shape, OUT]),
            helper.make_tensor_value_info("kept", TensorProto.INT64, shape),
        ]
        initial = [numpy_helper.from_array(value, name) for name, value in held.items()]
        graph = helper.make_graph(nodes, "g", inputs, outputs, initial)
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    def save(self, path: Path, external_data: bool = True) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(self.model)  # What is saved outside of a model is gone from it.
        onnx.save_model(model, path, save_as_external_data=external_data, location=f"{path.name}.data")


def logits(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"ids": np.array(ROWS), "mask": np.ones((len(ROWS), 3), np.int64)})[0]


@pytest.fixture
def program() -> Program:
    return Program()


def test_channels_are_measured_and_moved_by_hand(program: Program, tmp_path: Path) -> None:
    program.save(tmp_path / GRAPH)
    seen = {n for row in ROWS for n in row}
    largest = magnitudes(tmp_path / GRAPH, ROWS)
    assert list(largest) == ["x"]
    assert largest["x"] == pytest.approx(np.abs(program.table[sorted(seen)]).max(0))
    before = logits(tmp_path / GRAPH)
    smooth(program.model.graph, largest)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in program.model.graph.initializer}
    rows = np.maximum(np.abs(program.one).max(1), np.abs(program.other).max(1))
    factor = largest["x"] ** 0.7 / rows**0.3
    assert held["x.factor"] == pytest.approx(1 / factor, rel=1e-5)
    assert held["one"] == pytest.approx(program.one * factor[:, None], rel=1e-5)
    assert {name: len(nodes) for name, nodes in multiplied(program.model.graph).items()} == {"x.smooth": 2}
    program.save(tmp_path / "smooth.onnx")
    assert logits(tmp_path / "smooth.onnx") == pytest.approx(before, rel=1e-4, abs=1e-3)


def test_a_matrix_that_several_activations_share_stays(program: Program, tmp_path: Path) -> None:
    graph = program.model.graph
    graph.node.insert(1, helper.make_node("Neg", ["x"], ["y"]))
    graph.node[3].input[0], graph.node[3].input[1] = "y", "one"
    assert multiplied(graph) == {}
    program.save(tmp_path / GRAPH)
    before = logits(tmp_path / GRAPH)
    smooth(graph, {})
    program.save(tmp_path / "same.onnx")
    assert (logits(tmp_path / "same.onnx") == before).all()


def test_8_bits_lose_less_where_outliers_were_moved(tmp_path: Path) -> None:
    errors = {}
    Program().save(tmp_path / "whole.onnx")
    wanted = logits(tmp_path / "whole.onnx")
    for name, rows in (("as they are", []), ("moved", ROWS)):
        made = Program()
        folder = tmp_path / name
        folder.mkdir()
        write_dynamic(WithModel(made), rows, folder)
        errors[name] = np.linalg.norm(logits(folder / GRAPH) - wanted) / np.linalg.norm(wanted)
    assert errors["moved"] < 0.6 * errors["as they are"]


class WithModel:
    """As `torch.onnx` gives a program: a model, and a way to save it."""

    def __init__(self, made: Program) -> None:
        self.model, self.save = _Model(made.model), made.save


class _Model:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.metadata_props: dict[str, str] = {}
        self.proto = model
