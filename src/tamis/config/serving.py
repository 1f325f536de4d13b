"""What a bundle is served by, and when more than the student is asked."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tamis.config.section import Section


class RemoteConfig(Section):
    """A server that computes the student."""

    url: str = Field(description="Where it is, without the path.", pattern="^https?://")
    speaks: Literal["tei", "vllm_classify", "vllm_pooling"] = Field(
        "vllm_pooling",
        description="`tei`: `/predict`, raw scores; `vllm_classify`: `/classify`, logits; `vllm_pooling`: `/pooling`,"
        " pooled states of the last layer, to which the bundle applies its own head.",
    )
    model: str = Field("", description="What the server calls the model; `tei` does not ask.")
    api_key_env: str | None = Field(None, description="Environment variable that holds the server's key.")
    timeout: float = Field(10.0, gt=0, description="Seconds a request may take; what it leaves undecided is reviewed.")


class ExportConfig(Section):
    """What the bundle is served by."""

    backend: Literal["torch", "onnx", "openvino", "gguf", "adapter", "remote", "auto"] = Field(
        "torch",
        description="What computes; all but `torch` and `adapter` are served without torch. `gguf` is for decoders,"
        " `adapter` leaves the base out of the bundle, `remote` asks a server. `auto` measures what is installed here"
        " and takes the fastest that decides as the student does.",
    )
    quantize: Literal["none", "int8", "int4"] = Field(
        "none",
        description="8-bit weights for `onnx`, `openvino` and `gguf`, or 4-bit ones for `gguf`; `auto` tries those of"
        " as many bits and more beside the whole ones.",
    )
    remote: RemoteConfig | None = Field(None, description="The server that computes, for `remote`.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        able = {"none": None, "int8": ("onnx", "openvino", "gguf", "auto"), "int4": ("gguf", "auto")}[self.quantize]
        if able and self.backend not in able:
            raise ValueError(f"{self.backend} serves no {self.quantize}: set backend to {', '.join(able)}")
        if (self.backend == "remote") != (self.remote is not None):
            raise ValueError("`remote.url` goes with backend remote and no other: set both or neither")
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
