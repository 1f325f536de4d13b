"""What a bundle is served by, and when more than the student is asked."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tamis.config.section import Section


class ExportConfig(Section):
    """What the bundle is served by."""

    backend: Literal["torch", "onnx", "openvino", "auto"] = Field(
        "torch",
        description="What computes; all but `torch` are served without torch. `auto` measures what is installed here"
        " and takes the fastest that decides as the student does.",
    )
    quantize: Literal["none", "int8"] = Field(
        "none", description="8-bit weights for `onnx` and `openvino`; `auto` tries them beside the whole ones."
    )

    @model_validator(mode="after")
    def _quantised(self) -> Self:
        if self.backend == "torch" and self.quantize != "none":
            raise ValueError(f"torch serves no {self.quantize}: set backend to onnx, openvino or auto")
        return self


class CascadeConfig(Section):
    """When more than the student is asked, and for how long."""

    band: float = Field(
        0.7,
        ge=0,
        description="The student is sure from this distance of a threshold on, in log-odds; 0.7 doubles them.",
    )
    per_minute: int | None = Field(None, ge=1, description="Requests to each tier a minute; null sets no limit.")
    per_day: int | None = Field(None, ge=1, description="Requests to each tier a day; null sets no limit.")
    failures: int = Field(5, ge=1, description="Failures in a row after which a tier is left alone.")
    open_seconds: float = Field(30.0, gt=0, description="For this long; then one request tries it.")
    deadline: float = Field(2.0, gt=0, description="Seconds a text may take; what is not decided then is reviewed.")
    audit: float = Field(0.01, ge=0, le=1, description="Share of passed texts that a person looks at all the same.")
