"""What an experiment may say; the recipe it names is checked by config/."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from tamis.config import Section


class VariantConfig(Section):
    """One line of an experiment: the recipe with other settings."""

    group: str = Field("", description="What it is shown with, such as `rank`.")
    set: dict[str, Any] = Field({}, description="Settings of the recipe by dotted key, as `--set` takes them.")


class ExperimentConfig(Section):
    """Many students from one recipe: the same rows and teacher's answers, other objectives, models or ranks."""

    name: str = Field("experiment", description="Shown in the report.")
    out: str = Field("runs/experiment", description="Folder of everything the experiment makes.")
    recipe: str | dict[str, Any] = Field(description="A recipe's file, or its settings.")
    variants: dict[Annotated[str, Field(pattern=r"^[\w.+-]+$")], VariantConfig] = Field(
        min_length=1, description="Students to train, by name."
    )
    against: str = Field("A-lora", description="The variant the others are measured against.")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="Each variant is trained once a seed.")
    workers: int | None = Field(
        None,
        ge=1,
        description="Students trained at a time; without it as many as processors, or GPUs, and memory allow.",
    )

    @model_validator(mode="after")
    def _measured_against(self) -> Self:
        if self.against not in self.variants:
            raise ValueError(f"against is {self.against!r}, the variants are {', '.join(self.variants)}")
        return self
