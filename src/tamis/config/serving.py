"""What a bundle is served by, and when more than the student is asked."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tamis.config.section import Section
from tamis.config.teaching import TeacherConfig

TENANT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$"
"""What a tenant may be called."""


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


class TierConfig(Section):
    """Who is asked when those before are not sure: a larger student, or a teacher at an endpoint."""

    bundle: str | None = Field(None, description="Folder of a bundle for the same policy, which decides by its own.")
    teacher: TeacherConfig | None = Field(None, description="A teacher as in a recipe, asked once a text.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.bundle is None) == (self.teacher is None):
            raise ValueError("a tier is a `bundle` or a `teacher`: name one of them")
        if self.teacher is not None and self.teacher.kind not in ("openai", "gguf"):
            raise ValueError(f"a tier's teacher is of kind openai or gguf, got {self.teacher.kind}: or name a `bundle`")
        if self.teacher is not None and (self.teacher.budget.tokens or self.teacher.budget.money):
            raise ValueError(
                "a tier's teacher keeps to no `budget`: set `cascade.per_minute` or `cascade.per_day` instead"
            )
        return self

    @property
    def name(self) -> str:
        """What it is called."""
        return self.bundle if self.bundle is not None else self.teacher.model if self.teacher is not None else ""


class BatchConfig(Section):
    """How texts of many requests are computed together."""

    tokens: int = Field(
        512,
        ge=16,
        description="Tokens of a batch at most, padding included. More make a processor no faster and every text wait"
        " longer; a GPU wants many more.",
    )
    wait: float = Field(
        1.0,
        gt=0,
        description="Seconds of work that may wait; more is refused with a 429. Alone a request may be larger.",
    )


class LimitsConfig(Section):
    """What a request may hold; more is refused before it is read."""

    body: int = Field(2_000_000, ge=1_000, description="Bytes of a request.")
    texts: int = Field(256, ge=1, description="Texts of a request.")
    characters: int = Field(20_000, ge=1, description="Characters of a text; longer ones the caller must split.")
    depth: int = Field(16, ge=2, le=100, description="How deep JSON may be nested.")


class ConsoleConfig(Section):
    """How people review in the console, see `tamis users`."""

    session_hours: float = Field(12.0, gt=0, description="Hours after which a person signs in again.")
    lease_minutes: float = Field(5.0, gt=0, description="Minutes for which an item is kept for who has it on screen.")
    desk: int = Field(8, ge=1, le=50, description="Items a reviewer has at once, to move between.")
    second_share: float = Field(
        0.05, ge=0, le=1, description="Share of reviewed items that another person judges without knowing."
    )


class MonitorConfig(Section):
    """When the service holds its traffic against the pinned reference, see `tamis monitor`."""

    every: float | None = Field(
        3600.0,
        gt=0,
        description="Seconds between two looks, of all workers of a store together; null makes none. What the last one"
        " found is at `/metrics`.",
    )
    days: int = Field(7, ge=1, description="How many days up to now are looked at.")


class ServeConfig(Section):
    """How a bundle is served."""

    store: str = Field("tamis.sqlite", description="Database of the keys and of the decision log: a URL, or a file.")
    log: Literal["durable", "off"] = Field(
        "durable",
        description="`durable` answers when the decision is on disk; `off` logs nothing and knows no idempotency keys.",
    )
    keep_days: int | None = Field(None, ge=1, description="Keep whole texts, for so many days; null keeps a preview.")
    require_key: bool = Field(
        True,
        description="Without a key nothing is judged; false only at a loopback address. Admin calls need one always.",
    )
    timeout: float = Field(10.0, gt=0, description="Seconds a request may wait for its answer; then it gets a 503.")
    drain: float = Field(
        3.0, ge=0, description="Seconds after SIGTERM in which requests are still taken while `/readyz` says no."
    )
    watch: float = Field(1.0, gt=0, description="Seconds after which a worker has seen new keys and another bundle.")
    limits: LimitsConfig = LimitsConfig()
    batch: BatchConfig = BatchConfig()
    cascade: CascadeConfig = CascadeConfig()
    console: ConsoleConfig = ConsoleConfig()
    monitor: MonitorConfig = MonitorConfig()
    tiers: tuple[TierConfig, ...] = Field((), description="Asked in turn about what the bundle is not sure of.")
    tenants: dict[Annotated[str, Field(pattern=TENANT_NAME)], str] = Field(
        {},
        description="Folders of bundles by the name that a request gives as `model` to be judged by one. Those for"
        " `adapter` over one base share it and its batches. The tiers are not asked for them.",
    )

    @model_validator(mode="after")
    def _different(self) -> Self:
        names = [tier.name for tier in self.tiers]
        if len(set(names)) < len(names):
            raise ValueError(f"each of the `tiers` is asked once, got {', '.join(names)}: name different ones")
        return self
