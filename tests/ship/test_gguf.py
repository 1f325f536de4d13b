"""Decoders through llama.cpp: real tiny models of every family, in 16, 8 and 4 bits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from tests.ship.serving import serves_without_torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)

from tamis.config import StudentConfig
from tamis.errors import BundleError
from tamis.learn.score import scorer_of
from tamis.learn.student import Student, build_student, merged
from tamis.network import Network, Pooling
from tamis.policy import Policy, load_policy
from tamis.records import Example
from tamis.ship.backends import BACKENDS, Backend, Parts, Quantize, logits_of, open_backend
from tamis.ship.bundle import BundleSpec, load_bundle, write_bundle
from tamis.ship.choose import export_bundle
from tamis.ship.gguf import WEIGHTS, interleaved
from tamis.ship.parity import ALL
from tamis.windows import padded

ROWS = [[5, 6, 7, 8, 9], [5, 6], [7], [200, 11, 300, 12], list(range(60))]
SIZES = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_implementation": "eager",
}
FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2Model, {}),
    "qwen3": (Qwen3Config, Qwen3Model, {"head_dim": 32}),
    "llama": (LlamaConfig, LlamaModel, {"attention_bias": True}),
    "mistral": (MistralConfig, MistralModel, {"head_dim": 32, "sliding_window": None}),
}
# Norm of the logits' error over that of the logits.
CLOSE: dict[Quantize, float] = {"none": 0.005, "int8": 0.05, "int4": 0.4}


def _network(family: str, pooling: Pooling, policy: Policy) -> Network:
    torch.manual_seed(0)
    config, kind, more = FAMILIES[family]
    network = Network(kind(config(**SIZES, **more)), len(policy.ids), pooling, policy.kind)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            # Weights large enough, and norms apart enough, that a mistake in any of them shows.
            weight.uniform_(0.5, 1.5) if "norm" in name else weight.normal_(std=0.15)
    return network.eval()


def _written(network: Network, quantize: Quantize, policy: Policy, folder: Path) -> Backend:
    folder.mkdir()
    BACKENDS["gguf"].write[quantize](Parts(lambda _whole: network), folder)
    return open_backend("gguf", folder, network.pooling, policy, 64)


def _alone(network: Network) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([network(*map(torch.from_numpy, padded([row]))).numpy() for row in ROWS])


@pytest.mark.parametrize("family", FAMILIES)
def test_pitfall_12_every_family_alone_in_a_batch_and_padded(family: str, small_policy: Policy, tmp_path: Path) -> None:
    network = _network(family, "last", small_policy)
    wanted = _alone(network)
    assert np.linalg.norm(wanted - wanted.mean(0)) > 0.5 * np.linalg.norm(wanted)
    sizes = []
    for quantize, limit in CLOSE.items():
        backend = _written(network, quantize, small_policy, tmp_path / quantize)
        ids, mask = padded(ROWS)
        left = np.pad(ids, ((0, 0), (7, 0))), np.pad(mask, ((0, 0), (7, 0)))
        for found in (backend.logits(ids, mask), backend.logits(*left), logits_of(backend, ROWS, tokens=6)):
            assert found.dtype == np.float32
            assert np.linalg.norm(found - wanted) < limit * np.linalg.norm(wanted), quantize
        sizes.append((tmp_path / quantize / WEIGHTS).stat().st_size)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_other_poolings(pooling: Pooling, small_policy: Policy, tmp_path: Path) -> None:
    network = _network("qwen2", pooling, small_policy)
    wanted = _alone(network)
    found = _written(network, "none", small_policy, tmp_path / "b").logits(*padded(ROWS))
    assert np.linalg.norm(found - wanted) < 0.005 * np.linalg.norm(wanted)


def test_levels(tmp_path: Path) -> None:
    policy = load_policy("severity")
    network = _network("qwen2", "last", policy)
    found = _written(network, "none", policy, tmp_path / "b").logits(*padded(ROWS))
    np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found, _alone(network), atol=0.02)


def test_halves_come_to_lie_beside_each_other() -> None:
    # Two heads of width 4: rows 0 and 2 of a head are a pair, and so are 1 and 3.
    assert interleaved(np.arange(8, dtype=np.float32), 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_matrices_are_rounded_and_vectors_are_not(small_policy: Policy, tmp_path: Path) -> None:
    _written(_network("qwen2", "last", small_policy), "int4", small_policy, tmp_path / "b")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "b" / WEIGHTS).tensors}
    assert (kinds["blk.0.attn_q.weight"], kinds["blk.1.ffn_down.weight"]) == ("Q4_0", "Q4_0")
    assert (kinds["token_embd.weight"], kinds["output_norm.weight"]) == ("Q8_0", "F32")


@pytest.fixture(scope="module")
def student(tiny_qwen: Path, small_policy: Policy) -> Student:
    settings = {"model": str(tiny_qwen), "max_tokens": 24, "pretrained_dtype": "float32", "lora": {"rank": 4}}
    made = build_student(StudentConfig.model_validate(settings), small_policy)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in made.network.named_parameters():
            if "lora_B" in name or name == "head.weight":
                weight.normal_(std=0.1)
    return made


def test_a_decoder_is_exported_through_the_gate_and_served_without_torch(
    student: Student, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    parts = Parts(lambda whole: merged(student, whole=whole).network)

    def write(backend: str, quantize: Quantize, folder: Path) -> Path:
        named = {"backend": backend, "quantize": quantize}
        spec = BundleSpec.of(student.network.pooling, student.encoder, student.policy, **named)
        return write_bundle(parts, student.encoder, student.policy, spec, ["aa"], folder)

    parity = export_bundle(write, [("gguf", "int8")], scorer_of(student), examples, tmp_path / "bundle")
    assert parity[ALL].clear_flips <= 1
    moderator = load_bundle(tmp_path / "bundle")
    texts = ["今天天气很好", "", "日入上千私我" * 60, "a\0b\ud800"]
    for scores, wanted in zip(moderator.score(texts), scorer_of(student)(texts), strict=True):
        assert scores.risk == pytest.approx(wanted.risk, abs=0.02)
    serves_without_torch(tmp_path / "bundle")


def test_a_damaged_file_is_one_sentence(small_policy: Policy, tmp_path: Path) -> None:
    network = _network("qwen2", "last", small_policy)
    _written(network, "none", small_policy, tmp_path / "b")
    path = tmp_path / "b" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(BundleError, match=r"llama\.cpp cannot load .*model\.gguf: export the bundle again"):
        open_backend("gguf", tmp_path / "b", "last", small_policy, 64)


def test_a_window_that_is_too_long_is_an_error_not_an_answer(small_policy: Policy, tmp_path: Path) -> None:
    backend = _written(_network("qwen2", "last", small_policy), "none", small_policy, tmp_path / "b")
    with pytest.raises(BundleError, match="gave no states of 1 windows"):
        backend.logits(*padded([[1] * 600]))


def test_several_threads_get_their_own_answers(small_policy: Policy, tmp_path: Path) -> None:
    backend = _written(_network("qwen2", "last", small_policy), "none", small_policy, tmp_path / "b")
    wanted = [backend.logits(*padded([row])) for row in ROWS]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: backend.logits(*padded([row])), ROWS * 8))
    for one, other in zip(found, wanted * 8, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_a_file_cannot_hold_is_refused(small_policy: Policy, tmp_path: Path) -> None:
    small = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    bert = Network(BertModel(BertConfig(**small), add_pooling_layer=False), 3, "mean")
    assert not BACKENDS["gguf"].suits(bert)
    with pytest.raises(BundleError, match=r"gguf serves decoders \(llama, .*\), the student is a bert: set"):
        BACKENDS["gguf"].write["none"](Parts(lambda _whole: bert), tmp_path)
    scaled = _network("llama", "last", small_policy)
    scaled.base.config.rope_parameters["rope_type"] = "linear"
    with pytest.raises(BundleError, match="gguf is not written for positions scaled by linear: set"):
        BACKENDS["gguf"].write["none"](Parts(lambda _whole: scaled), tmp_path)
    thin = _network("llama", "last", small_policy)
    thin.base.config.factored = {"layers.0.mlp.up_proj": 4}
    assert not BACKENDS["gguf"].suits(thin)
    with pytest.raises(BundleError, match="gguf is not written for factored layers: set"):
        BACKENDS["gguf"].write["none"](Parts(lambda _whole: thin), tmp_path)
