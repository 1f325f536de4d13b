"""Local transformers models as teachers: a causal model that is asked, or a classifier that knows the categories."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tamis.config import TeacherConfig
from tamis.errors import ConfigError, WeightsError
from tamis.network import bfloat16_is_fast
from tamis.policy import Policy
from tamis.records import Example, TeacherSignal
from tamis.store import Store
from tamis.teach.answers import average
from tamis.teach.endpoint import fingerprint
from tamis.teach.features import FeatureFile, kept_features, with_layers
from tamis.teach.prompt import Prompt, choose_style
from tamis.teach.scoring import OptionScorer, Scored
from tamis.teach.shots import make_shots

BATCH = 16


class CausalTeacher:
    """Scores the options as continuations of the prompt; see `transformers_teacher`."""

    def __init__(self, prompt: Prompt, scorer: OptionScorer, name: str, features: FeatureFile | None = None) -> None:
        self.prompt = prompt
        self.scorer = scorer
        self.fingerprint = name
        self.label_space = prompt.policy.label_space
        self.features = features
        self._prompt_hash = prompt.hash

    def ask(self, examples: Iterable[Example]) -> Generator[TeacherSignal, None, None]:
        """Signals in their order, a batch at a time."""
        feed = iter(examples)
        while batch := list(islice(feed, BATCH)):
            orders = [self._order(batch, order) for order in range(self.prompt.orders)]
            for i, example in enumerate(batch):
                yield self._signal(example, [scored[i] for scored in orders])

    def _order(self, batch: Sequence[Example], order: int) -> list[Scored]:
        chats = [self.prompt.messages(example, order) for example in batch]
        return self.scorer.score(chats, self.prompt.options(order))

    def _signal(self, example: Example, orders: Sequence[Scored]) -> TeacherSignal:
        probabilities = average([scored.probabilities for scored in orders])
        return TeacherSignal(
            example_id=example.id,
            teacher=self.fingerprint,
            label_space=self.label_space,
            method="local_logits",
            outcome="ok",
            probabilities=probabilities,
            known_mass=min(1.0, sum(probabilities.values())),
            risk=self.prompt.policy.risk(probabilities),
            prompt_hash=self._prompt_hash,
            prompt_tokens=sum(scored.tokens for scored in orders),
            feature=self.features.add(example.id, orders[0].states.numpy()) if self.features is not None else None,
        )

    def states(self, examples: Sequence[Example]) -> npt.NDArray[np.float16]:
        """Hidden states of these examples as they would be kept, (rows, layers, width)."""
        return np.stack([one.states.numpy().astype(np.float16) for one in self._order(examples, 0)])


class ClassifierTeacher:
    """A sequence-classification model whose labels are the policy's categories."""

    def __init__(self, policy: Policy, model: Any, tokenizer: Any, name: str) -> None:
        self.policy = policy
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.fingerprint = name
        self.label_space = policy.label_space
        self.columns = label_columns(model.config.id2label, policy)

    def ask(self, examples: Iterable[Example]) -> Generator[TeacherSignal, None, None]:
        """Signals in their order, a batch at a time."""
        feed = iter(examples)
        while batch := list(islice(feed, BATCH)):
            for example, row in zip(batch, self._probabilities(batch), strict=True):
                probabilities = {name: float(row[column]) for name, column in self.columns.items()}
                yield TeacherSignal(
                    example_id=example.id,
                    teacher=self.fingerprint,
                    label_space=self.label_space,
                    method="local_logits",
                    outcome="ok",
                    probabilities=probabilities,
                    known_mass=min(1.0, sum(probabilities.values())),
                    risk=self.policy.risk(probabilities),
                )

    @torch.inference_mode()
    def _probabilities(self, batch: Sequence[Example]) -> Tensor:
        rows = self.tokenizer([example.text for example in batch], padding=True, return_tensors="pt")
        logits = self.model(**rows.to(self.model.device)).logits.float()
        return (logits.sigmoid() if self.policy.kind == "multi_label" else logits.softmax(-1)).cpu()


def label_columns(id2label: dict[int, str], policy: Policy) -> dict[str, int]:
    """Column of each category among a classifier's labels, by id or by any of its names.

    Raises:
        ConfigError: a category without a label.
    """
    found = {str(name).strip().casefold(): int(column) for column, name in id2label.items()}
    columns: dict[str, int] = {}
    for category in policy.categories:
        names = [category.id, *category.short.values(), *category.name.values()]
        column = next((found[name.casefold()] for name in names if name.casefold() in found), None)
        if column is None:
            raise ConfigError(
                f"the teacher classifies into {', '.join(map(str, id2label.values()))} and has no {category.id}:"
                " keep only its categories with policy.only, or rename its labels in config.json"
            )
        columns[category.id] = column
    return columns


def transformers_teacher(
    config: TeacherConfig, policy: Policy, gold: Sequence[Example], store: Store | None = None
) -> CausalTeacher | ClassifierTeacher:
    """A local model of the transformers library as the teacher.

    Raises:
        WeightsError: it cannot be loaded.
        ConfigError: a classifier of other categories, or a policy with several labels a text for a causal model.
    """
    from tamis.models import training_folder

    folder = training_folder(config.model)
    classifier, model, tokenizer = load(folder)
    weights = folder_hash(folder)
    if classifier:
        digest = hashlib.sha256(f"{weights} {policy.label_space}".encode()).hexdigest()[:12]
        return ClassifierTeacher(policy, model, tokenizer, f"transformers:{Path(config.model).name[:80]}@{digest}")
    if policy.kind == "multi_label":
        raise ConfigError(f"policy {policy.name} allows several labels a text: use a classifier as the teacher")
    style = choose_style(policy, config.language, lambda word: tokenizer.encode(word, add_special_tokens=False))
    shots = make_shots(config.few_shot, policy, gold)
    prompt = Prompt(policy, config.language, style, shots, config.orders)
    name = fingerprint(config, prompt, weights)
    name = with_layers(name, config)
    kept = kept_features(config, name, model.config.hidden_size, store)
    return CausalTeacher(prompt, OptionScorer(model, tokenizer, config.features), name, kept)


def load(folder: Path) -> tuple[bool, Any, Any]:
    """Whether a folder holds a classifier, its model and its tokenizer.

    Raises:
        WeightsError: it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    dtype = torch.bfloat16 if bfloat16_is_fast() else torch.float32
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        classifier = any("SequenceClassification" in name for name in config.architectures or ())
        loader = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
        model = loader.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"cannot load a teacher from {folder}: {str(error).splitlines()[0]}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return classifier, model.to(device).eval(), tokenizer


def folder_hash(folder: Path) -> str:
    """Hash of a model folder's file names, sizes and beginnings."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json"):
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]
