"""Reads multilingual-e5-small out of its compact `E5S1` file and writes a transformers folder.

Layout, little-endian: magic, version; sizes of the model; a SentencePiece unigram tokenizer; a directory of tensors,
each float32 or Q4_0 (blocks of 32 weights: a float16 scale and 16 bytes; byte j holds weight j in its low half and
weight j + 16 in its high half; value = (n - 8) * scale).
"""

from __future__ import annotations

import itertools
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tamis.errors import WeightsError

MAGIC = b"E5S1"
Tensors = dict[str, npt.NDArray[np.float32]]

SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
)
LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
EMBEDDING_NAMES = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


@dataclass(frozen=True)
class E5File:
    """What the file holds: sizes, (piece, score) pairs in id order, and tensors under transformers names."""

    sizes: dict[str, int]
    eps: float
    pieces: list[tuple[str, float]]
    unknown: int
    tensors: Tensors


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> tuple[int | float, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def integers(self, count: int, kind: str = "i") -> list[int]:
        return [int(value) for value in self.take(f"{count}{kind}")]

    def raw(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]


def read_e5(path: Path) -> E5File:
    """Parse an `E5S1` file.

    Raises:
        WeightsError: another format, or a truncated file.
    """
    data = path.read_bytes()
    if data[:4] != MAGIC:
        raise WeightsError(f"{path} does not start with {MAGIC.decode()}: it is not an e5 weight file, fetch it again")
    try:
        return _parse(_Reader(data))
    except (struct.error, ValueError) as error:
        raise WeightsError(f"{path} is truncated ({len(data)} bytes): delete it and fetch it again") from error


def _parse(reader: _Reader) -> E5File:
    reader.raw(8)
    sizes = dict(zip(SIZES, reader.integers(7), strict=True))
    eps, _block = reader.take("fi")
    pieces, unknown = _pieces(reader)
    entries, extra = reader.integers(1)[0], reader.integers(1, "I")[0]
    # The normalisation map's entries are pairs of 32-bit numbers; the tokenizer below uses NFKC itself instead.
    tensors = _tensors(_find_directory(reader, entries, extra))
    return E5File(sizes, float(eps), pieces, unknown, tensors)


def _pieces(reader: _Reader) -> tuple[list[tuple[str, float]], int]:
    count, _bos, _eos, _pad, unknown = reader.integers(5)
    size = int(reader.take("Q")[0])
    offsets = np.frombuffer(reader.raw(4 * (count + 1)), dtype="<u4")
    scores = np.frombuffer(reader.raw(4 * count), dtype="<f4")
    text = reader.raw(size)
    pieces = [text[start:end].decode("utf-8", "replace") for start, end in itertools.pairwise(offsets)]
    return list(zip(pieces, scores.tolist(), strict=True)), unknown


def _find_directory(reader: _Reader, entries: int, extra: int) -> _Reader:
    """Skip the normalisation map, whose length depends on its packing, to the directory's first known name."""
    first = re.compile(rb"(?s)(.{4})\x08\x00emb\.word").search(reader.data, reader.at)
    if not first:
        raise ValueError(f"no tensor directory behind {entries} map entries and {extra} bytes")
    reader.at = first.start()
    return reader


def _tensors(reader: _Reader) -> Tensors:
    tensors: Tensors = {}
    for _ in range(reader.integers(1)[0]):
        name = reader.raw(reader.integers(1, "H")[0]).decode()
        kind = reader.raw(1)[0]
        elements = reader.integers(1, "I")[0]
        offset, size = reader.integers(2, "Q")
        block = reader.data[offset : offset + size]
        if len(block) != size:
            raise ValueError(f"{name} ends early")
        values = np.frombuffer(block, dtype="<f4") if kind == 0 else _q4_0(block)
        tensors[_transformers_name(name)] = values[:elements]
    return tensors


def _q4_0(block: bytes) -> npt.NDArray[np.float32]:
    rows = np.frombuffer(block, dtype=np.uint8).reshape(-1, 18)
    scale = rows[:, :2].copy().view("<f2").astype(np.float32)
    halves = np.concatenate([rows[:, 2:] & 0x0F, rows[:, 2:] >> 4], axis=1).astype(np.float32)
    return ((halves - 8) * scale).reshape(-1)


def _transformers_name(name: str) -> str:
    if name in EMBEDDING_NAMES:
        return EMBEDDING_NAMES[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{LAYER_NAMES[part]}.{'weight' if kind == 'w' else 'bias'}"


def write_folder(source: E5File, folder: Path) -> None:
    """Write config, bfloat16-exact float32 weights and tokenizer so that `from_pretrained(folder)` works."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(**source.sizes, layer_norm_eps=source.eps, pad_token_id=1, hidden_act="gelu")
    model = BertModel(config, add_pooling_layer=False)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = {name: torch.from_numpy(values.reshape(shapes[name]).copy()) for name, values in source.tensors.items()}
    model.load_state_dict(state, strict=True)
    model.save_pretrained(folder)
    _write_tokenizer(source, folder)


def _write_tokenizer(source: E5File, folder: Path) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(Unigram([*source.pieces, ("<mask>", 0.0)], unk_id=source.unknown))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "<pad>", "</s>", "<unk>")])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=512,
    ).save_pretrained(folder)
