"""Transformers teachers: tiny real models built here, with a tokenizer trained here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.teach.conftest import ROWS, example
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tamis.config import TeacherConfig
from tamis.errors import ConfigError, DataError, WeightsError
from tamis.policy import Policy
from tamis.store import Store
from tamis.teach import label, make_teacher
from tamis.teach.features import FeatureFile, kept_states, live_states
from tamis.teach.local import CausalTeacher, label_columns
from tamis.teach.prior import content_free
from tamis.teach.prompt import Prompt
from tamis.teach.scoring import OptionScorer, common_prefix, left_padded
from tamis.teach.shots import FixedShots

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([row.text for row in ROWS] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, chat_template=TEMPLATE, **{"eos_token": "<|im_end|>", "pad_token": "<pad>"}
    )


@pytest.fixture(scope="module")
def tokens() -> PreTrainedTokenizerFast:
    return tokenizer()


@pytest.fixture(scope="module")
def model(tokens: Any) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
    )
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture
def prompt(policy: Policy) -> Prompt:
    shots = FixedShots([example("深夜福利", "pornography"), example("谢谢你", "normal")])
    return Prompt(policy, "zh", "words", shots)


@torch.inference_mode()
def fully(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities at every position of one row, alone, unpadded and without any cache."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)


def test_pitfall_3_shared_prefix_scoring_equals_full_scoring(model: Any, tokens: Any, prompt: Prompt) -> None:
    scorer = OptionScorer(model, tokens, layers=(-1,))
    # One-letter answers: their first tokens differ, one step decides.
    options = {name: letter for name, letter in zip(prompt.policy.ids, "ABCDEF", strict=True)}
    scored = scorer.score([prompt.messages(row) for row in ROWS], options)
    assert len(scorer._prefix) > 200, "system and shots are shared"
    for row, found in zip(ROWS, scored, strict=True):
        ids = tokens.encode(scorer.render(prompt.messages(row)))
        logprobs = fully(model, ids)[-1]
        for name, letter in options.items():
            assert found.probabilities[name] == pytest.approx(float(logprobs[tokens.encode(letter)[0]].exp()), abs=1e-4)
        with torch.inference_mode():
            hidden = model.model(torch.tensor([ids])).last_hidden_state[0, -1]
        normalised = torch.nn.functional.layer_norm(hidden.float(), hidden.shape)
        assert torch.allclose(found.states[0], normalised, atol=1e-2)


def test_pitfall_3_labels_that_begin_alike_are_scored_to_their_end(model: Any, tokens: Any, prompt: Prompt) -> None:
    scorer = OptionScorer(model, tokens)
    options = {"gambling": "gamble", "normal": "game", "fraud": "gam"}
    rows = ROWS[:3]
    scored = scorer.score([prompt.messages(row) for row in rows], options)
    end = tokens.eos_token_id
    for row, found in zip(rows, scored, strict=True):
        before = tokens.encode(scorer.render(prompt.messages(row)))
        for name, word in options.items():
            answer = [*tokens.encode(word), end]
            logprobs = fully(model, before + answer[:-1])[len(before) - 1 :]
            whole = float(logprobs[range(len(answer)), answer].sum().exp())
            assert found.probabilities[name] == pytest.approx(whole, rel=1e-3, abs=1e-9)
        assert sum(found.probabilities.values()) <= 1


def test_pitfall_10_answers_are_tokens_where_they_stand(model: Any, tokens: Any, prompt: Prompt) -> None:
    scorer = OptionScorer(model, tokens)
    before = scorer.render(prompt.messages(ROWS[0]))
    ids = scorer.answer_ids(before, "赌博")
    assert tokens.decode(ids) == "赌博"
    assert tokens.encode(before) + ids == tokens.encode(before + "赌博")


def test_a_batch_says_what_each_row_alone_says(model: Any, tokens: Any, prompt: Prompt) -> None:
    teacher = CausalTeacher(prompt, OptionScorer(model, tokens), "tiny@1")
    together = {signal.example_id: signal for signal in teacher.ask(ROWS)}
    for row in ROWS:
        alone = next(iter(CausalTeacher(prompt, OptionScorer(model, tokens), "tiny@1").ask([row])))
        assert dict(alone.probabilities) == pytest.approx(dict(together[row.id].probabilities), abs=1e-5)
        assert alone.method == "local_logits"
        assert alone.known_mass <= 1


def test_common_prefix_leaves_a_token_of_each_row() -> None:
    assert common_prefix([[1, 2, 3, 4], [1, 2, 5]]) == [1, 2]
    assert common_prefix([[1, 2], [1, 2]]) == [1]
    assert common_prefix([[1], [1, 2]]) == []
    ids, mask = left_padded([[5], [6, 7]])
    assert ids.tolist() == [[0, 5], [6, 7]]
    assert mask.tolist() == [[0, 1], [1, 1]]


@pytest.fixture(scope="module")
def folder(model: Any, tokens: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("causal")
    model.save_pretrained(place)
    tokens.save_pretrained(place)
    return place


def test_from_a_folder_with_features(folder: Path, policy: Policy, store: Store) -> None:
    config = TeacherConfig.model_validate(
        {"kind": "transformers", "model": str(folder), "features": [-1, -2], "few_shot": {"kind": "none"}}
    )
    teacher = make_teacher(config, policy, (), store)
    signals = label(ROWS, teacher, store, config, policy)
    assert all(sum(signal.probabilities.values()) == pytest.approx(1) for signal in signals.values())
    name = str(signals[ROWS[0].id].feature).split("#")[0]
    assert store.folder is not None
    file = FeatureFile.open(store.folder / "features" / name)
    assert (len(file), file.width) == (len(ROWS) + len(content_free("zh")), 2 * 32)
    last, both = kept_states(file, 2, [0])(ROWS), kept_states(file, 2, [0, 1])(ROWS)
    assert last.dtype == np.float16
    np.testing.assert_array_equal(last[:, 0], both[:, 0])
    assert np.abs(both[:, 0] - both[:, 1]).max() > 0.01
    np.testing.assert_allclose(live_states(teacher, [0, 1])(ROWS), both, atol=2e-2)
    unknown = replace(ROWS[0], id="unknown")
    assert np.isnan(kept_states(file, 2, [0])([unknown])).all()
    assert make_teacher(config, policy, (), store).fingerprint == teacher.fingerprint


@pytest.fixture
def classifier(tmp_path: Path, tokens: Any, policy: Policy) -> Path:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = [category.name["zh"] for category in policy.categories][::-1]
    config = BertConfig(vocab_size=len(tokens), id2label=dict(enumerate(names)), **sizes)
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    tokens.save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def test_a_classifier_as_the_teacher(classifier: Path, policy: Policy, store: Store) -> None:
    config = TeacherConfig(kind="transformers", model=str(classifier), prior_correction=False)
    teacher = make_teacher(config, policy)
    signals = label(ROWS, teacher, store, config, policy)
    assert all(signal.known_mass == pytest.approx(1, abs=1e-2) for signal in signals.values())
    assert teacher.columns == dict(zip(policy.ids, range(5, -1, -1), strict=True))  # type: ignore[attr-defined]


def test_a_classifier_of_other_categories_is_refused(policy: Policy) -> None:
    with pytest.raises(ConfigError, match=r"classifies into LABEL_0, LABEL_1 and has no normal"):
        label_columns({0: "LABEL_0", 1: "LABEL_1"}, policy)


def test_an_empty_folder_is_one_sentence(tmp_path: Path, policy: Policy) -> None:
    with pytest.raises(WeightsError, match="cannot load a teacher from"):
        make_teacher(TeacherConfig(kind="transformers", model=str(tmp_path)), policy)


def test_features_survive_a_kill_between_row_and_name(tmp_path: Path) -> None:
    first = FeatureFile(tmp_path / "deep" / "f2.5", 3)
    assert first.read() == {}
    assert first.add("a", [1, 2, 3]) == "f2.5.npy#a"
    first.add("b", [4, 5, 6])
    first.add("a", [9, 9, 9])
    first._append(np.array([7, 7, 7], dtype=np.float16))
    with first.index.open("a") as file:
        file.write("half-a-na")
    again = FeatureFile(tmp_path / "deep" / "f2.5", 3)
    assert len(again) == 2
    again.add("c", [0, 0, 1])
    assert {name: row.tolist() for name, row in FeatureFile(tmp_path / "deep" / "f2.5", 3).read().items()} == {
        "a": [1, 2, 3],
        "b": [4, 5, 6],
        "c": [0, 0, 1],
    }
    with pytest.raises(DataError, match="has 2 numbers"):
        again.add("d", [1, 2])
