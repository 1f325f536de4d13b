from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tamis.errors import WeightsError
from tamis.models import resolve, template_of, training_folder
from tamis.models.e5 import _q4_0, read_e5, write_folder
from tamis.models.gguf import check_gguf


def q4_0(values: np.ndarray, scale: float) -> bytes:
    """One block as the format says: byte j holds weight j low and j + 16 high, offset by 8."""
    whole = (values / scale + 8).round().astype(np.uint8)
    return np.float16(scale).tobytes() + (whole[:16] | (whole[16:] << 4)).tobytes()


def test_q4_0_by_hand() -> None:
    values = (np.arange(32) % 16 - 8).astype(np.float32) * 0.5
    np.testing.assert_array_equal(_q4_0(q4_0(values, 0.5)), values)


def e5_file(path: Path, cut: int = 0) -> Path:
    """A whole E5S1 file of one tiny layer and four pieces."""
    width, ffn, vocab, positions = 8, 16, 5, 8
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁a"]
    text = "".join(pieces).encode()
    offsets = np.cumsum([0, *(len(piece.encode()) for piece in pieces)]).astype("<u4")
    head = b"E5S1" + struct.pack("<I7i", 1, width, 1, 2, ffn, vocab, positions, 2) + struct.pack("<fi", 1e-12, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(text)) + offsets.tobytes()
    head += np.zeros(len(pieces), "<f4").tobytes() + text + struct.pack("<iI", 0, 0)
    shapes = {"emb.word": vocab * width, "emb.pos": positions * width, "emb.type": 2 * width}
    shapes |= {"emb.ln.w": width, "emb.ln.b": width}
    for name, rows, columns in [
        *((n, width, width) for n in ("q", "k", "v", "ao")),
        ("fi", ffn, width),
        ("fo", width, ffn),
    ]:
        shapes |= {f"l0.{name}.w": rows * columns, f"l0.{name}.b": rows}
    shapes |= {f"l0.{name}.{kind}": width for name in ("aln", "oln") for kind in "wb"}
    directory_size = 4 + sum(2 + len(name) + 1 + 4 + 16 for name in shapes)
    at, directory, data = len(head) + directory_size, struct.pack("<i", len(shapes)), b""
    for i, (name, size) in enumerate(shapes.items()):
        directory += (
            struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", 0, size, at + len(data), 4 * size)
        )
        data += np.full(size, i / 100, "<f4").tobytes()
    whole = head + directory + data
    path.write_bytes(whole[: len(whole) - cut])
    return path


def test_an_e5_file_becomes_a_folder_transformers_can_read(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    write_folder(read_e5(e5_file(tmp_path / "w.e5s1")), tmp_path / "folder")
    model = AutoModel.from_pretrained(tmp_path / "folder")
    assert model.embeddings.word_embeddings.weight[0, 0].item() == 0.0
    assert model.encoder.layer[0].attention.self.query.weight[0, 0].item() == pytest.approx(0.05)
    assert AutoTokenizer.from_pretrained(tmp_path / "folder")("a")["input_ids"] == [0, 4, 2]


def test_a_truncated_e5_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="truncated"):
        read_e5(e5_file(tmp_path / "w.e5s1", cut=10))


def gguf_file(path: Path) -> Path:
    from gguf import GGUFWriter

    writer = GGUFWriter(str(path), "qwen2")
    writer.add_tensor("token_embd.weight", np.ones((64, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_sound_gguf_file_passes_and_a_truncated_one_does_not(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "w.gguf")
    check_gguf(path)
    whole = path.read_bytes()
    for size in (len(whole) - 4000, 30, 4):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match="truncated"):
            check_gguf(path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(WeightsError, match="does not start with GGUF"):
        check_gguf(tmp_path / "w.bin")
    with pytest.raises(WeightsError, match="neither a GGUF nor an e5"):
        training_folder(str(tmp_path / "w.bin"))


def test_names_resolve_to_folders_and_unknown_ones_to_a_sentence(
    tiny_qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve(str(tiny_qwen)) == tiny_qwen
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="no model 'nobody/nothing'"):
        resolve("nobody/nothing")


def test_the_catalogue_knows_how_its_models_want_a_text() -> None:
    assert template_of("multilingual-e5-small") == "query: {text}"
    assert template_of("some/folder") == "{text}"
