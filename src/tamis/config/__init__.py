"""What a recipe may say. Frozen; an unknown key is refused with the nearest known one.

Every setting is listed with its default in docs/configuration.md, which is generated from this module.
"""

from __future__ import annotations

from pydantic import Field

from tamis.config.data import DataConfig, PolicyConfig, SourceConfig, SplitConfig, SplitName
from tamis.config.judging import CostsConfig, EvaluateConfig, GateConfig, ReportConfig, TargetConfig, ThresholdsConfig
from tamis.config.learning import LoraConfig, ObjectiveConfig, PcloraConfig, StageConfig, StudentConfig, TrainConfig
from tamis.config.section import Section
from tamis.config.serving import (
    TENANT_NAME,
    BatchConfig,
    CascadeConfig,
    ConsoleConfig,
    ExportConfig,
    LimitsConfig,
    RemoteConfig,
    ServeConfig,
    TierConfig,
)
from tamis.config.teaching import BudgetConfig, FewShotConfig, TeacherConfig, TeachingConfig
from tamis.config.updating import ContinueConfig, PromotionConfig, ReplayConfig, RetainConfig, UpdateConfig

__all__ = [
    "TENANT_NAME",
    "AssistantConfig",
    "BatchConfig",
    "BudgetConfig",
    "CascadeConfig",
    "ConsoleConfig",
    "ContinueConfig",
    "CostsConfig",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FewShotConfig",
    "GateConfig",
    "LimitsConfig",
    "LoraConfig",
    "ObjectiveConfig",
    "PcloraConfig",
    "PolicyConfig",
    "PromotionConfig",
    "RemoteConfig",
    "ReplayConfig",
    "ReportConfig",
    "RetainConfig",
    "RunConfig",
    "Section",
    "ServeConfig",
    "SourceConfig",
    "SplitConfig",
    "SplitName",
    "StageConfig",
    "StudentConfig",
    "TargetConfig",
    "TeacherConfig",
    "TeachingConfig",
    "ThresholdsConfig",
    "TierConfig",
    "TrainConfig",
    "UpdateConfig",
]


class AssistantConfig(Section):
    """A student between teacher and student, which learns from the one before and teaches the next."""

    student: StudentConfig = StudentConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()


class RunConfig(Section):
    """One run, from text to bundle."""

    name: str = Field("run", description="Name of the run, shown in the report.")
    about: str = Field("", description="Said at the start of a run: what will happen and how long it takes.")
    out: str = Field("runs/run", description="Folder of everything the run makes.")
    store: str | None = Field(
        None,
        description="Database URL of the teacher's signals (PostgreSQL: extra `postgres`); SQLite in `out` without it.",
    )
    policy: PolicyConfig = PolicyConfig()
    data: DataConfig
    teacher: TeachingConfig = TeachingConfig()
    assistants: tuple[AssistantConfig, ...] = Field(
        (), description="Students between teacher and student, the largest first, see [assistants](#assistants)."
    )
    student: StudentConfig = StudentConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    thresholds: ThresholdsConfig = ThresholdsConfig()
    report: ReportConfig = ReportConfig()
    gate: GateConfig = GateConfig()
    export: ExportConfig = ExportConfig()
