"""How it is measured and told, and at which probability it acts."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tamis.config.section import Section


class EvaluateConfig(Section):
    """What is measured on the test split."""

    baselines: tuple[str, ...] | None = Field(
        None,
        description="Of `keyword`, `nb` and `svm`, and with `_teacher` added those of the teacher's labels; null takes"
        " the three, and `svm_teacher` where there is a teacher, `[]` none.",
    )
    lexicon: str | None = Field(
        None, description="File of `keyword`'s terms, see [evaluate](evaluate.md); mined from human labels without it."
    )
    bootstrap: int = Field(1000, ge=100, description="Resamples behind each interval.")
    latency_rows: int = Field(100, ge=1, description="Texts timed one at a time.")


class ReportConfig(Section):
    """How it is told."""

    language: Literal["en", "zh"] = Field("en", description="Of the report, the data card and the audit's warnings.")
    show_texts: bool = Field(False, description="Show misjudged texts; hashes without it.")


class GateConfig(Section):
    """What a student must reach before it is exported; null asks nothing."""

    retention: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Student macro-F1 over teacher macro-F1; of scores alone, Spearman's correlations.",
    )
    macro_f1: float | None = Field(None, ge=0, le=1, description="Student macro-F1 on the test split.")


class CostsConfig(Section):
    """What mistakes and reviewing cost, in any one currency; only their ratios matter."""

    miss: float = Field(20.0, gt=0, description="A harmful text that is passed.")
    false_block: float = Field(10.0, gt=0, description="A harmless text that is blocked.")
    minute: float = Field(1.0, gt=0, description="A reviewer's minute.")
    minutes: float = Field(0.5, gt=0, description="Minutes a review takes.")


class TargetConfig(Section):
    """What is promised; where labels do not allow it, the run stops and says how many would."""

    recall: float | None = Field(
        None, gt=0, lt=1, description="Least share of each category's texts that is reviewed or blocked."
    )
    false_positive_rate: float | None = Field(
        None, gt=0, lt=1, description="Largest share of harmless texts that is blocked."
    )


class ThresholdsConfig(Section):
    """Who decides at which probability a text is reviewed or blocked; chosen on the calibration split."""

    method: Literal["policy", "costs", "target", "capacity"] = Field(
        "policy",
        description="`policy`: its `actions`, on the risk. `costs`: the cheapest. `target`: promises that hold with"
        " `confidence`. `capacity`: what a team can read.",
    )
    costs: CostsConfig = CostsConfig()
    target: TargetConfig = TargetConfig()
    capacity: float | None = Field(None, gt=0, lt=1, description="Largest share of traffic that is reviewed.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of each promise of `target` and `capacity`.")
    prevalence: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of traffic that breaks the policy, for `costs` and `capacity`; that of the calibration split"
        " without it.",
    )

    @model_validator(mode="after")
    def _has_numbers(self) -> Self:
        if self.method == "target" and self.target.recall is None and self.target.false_positive_rate is None:
            raise ValueError("method target promises nothing: set target.recall, target.false_positive_rate or both")
        if self.method == "capacity" and self.capacity is None:
            raise ValueError("method capacity needs `capacity`, the share of traffic that a team can read")
        return self
