"""How the next model is made from the running one, and what it must not lose."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tamis.config.data import DataConfig, PolicyConfig, SourceConfig
from tamis.config.judging import ReportConfig, ThresholdsConfig
from tamis.config.learning import LoraConfig, ObjectiveConfig, TrainConfig
from tamis.config.section import Section
from tamis.config.serving import ExportConfig
from tamis.config.teaching import TeacherConfig


class ReplayConfig(Section):
    """Rows by which the old model's judgement is kept."""

    sources: tuple[SourceConfig, ...] = Field(
        (),
        description="Rows the running model was trained on, or unlabelled traffic, beside the rows of `run`; see"
        " [data.sources](#datasources).",
    )
    ratio: float = Field(3.0, gt=0, description="Rows replayed for each new training row.")


class RetainConfig(ObjectiveConfig):
    """As `objective` of a run; the teacher is the running model."""

    alpha: float = Field(0.5, ge=0, description="Weight of the old model's answers.")
    beta: float = Field(0.5, ge=0, description="Weight of the human labels.")


class ContinueConfig(TrainConfig):
    """As `train` of a run."""

    epochs: float = Field(4, gt=0, description="Passes over the new and the replayed rows; may be a fraction.")
    learning_rate: float | None = Field(
        None, gt=0, description="Peak, of AdamW; without it half of what a fresh student of this kind learns at."
    )


class PromotionConfig(Section):
    """What the new model must not lose."""

    tolerance: float = Field(
        0.01, ge=0, lt=1, description="A class may lose this much of its F1, or of its functional tests."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of each bound, one-sided.")
    strict: bool = Field(
        False, description="Refuse as well where the rows cannot show that a class has lost no more than that."
    )
    new_f1: float | None = Field(None, ge=0, le=1, description="Least F1 of a new category on reviewed rows.")
    bootstrap: int = Field(2000, ge=100, description="Resamples behind each bound.")


class UpdateConfig(Section):
    """The next model, from the running bundle and what people have corrected (`tamis update`).

    Sections of a run that it shares mean the same in both.
    """

    name: str = Field("update", description="Name of the update, shown in its report.")
    about: str = Field("", description="Said at the start: what will happen and how long it takes.")
    out: str = Field("runs/update", description="Folder of everything the update makes.")
    bundle: str = Field(description="The running bundle: its folder, or the link that names it.")
    run: str | None = Field(
        None,
        description="Folder of the run, or of the update, that made the bundle: its student goes on with its own"
        " adapters and its splits are kept. Without it adapters are new, over the bundle's merged weights.",
    )
    store: str | None = Field(None, description="Database URL of the answers; SQLite in `out` without it.")
    policy: PolicyConfig = PolicyConfig()
    data: DataConfig
    replay: ReplayConfig = ReplayConfig()
    regression: tuple[SourceConfig, ...] = Field(
        (), description="Frozen sets that old and new are compared on; nothing in them is ever trained on."
    )
    functional: tuple[str, ...] = Field(
        ("default",), description="Files of functional tests, or the name of shipped ones; see [update](update.md)."
    )
    teacher: TeacherConfig = TeacherConfig()
    new_adapters: bool = Field(
        False,
        description="Begin with new adapters (`lora`) over the merged weights although `run` has some, as to raise the"
        " rank.",
    )
    lora: LoraConfig = LoraConfig()
    objective: RetainConfig = RetainConfig()
    train: ContinueConfig = ContinueConfig()
    thresholds: ThresholdsConfig = ThresholdsConfig()
    promotion: PromotionConfig = PromotionConfig()
    report: ReportConfig = ReportConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="after")
    def _asks_one_teacher(self) -> Self:
        if self.teacher.kind == "ensemble":
            raise ValueError("an update asks one teacher about what was missed, not an ensemble: name a single one")
        return self
