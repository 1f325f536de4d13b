"""Every backend on real tiny models: an encoder and a decoder, whole, factored, and in 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed
from tests.ship.serving import serves_without_torch

import tamis
from tamis.config import StudentConfig
from tamis.errors import BundleError
from tamis.learn.score import scorer_of
from tamis.learn.student import Student, build_student, merged
from tamis.network import Network, first_position
from tamis.policy import Policy, load_policy
from tamis.ship.backends import BACKENDS, GROUP, Name, Parts, Quantize, logits_of, open_backend
from tamis.ship.bundle import BundleSpec, load_bundle, write_bundle
from tamis.ship.graph import DATA, GRAPH, check_graph, rounded
from tamis.windows import padded

# The others have modules of their own: gguf takes decoders, adapter and remote need what is not in the bundle.
ALIKE = ("torch", "onnx", "openvino")
EVERY = [(name, quantize) for name in ALIKE for quantize in BACKENDS[name].write]
# Norm of the logits' error over that of the logits: in float32, and in 8 bits or bfloat16, which keeps as many.
CLOSE = {("onnx", "none"): 1e-5}
ROUGH = 0.07
ROWS = [[5, 6, 7, 8, 9], [5, 6], [7], [200, 11, 300, 12]]
TEXTS = ["今天天气很好", "注册就送彩金", "easy money no fee", "", "日入上千私我" * 60, "a\0b\ud800"]


def _student(folder: Path, policy: Policy, mode: str) -> Student:
    settings = {"model": str(folder), "mode": mode, "max_tokens": 24, "pretrained_dtype": "float32"}
    made = build_student(StudentConfig.model_validate(settings | {"lora": {"rank": 4}}), policy)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in made.network.named_parameters():
            if "lora_B" in name or name == "head.weight":
                weight.normal_(std=0.1)
    return made


@pytest.fixture(scope="module", params=[("tiny_qwen", "lora"), ("tiny_bert", "lora"), ("tiny_bert", "pclora")], ids=str)
def student(request: pytest.FixtureRequest, small_policy: Policy) -> Student:
    base, mode = request.param
    return _student(request.getfixturevalue(base), small_policy, mode)


@pytest.fixture(scope="module")
def encoder_student(tiny_bert: Path, small_policy: Policy) -> Student:
    return _student(tiny_bert, small_policy, "lora")


def _parts(student: Student) -> Parts:
    return Parts(lambda whole: merged(student, whole=whole).network)


@pytest.fixture(scope="module")
def parts(student: Student) -> Parts:
    return _parts(student)


Write = Callable[[Name, Quantize], Path]


def _writer(student: Student, parts: Parts, folder: Path) -> Write:
    def write(backend: Name, quantize: Quantize) -> Path:
        spec = BundleSpec.of(
            student.network.pooling, student.encoder, student.policy, backend=backend, quantize=quantize
        )
        return write_bundle(parts, student.encoder, student.policy, spec, ["aa"], folder / f"{backend}-{quantize}")

    return write


@pytest.fixture(scope="module")
def write(encoder_student: Student, tmp_path_factory: pytest.TempPathFactory) -> Write:
    return _writer(encoder_student, _parts(encoder_student), tmp_path_factory.mktemp("bundles"))


def test_pitfall_12_alone_in_a_batch_and_padded_are_the_same(student: Student, parts: Parts, tmp_path: Path) -> None:
    with torch.inference_mode():
        network = merged(student, whole=True).network
        wanted = np.concatenate([network(*map(torch.from_numpy, padded([row]))).numpy() for row in ROWS])
    assert np.linalg.norm(wanted - wanted.mean(0)) > 4 * ROUGH * np.linalg.norm(wanted)
    ids, mask = padded(ROWS)
    wide = np.pad(ids, ((0, 0), (0, 7))), np.pad(mask, ((0, 0), (0, 7)))
    left = np.pad(ids, ((0, 0), (7, 0))), np.pad(mask, ((0, 0), (7, 0)))
    for name, quantize in EVERY:
        folder = tmp_path / name / quantize
        folder.mkdir(parents=True)
        BACKENDS[name].write[quantize](parts, folder)
        backend = open_backend(name, folder, student.network.pooling, student.policy, 64)
        found = {
            "alone": np.concatenate([backend.logits(*padded([row])) for row in ROWS]),
            "batch": backend.logits(ids, mask),
            "padded": backend.logits(*wide),
            "left": backend.logits(*left),
            "in order": logits_of(backend, ROWS, tokens=6),
        }
        for how, logits in found.items():
            assert logits.dtype == np.float32
            error = np.linalg.norm(logits - wanted) / np.linalg.norm(wanted)
            assert error < CLOSE.get((name, quantize), ROUGH), f"{name} {quantize} {how}"


def test_rounded_weights_overflow_no_16_bits(parts: Parts, tmp_path: Path) -> None:
    """Two products with activations of up to 255 are added in 16 signed bits where a processor has no VNNI."""
    BACKENDS["onnx"].write["int8"](parts, tmp_path)
    graph = onnx.load(tmp_path / GRAPH).graph
    weights = [onnx.numpy_helper.to_array(one) for one in graph.initializer if one.data_type == onnx.TensorProto.INT8]
    matrices = [one.astype(int) for one in weights if one.ndim == 2]
    assert matrices
    assert max(abs(one).max() for one in matrices) == 64


def test_positions_behind_a_padding_id_and_the_first_token(small_policy: Policy, tmp_path: Path) -> None:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=400,
        hidden_size=GROUP,
        intermediate_size=2 * GROUP,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=1,
        attn_implementation="eager",
    )
    network = Network(XLMRobertaModel(config, add_pooling_layer=False), 3, "first").eval()
    torch.nn.init.normal_(network.head.weight)
    assert first_position(network.base) == 2
    with torch.inference_mode():
        wanted = np.concatenate([network(*map(torch.from_numpy, padded([row]))).numpy() for row in ROWS])
    parts = Parts(lambda _whole: network)
    # So wide that OpenVINO rounds activations too.
    for name, quantize, limit in (("onnx", "none", CLOSE["onnx", "none"]), ("openvino", "int8", ROUGH)):
        folder = tmp_path / name
        folder.mkdir()
        BACKENDS[name].write[quantize](parts, folder)
        found = open_backend(name, folder, "first", small_policy, 64).logits(*padded(ROWS))
        assert np.linalg.norm(found - wanted) < limit * np.linalg.norm(wanted), name


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_levels_keep_their_order_without_torch(name: str, tiny_bert: Path, tmp_path: Path) -> None:
    policy = load_policy("severity")
    made = build_student(StudentConfig(model=str(tiny_bert), max_tokens=24, pretrained_dtype="float32"), policy)
    with torch.no_grad():
        made.network.head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    network = merged(made, whole=True).network
    BACKENDS[name].write["none"](Parts(lambda _whole: network), tmp_path)
    backend = open_backend(name, tmp_path, network.pooling, policy, 64)
    with torch.inference_mode():
        wanted = np.concatenate([network(*map(torch.from_numpy, padded([row]))).numpy() for row in ROWS])
    assert wanted.shape[1] == 4
    np.testing.assert_allclose(backend.logits(*padded(ROWS)), wanted, atol=0.05 if name == "openvino" else 1e-4)


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
def test_however_many_cores_there_are_every_row_gets_its_own_logits(
    cores: int, parts: Parts, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tamis.ship.ort.cores", lambda: cores)
    BACKENDS["onnx"].write["none"](parts, tmp_path)
    backend = open_backend("onnx", tmp_path, student.network.pooling, student.policy, 64)
    rows = [[1 + i % 7] * (1 + i % 5) for i in range(11)]
    alone = np.concatenate([backend.logits(*padded([row])) for row in rows])
    for count in range(1, len(rows) + 1):
        np.testing.assert_allclose(backend.logits(*padded(rows[:count])), alone[:count], atol=1e-5)
    with ThreadPoolExecutor(5) as pool:
        at_once = list(pool.map(lambda row: backend.logits(*padded([row, row])), rows * 3))
    np.testing.assert_allclose(np.stack(at_once)[:, 1], np.concatenate([alone] * 3), atol=1e-5)


def test_rounding_by_hand() -> None:
    whole, scale = rounded(np.array([[127.0, -1.0, 0.0], [-64.0, 0.5, 0.0]], dtype=np.float32))
    # A channel is a column: the largest of each is 127 steps, and one of zeros stays zero.
    assert whole.tolist() == [[127, -127, 0], [-64, 64, 0]]
    assert scale == pytest.approx([1, 1 / 127, 1])


@pytest.mark.parametrize(("backend", "quantize"), EVERY)
def test_a_bundle_of_any_backend_decides_as_the_student(
    backend: Name, quantize: Quantize, write: Write, encoder_student: Student
) -> None:
    moderator = load_bundle(write(backend, quantize))
    assert (moderator.spec.backend, moderator.spec.quantize) == (backend, quantize)
    assert moderator.trained_on == {"aa"}
    assert moderator([]) == []
    for decision, scores in zip(moderator(TEXTS), scorer_of(encoder_student)(TEXTS), strict=True):
        assert decision.risk == pytest.approx(scores.risk, abs=0.05)


def test_weights_are_in_a_bundle_once_and_smaller_in_8_bits(write: Write) -> None:
    whole, small = write("onnx", "none"), write("openvino", "int8")
    assert not (whole / "model").exists()
    assert not (whole / "head.safetensors").exists()
    assert {path.name for path in whole.glob("model.onnx*")} == {GRAPH, DATA}
    assert (small / DATA).stat().st_size < 0.8 * (whole / DATA).stat().st_size
    (whole / DATA).write_bytes((whole / DATA).read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"model\.onnx\.data is missing or its sha256 differs"):
        load_bundle(whole)


def test_the_two_axes_of_a_graph_can_be_fixed(write: Write, tmp_path: Path) -> None:
    path = write("onnx", "none") / GRAPH
    model = onnx.load(path)
    assert [[axis.dim_param for axis in one.type.tensor_type.shape.dim] for one in model.graph.input] == [
        ["batch", "length"]
    ] * 2
    for axis, size in {"batch": 4, "length": 5}.items():
        make_dim_param_fixed(model.graph, axis, size)
    onnx.save(model, tmp_path / "static.onnx")
    static, inputs = onnxruntime.InferenceSession(tmp_path / "static.onnx"), padded(ROWS)
    assert [one.shape for one in static.get_inputs()] == [[4, 5]] * 2
    wanted = onnxruntime.InferenceSession(path).run(None, dict(zip(("ids", "mask"), inputs, strict=True)))[0]
    found = static.run(None, dict(zip(("ids", "mask"), inputs, strict=True)))[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_serving_imports_neither_torch_nor_transformers(backend: Name, write: Write) -> None:
    serves_without_torch(write(backend, "none"))


def test_states_need_torch(write: Write) -> None:
    shows, hides = tamis.load(write("torch", "none")), tamis.load(write("onnx", "none"))
    scores, states = shows.scores_and_states(TEXTS, [-1, -2])
    assert (len(scores), states.shape) == (len(TEXTS), (len(TEXTS), 2, 32))
    scores, states = hides.scores_and_states(TEXTS, [])
    assert (len(scores), len(states)) == (len(TEXTS), len(TEXTS))
    with pytest.raises(BundleError, match="served by onnx shows no hidden states: export it again with"):
        hides.scores_and_states(TEXTS, [-1])


def test_an_unknown_backend_is_refused(small_policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is served by 'abacus', this version has torch, onnx, openvino"):
        open_backend("abacus", tmp_path, "mean", small_policy, 64)


def _model(nodes: list[Any], weights: list[Any]) -> Any:
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1])
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [out], weights))


def _outside(location: str) -> Any:
    tensor = onnx.numpy_helper.from_array(np.zeros(1, np.float32), "logits")
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return tensor


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "other.data"])
@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_weights_elsewhere_are_refused(location: str, place: str, tmp_path: Path) -> None:
    tensor = _outside(location)
    constant = onnx.helper.make_node("Constant", [], ["logits"], value=tensor)
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1])
    branch = onnx.helper.make_graph([constant], "b", [], [out])
    chosen = onnx.helper.make_node("If", ["c"], ["logits"], then_branch=branch, else_branch=branch)
    nodes = {"initializer": [], "constant": [constant], "branch": [chosen]}[place]
    model = _model(nodes, [tensor] if place == "initializer" else [])
    (tmp_path / GRAPH).write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"keeps weights in .*, wanted model\.onnx\.data alone"):
        check_graph(tmp_path)


def test_custom_operators_are_refused(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Run", [], ["logits"], domain="evil")
    (tmp_path / GRAPH).write_bytes(_model([node], []).SerializeToString())
    with pytest.raises(BundleError, match=r"has the operator evil\.Run: custom operators are refused"):
        check_graph(tmp_path)


def test_a_damaged_graph_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / GRAPH).write_bytes(b"\xff\xff\xff")
    with pytest.raises(BundleError, match="cannot be read"):
        check_graph(tmp_path)
