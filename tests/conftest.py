"""Real parts for tests: a tokenizer trained here and tiny models of the real families, built from a seed."""

from __future__ import annotations

import os

# Spinning threads make a shared test machine ten times slower; this must come before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.teach.conftest import FakeEndpoint, running
from tests.tiny import write_recipe

from tamis.policy import Policy, load_policy
from tamis.records import Example, TeacherSignal, content_id

POSTGRES = os.environ.get("TAMIS_TEST_POSTGRES", "")
TEXTS = {
    "normal": ["今天天气很好", "the soup needs salt", "这本书值得读", "we met at noon", "地铁几点开", "nice garden"],
    "gambling": ["注册就送彩金", "best slots bonus", "上车带你回血", "casino first deposit", "大水稳台", "bet now win"],
    "fraud": [
        "日入上千私我",
        "easy money no fee",
        "收卡跑分日结",
        "guaranteed profit",
        "轻松月入过万",
        "send the code",
    ],
}


@pytest.fixture(scope="session")
def small_policy() -> Policy:
    """Three categories of the shipped policy."""
    return load_policy("default").only(list(TEXTS))


@pytest.fixture(scope="session")
def examples() -> tuple[Example, ...]:
    """Gold rows of three categories, told apart by a number so that there are enough of them."""
    made = []
    for label, texts in TEXTS.items():
        for i in range(8):
            for base in texts:
                text = f"{base} {i}" if i else base
                made.append(Example(content_id(text), text, "zh", "made", label=label))
    return tuple(made)


@pytest.fixture(scope="session")
def make_signal(small_policy: Policy) -> Callable[..., TeacherSignal]:
    """A teacher's signal for an example, by default sure of its label."""

    def make(example: Example, **changes: object) -> TeacherSignal:
        sure = {name: 0.9 if name == example.label else 0.05 for name in small_policy.ids}
        settings = {
            "example_id": example.id,
            "teacher": "made",
            "label_space": small_policy.label_space,
            "method": "logprobs",
            "outcome": "ok",
            "probabilities": sure,
            "known_mass": 1.0,
        }
        return TeacherSignal(**(settings | changes))

    return make


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a byte-level BPE tokenizer trained on the texts above, as Qwen's is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    made.train_from_iterator([text for texts in TEXTS.values() for text in texts], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    ends = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token=ends, eos_token=ends).save_pretrained(folder)
    return folder


def _with_tokenizer(folder: Path, tokenizer: Path) -> Path:
    for path in tokenizer.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A real Qwen2 of two layers, from a seed."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("qwen")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return _with_tokenizer(folder, tokenizer)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A real BERT encoder of two layers, from a seed."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    folder = tmp_path_factory.mktemp("bert")
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return _with_tokenizer(folder, tokenizer)


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    """A real HTTP server that answers as an OpenAI-compatible one does."""
    with running() as fake:
        yield fake


@pytest.fixture
def recipe(
    tmp_path: Path, tiny_qwen: Path, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Writes a tiny recipe, with other sections where they are given."""
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    return lambda **changes: write_recipe(tmp_path, tiny_qwen, endpoint.url, changes)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database: SQLite, and PostgreSQL where TAMIS_TEST_POSTGRES names one."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/deep/er/store.db"
        return
    if not POSTGRES:
        pytest.skip("TAMIS_TEST_POSTGRES holds no URL of a PostgreSQL server")
    _drop()
    yield POSTGRES
    _drop()


def _drop() -> None:
    from sqlalchemy import MetaData, create_engine

    engine = create_engine(POSTGRES.replace("postgresql://", "postgresql+psycopg://"))
    there = MetaData()
    there.reflect(engine)
    there.drop_all(engine)
    engine.dispose()
