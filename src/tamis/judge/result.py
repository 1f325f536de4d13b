"""What an evaluation found, as frozen records that go to JSON and back; none of them holds a text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from tamis.estimates import Estimate, Number, Point


@dataclass(frozen=True)
class Bin:
    """One bin of the reliability diagram."""

    confidence: float
    accuracy: float
    rows: int


@dataclass(frozen=True)
class Mistake:
    """A row a model has wrong; `said` is empty when it gave no answer."""

    id: str
    truth: tuple[str, ...]
    said: tuple[str, ...]
    confidence: Number


@dataclass(frozen=True)
class Speed:
    """Latency of one text at a time, in milliseconds; texts a second in batches; peak memory of the process in MB."""

    rows: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    texts_per_second: float
    batch: int
    peak_mb: float


@dataclass(frozen=True)
class ModelResult:
    """One model against the human verdicts.

    `metrics` and `per_class` go by the names of evaluate.py. `confusion` (single-label) has a row for every category
    and one more column for no answer. `facts` is the caller's: parameters, file size, tokens.
    """

    metrics: Mapping[str, Estimate]
    per_class: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] | None = None
    reliability: tuple[Bin, ...] = ()
    roc: tuple[Point, ...] = ()
    precision_recall: tuple[Point, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    facts: Mapping[str, int | float | str] = field(default_factory=dict)
    speed: Speed | None = None


@dataclass(frozen=True)
class Comparison:
    """The student against one other model on the same rows.

    `retention` is the student's `metric` over the other's, `difference` the student's minus the other's. `p` is
    McNemar's; `p_holm` is it after Holm's correction for all comparisons. Both are NaN for risk scores.
    """

    metric: str
    retention: Estimate
    difference: Estimate
    p: Number
    p_holm: Number

    @property
    def is_noise(self) -> bool:
        """Whether the interval of the difference holds 0."""
        return not (self.difference.low > 0 or self.difference.high < 0)


@dataclass(frozen=True)
class Basis:
    """What figures rest on.

    `split` is the name of its type; `categories` are ids in the policy's order; `support` counts gold rows by category;
    `names` are short names by id and language.
    """

    policy: str
    kind: str
    split: str
    rows: int
    bootstrap: int
    benign: str
    categories: tuple[str, ...]
    support: Mapping[str, int]
    names: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Evaluation(Basis):
    """All models on one split; `comparisons` go by the other model's name."""

    models: Mapping[str, ModelResult]
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The figure models are compared by: macro-F1, or Spearman's correlation where people gave risk scores."""
        return "macro_f1" if self.support else "spearman"

    def with_facts(self, name: str, speed: Speed | None = None, **facts: int | float | str) -> Evaluation:
        """This evaluation with more said of one model."""
        model = self.models[name]
        fuller = replace(model, facts={**model.facts, **facts}, speed=speed or model.speed)
        return replace(self, models={**self.models, name: fuller})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; NaN is null."""
        tree: dict[str, Any] = plain(_ADAPTER.dump_python(self, mode="json"))
        return tree

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Evaluation:
        """The evaluation `to_json` wrote."""
        return _ADAPTER.validate_python(tree)


_ADAPTER: TypeAdapter[Evaluation] = TypeAdapter(Evaluation)


def plain(value: Any) -> Any:
    """`value` with null for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
