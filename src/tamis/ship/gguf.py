"""Decoders as GGUF files: written from the merged network, rounded to 8 or 4 bits, computed by llama.cpp.

llama.cpp gives the pooled state of the last layer; normalising and the head follow in numpy. Windows come as token ids,
so the file holds no vocabulary.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tamis.errors import BundleError, WeightsError, need
from tamis.models.gguf import check_gguf
from tamis.models.llama import calm, llama_cpp
from tamis.ship.head import Head, write_head
from tamis.windows import Array, Ids

if TYPE_CHECKING:
    from tamis.network import Network, Pooling

WEIGHTS = "model.gguf"
BLOCK = 32
"""Weights that share a scale; a matrix whose rows it does not divide stays in 16 bits."""

Precision = Literal["F16", "Q8_0", "Q4_0"]


@dataclass(frozen=True)
class Family:
    """How llama.cpp calls a kind of decoder, and whether it wants the halves of each rotated pair beside each other."""

    architecture: str
    interleaved: bool


# `llama-embed` computes what these three do and, unlike their own graphs, no scores of the whole vocabulary, which are
# several times the work of a small model's layers. Qwen3 normalises queries and keys, which only its own graph does.
FAMILIES = {
    "llama": Family("llama-embed", interleaved=True),
    "mistral": Family("llama-embed", interleaved=True),
    "qwen2": Family("llama-embed", interleaved=True),
    "qwen3": Family("qwen3", interleaved=False),
}
"""By `model_type` of transformers."""


def write_gguf(network: Network, precision: Precision, folder: Path) -> None:
    """Write model.gguf and the head.

    Matrices are rounded from float32 in blocks of 32 with a scale each: to 8 bits (Q8_0) or 4 (Q4_0, the table of
    embeddings to 8, which is looked up). Vectors stay in float32.

    Args:
        network: merged, in float32, on the processor.
        precision: of the matrices.
        folder: of the bundle.

    Raises:
        BundleError: no decoder, or one that these files cannot hold.
        MissingExtraError: gguf is not installed.
    """
    gguf = need("gguf", "serve")
    config: Any = network.base.config
    family = _family(config)
    writer = gguf.GGUFWriter(folder / WEIGHTS, family.architecture)
    _describe(writer, config)
    architectures = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(architectures[family.architecture], config.num_hidden_layers)
    for name, weight in _weights(network, family):
        kind = gguf.GGMLQuantizationType[_precision(name, weight, precision)]
        called = names.get_name(f"model.{name}", try_suffixes=(".weight", ".bias"))
        if called is None:
            raise BundleError(f"gguf has no place for the weights {name}: set export.backend to onnx or openvino")
        writer.add_tensor(called, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_head(network, folder)


def holds(network: Network) -> bool:
    """Whether a GGUF file can hold the network."""
    try:
        _family(network.base.config)
    except BundleError:
        return False
    return True


def _family(config: Any) -> Family:
    other = "set export.backend to onnx, openvino or torch"
    if config.model_type not in FAMILIES:
        raise BundleError(
            f"gguf serves decoders ({', '.join(FAMILIES)}), the student is a {config.model_type}: {other}"
        )
    rotation = config.rope_parameters["rope_type"]
    if rotation != "default" or getattr(config, "factored", None):
        what = "factored layers" if getattr(config, "factored", None) else f"positions scaled by {rotation}"
        raise BundleError(f"gguf is not written for {what}: {other}")
    return FAMILIES[config.model_type]


def _describe(writer: Any, config: Any) -> None:
    width = _head_width(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_causal_attention(True)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")


def _head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _weights(network: Network, family: Family) -> Iterator[tuple[str, Array]]:
    width = _head_width(network.base.config)
    for name, weight in network.base.state_dict().items():
        array: Array = weight.float().numpy()
        if family.interleaved and name.rpartition(".")[0].endswith(("q_proj", "k_proj")):
            array = interleaved(array, width)
        yield name, array


def interleaved(weight: Array, width: int) -> Array:
    """Rows of queries or keys, (heads * width, ...), with row i of each head's halves beside each other.

    transformers rotates row i with row i + width / 2, this kind of llama.cpp row 2 i with row 2 i + 1 (RoPE: Su et
    al., 2021, arXiv 2104.09864).
    """
    halves = weight.reshape(-1, 2, width // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _precision(name: str, weight: Array, wanted: Precision) -> str:
    if weight.ndim == 1:
        return "F32"
    if weight.shape[1] % BLOCK:
        return "F16"
    return "Q8_0" if wanted == "Q4_0" and name.startswith("embed_tokens") else wanted


class GgufBackend:
    """llama.cpp in this process, one window at a time: a window's tokens are work enough for all cores.

    Args:
        folder: of the bundle.
        pooling: which token speaks for the text, or the mean of all.
        head: of the bundle.
        max_tokens: tokens of the longest window.

    Raises:
        BundleError: the file is damaged, or llama.cpp does not know the model.
    """

    def __init__(self, folder: Path, pooling: Pooling, head: Head, max_tokens: int) -> None:
        path = folder / WEIGHTS
        self._head = head
        try:
            check_gguf(path)
            xllamacpp = llama_cpp("serve")
            self._server = xllamacpp.Server(_parameters(xllamacpp, path, pooling, max_tokens))
            # A server that is dropped before its loop has begun waits for it for ever.
            self._server.handle_embeddings({"input": [[0]], "embd_normalize": -1})
        except (WeightsError, RuntimeError, ValueError, OSError) as error:
            raise BundleError(f"llama.cpp cannot load {path}: export the bundle again") from error

    def logits(self, ids: Ids, mask: Ids) -> Array:
        """As `Backend` says."""
        rows = [row[held.astype(bool)].tolist() for row, held in zip(ids, mask, strict=True)]
        answer = self._server.handle_embeddings({"input": rows, "embd_normalize": -1})
        if "data" not in answer:
            raise BundleError(f"llama.cpp gave no states of {len(rows)} windows: export the bundle again")
        return self._head(np.array([one["embedding"] for one in answer["data"]], dtype=np.float32))


def _parameters(xllamacpp: Any, path: Path, pooling: Pooling, max_tokens: int) -> Any:
    kinds = xllamacpp.llama_pooling_type
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.embedding = True
    params.pooling_type = {
        "last": kinds.LLAMA_POOLING_TYPE_LAST,
        "mean": kinds.LLAMA_POOLING_TYPE_MEAN,
        "first": kinds.LLAMA_POOLING_TYPE_CLS,
    }[pooling]
    params.n_parallel = 1
    # A window is computed in one go or not at all.
    params.n_ctx = params.n_batch = params.n_ubatch = max_tokens
    params.warmup = False
    # It also listens on loopback, where nobody else has a business with it.
    params.api_keys = [secrets.token_hex()]
    calm(params)
    return params
