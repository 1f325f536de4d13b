"""The seam every teacher stands behind, and the registry of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tamis.config import TeacherConfig
from tamis.errors import ConfigError, TeacherError
from tamis.policy import Policy
from tamis.records import Example, Scores, TeacherSignal
from tamis.store import Store
from tamis.teach.features import FeatureFile, kept_features, with_layers

BATCH = 16


class Teacher(Protocol):
    """Who labels. One method: examples in, a signal for each as it is answered, in any order.

    `ask` draws an example only when it can put the question at once, so whoever feeds it decides before every question
    whether there is to be another one. Closing the iterator gives up what is in flight.
    """

    @property
    def fingerprint(self) -> str:
        """Name and hash of all that changes its answers."""

    @property
    def label_space(self) -> str:
        """Hash of the categories it answers in."""

    def ask(self, examples: Iterable[Example]) -> Generator[TeacherSignal, None, None]:
        """Signals of these examples.

        Raises:
            TeacherError: it cannot be asked at all; what it says of single rows is an outcome, not an error.
        """


class Local(Protocol):
    """A model of this process that gives scores and the hidden states of some layers, (texts, layers, width)."""

    def __call__(self, texts: Sequence[str], layers: Sequence[int]) -> tuple[list[Scores], npt.NDArray[np.float16]]:
        """Score texts."""


class LocalTeacher:
    """A bundle, or an earlier student, as the teacher; see `local_teacher`."""

    def __init__(
        self,
        judge: Local,
        policy: Policy,
        fingerprint: str,
        trained_on: frozenset[str],
        layers: Sequence[int],
        features: FeatureFile | None,
    ) -> None:
        self.judge = judge
        self.policy = policy
        self.fingerprint = fingerprint
        self.label_space = policy.label_space
        self.trained_on = trained_on
        self.layers = layers
        self.features = features

    def ask(self, examples: Iterable[Example]) -> Generator[TeacherSignal, None, None]:
        """Signals of these examples, in their order, a batch at a time.

        Raises:
            TeacherError: it was trained on one of them, so its answer would be memory, not judgement.
        """
        feed = iter(examples)
        while batch := list(islice(feed, BATCH)):
            for example in batch:
                self._refuse_own(example)
            scores, states = self.judge([example.text for example in batch], self.layers)
            for example, one, state in zip(batch, scores, states, strict=True):
                feature = self.features.add(example.id, state) if self.features is not None else None
                yield self._signal(example, one, feature)

    def states(self, examples: Sequence[Example]) -> npt.NDArray[np.float16]:
        """Hidden states of these examples as they would be kept, (rows, layers, width)."""
        return self.judge([example.text for example in examples], self.layers)[1]

    def _refuse_own(self, example: Example) -> None:
        if example.id in self.trained_on:
            raise TeacherError(
                f"teacher {self.fingerprint} was trained on row {example.id}: label rows it has not seen,"
                " or train it without that part of the gold"
            )

    def _signal(self, example: Example, scores: Scores, feature: str | None) -> TeacherSignal:
        known = sum(scores.probabilities.values())
        return TeacherSignal(
            example_id=example.id,
            teacher=self.fingerprint,
            label_space=self.label_space,
            method="local_logits",
            outcome="ok" if known > 0 else "failed",
            probabilities=dict(scores.probabilities),
            known_mass=min(1.0, known),
            risk=scores.risk if known > 0 else None,
            feature=feature,
        )


def local_teacher(
    judge: Local,
    policy: Policy,
    fingerprint: str,
    trained_on: frozenset[str],
    config: TeacherConfig,
    store: Store | None = None,
) -> LocalTeacher:
    """A bundle, or any other model of this process, as the teacher.

    Args:
        judge: texts and layers to scores over the policy's categories and hidden states.
        policy: the policy it was made for.
        fingerprint: name and hash of the model.
        trained_on: content ids whose human verdict it was trained on; asking about one of them is refused.
        config: `features`, the layers whose states are kept, and `live`.
        store: where they are kept.
    """
    width = judge([" "], config.features)[1].shape[-1] if config.features else 0
    name = with_layers(fingerprint, config)
    kept = kept_features(config, name, width, store)
    return LocalTeacher(judge, policy, name, trained_on, config.features, kept)


def _openai(config: TeacherConfig, policy: Policy, gold: Sequence[Example], store: Store | None) -> Teacher:
    from tamis.teach.endpoint import openai_teacher

    return openai_teacher(config, policy, gold, store)


def _gguf(config: TeacherConfig, policy: Policy, gold: Sequence[Example], store: Store | None) -> Teacher:
    from tamis.teach.gguf import gguf_teacher

    return gguf_teacher(config, policy, gold, store)


def _transformers(config: TeacherConfig, policy: Policy, gold: Sequence[Example], store: Store | None) -> Teacher:
    from tamis.teach.local import transformers_teacher

    return transformers_teacher(config, policy, gold, store)


def _bundle(config: TeacherConfig, policy: Policy, gold: Sequence[Example], store: Store | None) -> Teacher:
    raise ConfigError(
        "a teacher of kind bundle needs the bundle's scorer: `tamis run` opens it; from Python call local_teacher(...)"
    )


TeacherFactory = Callable[[TeacherConfig, Policy, Sequence[Example], "Store | None"], Teacher]

TEACHERS: dict[str, TeacherFactory] = {
    "openai": _openai,
    "gguf": _gguf,
    "transformers": _transformers,
    "bundle": _bundle,
}
"""By `teacher.kind`: (config, policy, gold of the training split for few-shot, store for probe results) -> teacher."""


def make_teacher(
    config: TeacherConfig, policy: Policy, gold: Sequence[Example] = (), store: Store | None = None
) -> Teacher:
    """The teacher a recipe names.

    Args:
        config: who labels, and how it is asked.
        policy: the categories.
        gold: human-labelled examples of the training split, for few-shot.
        store: keeps what a probe found out, so that a restart does not ask again.

    Raises:
        ConfigError: a recipe without a teacher, or gold that does not fit the policy.
        TeacherError: it cannot be asked.
        WeightsError: its weights are missing or damaged.
    """
    if config.kind not in TEACHERS:
        raise ConfigError(f"teacher.kind is {config.kind}: set it to one of {', '.join(TEACHERS)}")
    return TEACHERS[config.kind](config, policy, gold, store)
