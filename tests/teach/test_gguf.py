"""GGUF files as teachers: damaged ones are refused before llama.cpp can abort the process; a real one labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from tests.teach.conftest import example

from tamis.config import TeacherConfig
from tamis.errors import WeightsError
from tamis.policy import Policy
from tamis.store import Store
from tamis.teach import label, make_teacher
from tamis.teach.gguf import weights_hash


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.gguf"
    writer = GGUFWriter(path, "qwen2")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((64, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def teacher(path: Path, policy: Policy) -> object:
    return make_teacher(TeacherConfig(kind="gguf", model=str(path)), policy)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_one_sentence(whole: Path, policy: Policy, share: float) -> None:
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match=r"whole\.gguf .*fetch it again"):
        teacher(whole, policy)


def test_a_damaged_header_is_one_sentence(whole: Path, policy: Policy) -> None:
    data = bytearray(whole.read_bytes())
    data[8:24] = b"\xff" * 16
    whole.write_bytes(data)
    with pytest.raises(WeightsError, match=r"whole\.gguf .*fetch it again"):
        teacher(whole, policy)


def test_a_model_llama_cpp_cannot_load_is_one_sentence(whole: Path, policy: Policy, store: Store) -> None:
    config = TeacherConfig(kind="gguf", model=str(whole), prior_correction=False)
    with pytest.raises(WeightsError, match=r"llama.cpp cannot load .*whole\.gguf"):
        label([example("你好")], make_teacher(config, policy), store, config, policy)


def test_a_folder_without_a_gguf_file(tmp_path: Path, policy: Policy) -> None:
    with pytest.raises(WeightsError, match="holds 0 GGUF files"):
        teacher(tmp_path, policy)


def test_the_hash_is_of_both_ends_and_the_size(whole: Path) -> None:
    before = weights_hash(whole)
    data = bytearray(whole.read_bytes())
    data[-1] ^= 1
    whole.write_bytes(data)
    assert weights_hash(whole) != before


@pytest.mark.slow
def test_a_real_model_labels(policy: Policy, store: Store) -> None:
    path = os.environ.get("TAMIS_TEST_GGUF", "")
    if not path:
        pytest.skip("TAMIS_TEST_GGUF holds no path of a chat model")
    shots = {"kind": "fixed", "n": 6}
    gold = [example("葡京开户送彩金", "gambling"), example("明天几点开会", "normal"), example("你个废物", "abuse")]
    config = TeacherConfig.model_validate({"kind": "gguf", "model": path, "concurrency": 2, "few_shot": shots})
    rows = [example("澳门赌场在线注册"), example("今天下班去哪吃饭")]
    signals = label(rows, make_teacher(config, policy, gold, store), store, config, policy)
    assert all(signal.method == "logprobs" and signal.known_mass > 0.3 for signal in signals.values())
    first, second = (signals[row.id].probabilities for row in rows)
    assert first["gambling"] > second["gambling"]
