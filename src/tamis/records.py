"""The frozen records that travel between stages; see docs/design.md, "What travels"."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Outcome = Literal["ok", "refused", "unparsable", "failed"]
Method = Literal["logprobs", "votes", "verbalised", "local_logits", "mixed"]
Action = Literal["pass", "review", "block"]

AUDIT = "audit"
"""The reason that marks a passed text for a person to look at."""


def content_id(text: str) -> str:
    """Hash of a text after NFKC, lower-casing and removal of white space: 16 hexadecimal digits."""
    folded = "".join(unicodedata.normalize("NFKC", text).lower().split())
    return hashlib.sha256(folded.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def digest_of(path: Path) -> str:
    """sha256 of what a file holds, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Example:
    """One text and what people said of it.

    At most one of `label` (one category), `labels` (several) and `score` (risk in [0, 1]) is the human verdict. Beside
    `labels`, nobody has judged the categories in `unknown`; those in neither do not hold.
    """

    id: str
    text: str
    lang: str
    source: str
    label: str | None = None
    labels: tuple[str, ...] | None = None
    score: float | None = None
    unknown: tuple[str, ...] = ()

    @property
    def is_gold(self) -> bool:
        """Whether a person has judged it."""
        return self.is_labelled or self.score is not None

    @property
    def is_labelled(self) -> bool:
        """Whether a person has named its category, or categories; a risk score names none."""
        return self.label is not None or self.labels is not None


@dataclass(frozen=True)
class Split:
    """Examples kept for one purpose; the purpose is the type, so that nothing is chosen on a test split."""

    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def gold(self) -> tuple[Example, ...]:
        """The examples a person has judged."""
        return tuple(example for example in self.examples if example.is_gold)


class TrainSplit(Split):
    """What the student learns from, and where few-shot examples come from."""


class ValidationSplit(Split):
    """What chooses checkpoints and audits the teacher."""


class CalibrationSplit(Split):
    """What fits the temperature and the thresholds."""


class TestSplit(Split):
    """What measures; anything that selects refuses it."""

    __test__ = False


@dataclass(frozen=True)
class Splits:
    """The four splits of a run; no text, nor a near-duplicate of it, is in two of them."""

    train: TrainSplit
    validation: ValidationSplit
    calibration: CalibrationSplit
    test: TestSplit


@dataclass(frozen=True, slots=True)
class TeacherSignal:
    """What one teacher said of one example; a refusal is a signal too.

    `probabilities` go over the policy's categories and sum to at most 1, or each stands for itself where a text may
    have several categories. `known_mass` is that sum, at most 1, before any correction; the rest went to tokens that
    name no category. `disagreement` is how far the members of an ensemble are apart, in [0, 1]; None for one teacher.
    The method is `mixed` where they were asked in several ways.
    """

    example_id: str
    teacher: str
    label_space: str
    method: Method
    outcome: Outcome
    probabilities: Mapping[str, float] = field(default_factory=dict)
    known_mass: float = 0.0
    risk: float | None = None
    rationale: str | None = None
    evidence: tuple[str, ...] = ()
    prompt_hash: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    feature: str | None = None
    disagreement: float | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """What any scorer says of one text: probabilities by category, the risk in [0, 1], and how unsure it is."""

    probabilities: Mapping[str, float]
    risk: float
    uncertainty: float
    evidence: tuple[str, ...] = ()

    @property
    def category(self) -> str:
        """The likeliest category; the empty string when there is no answer (refused, unparsable, failed)."""
        return max(self.probabilities, key=lambda name: self.probabilities[name], default="")


NO_ANSWER = Scores({}, float("nan"), 1.0)
"""The scores of a text a scorer said nothing about; it counts as wrong and is reviewed, never passed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done with one text, and on which grounds.

    `tiers` names who was asked in turn, `reasons` what called for the action, `latency_ms` how long it took.
    """

    id: str
    action: Action
    category: str
    scores: Scores
    versions: Mapping[str, str]
    tiers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    latency_ms: float = 0.0

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Probability by category id."""
        return self.scores.probabilities

    @property
    def risk(self) -> float:
        """Probability that the text breaks the policy."""
        return self.scores.risk


Scorer = Callable[[Sequence[str]], list[Scores]]
"""Every scorer (teacher, student, baseline, bundle) has this shape, so one evaluation measures them all."""


def uncertainty(probabilities: Mapping[str, float]) -> float:
    """Entropy of the distribution over its maximum: 0 is certain, 1 knows nothing."""
    if len(probabilities) < 2:
        return 0.0
    total = sum(probabilities.values()) or 1.0
    entropy = -sum(p / total * math.log(p / total) for p in probabilities.values() if p > 0)
    return entropy / math.log(len(probabilities))
