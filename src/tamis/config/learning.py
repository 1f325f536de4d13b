"""The student, what it learns and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tamis.config.section import Section


class LoraConfig(Section):
    """Low-rank adaptation (Hu et al., 2021)."""

    rank: int = Field(16, ge=1, description="Rank of the update.")
    alpha: float = Field(32.0, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters.")
    targets: tuple[str, ...] | Literal["all-linear"] = Field(
        "all-linear", description="`all-linear`, or of `query`, `key`, `value`, `output`, `ffn` and module names some."
    )
    layers: int | None = Field(
        None,
        ge=1,
        description="Adapt only this many of the upper layers; each row then goes through the others once, not once an"
        " epoch. All without it.",
    )


class PcloraConfig(Section):
    """Progressive compression (Hwang et al., 2024): pretrained weights fade, factors of low rank remain."""

    until: float = Field(
        0.8, gt=0, le=1, description="Share of the training over which they fade; a checkpoint is kept from then on."
    )


class StudentConfig(Section):
    """The small model."""

    model: str = Field("qwen2.5-coder-0.5b-instruct", description="Catalogue name, hub id, folder or GGUF file.")
    mode: Literal["lora", "full", "head", "pclora"] = Field(
        "lora",
        description="What is trained: adapters, everything, the head alone, or factors that replace the layers `lora`"
        " names at its rank and leave a smaller model (alpha and dropout play no part).",
    )
    lora: LoraConfig = LoraConfig()
    pclora: PcloraConfig = PcloraConfig()
    max_tokens: int = Field(256, ge=8, description="Tokens a window; longer texts are scored in overlapping windows.")
    template: str | None = Field(
        None, description="How a text is shown, e.g. `query: {text}`; the catalogue knows what its models expect."
    )
    pooling: Literal["mean", "last", "first"] = Field(
        "mean", description="What speaks for a text: the mean of its tokens, or one of them."
    )
    pretrained_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of frozen weights; `auto`: bfloat16 where the processor has it."
    )


class ObjectiveConfig(Section):
    """L = alpha * L_distill + beta * L_sup for a row with both labels; a row with one learns from that one alone."""

    alpha: float = Field(0.9, ge=0, description="Weight of the teacher's part; without a teacher it is 0 and `beta` 1.")
    beta: float = Field(0.1, ge=0, description="Weight of the human labels' part.")
    distill: dict[str, float] = Field(
        {"kl": 1.0},
        description="Terms of L_distill and their weights. Answers: `kl`, `reverse_kl`, `js`, `soft_ce`, `mse_logits`,"
        " `mse_score`. Hidden states: `hidden_l2`, `hidden_cosine`. Relations between rows: `distance`, `angle`,"
        " `similarity`, `score_difference`, `ranking`.",
    )
    temperature: float = Field(
        2.0, gt=0, description="Temperature of both distributions; the loss is multiplied by its square."
    )
    layers: tuple[tuple[int, int], ...] = Field(
        ((-1, -1),), description="Pairs of (teacher layer, student layer) whose states are compared; -1 is the last."
    )
    relate: Literal["outputs", "hidden"] = Field(
        "outputs",
        description="Between what `distance`, `angle` and `similarity` hold: answers, or states of the last pair.",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Of the human labels.")


class StageConfig(Section):
    """A part of training with terms and weights of its own; what it leaves out is as in `objective`."""

    epochs: float = Field(gt=0, description="Passes over the stage's rows.")
    alpha: float | None = Field(None, ge=0, description="As `objective.alpha`.")
    beta: float | None = Field(None, ge=0, description="As `objective.beta`.")
    distill: dict[str, float] | None = Field(None, description="As `objective.distill`.")
    ramp: float = Field(
        0.0, ge=0, le=1, description="Share of the stage over which weights move from those of the stage before."
    )
    rows: Literal["all", "gold", "signals"] = Field(
        "all", description="Rows learnt from: all, those with a human label, or those with a teacher's answer."
    )
    layers: int | None = Field(
        None, ge=1, description="Train the adapters of this many of the upper layers alone; all without it."
    )


class TrainConfig(Section):
    """How it is trained."""

    epochs: float = Field(5, gt=0, description="Passes over the training rows; may be a fraction.")
    stages: tuple[StageConfig, ...] = Field(
        (), description="Stages in their order, instead of `epochs` of one, see [train.stages](#trainstages)."
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak, of AdamW; without it 1e-3 for adapters of an encoder, 5e-4 of a decoder, 2e-5 where all"
        " weights are trained.",
    )
    head_learning_rate: float | None = Field(
        None, gt=0, description="Of the head; the same as `learning_rate` without it."
    )
    batch_size: int = Field(16, ge=1, description="Rows an optimiser step and worker.")
    accumulate: int = Field(
        1, ge=1, description="Parts a batch is cut into at least; changes memory, never the gradient."
    )
    micro_tokens: int = Field(2048, ge=16, description="Padded tokens a forward pass at most.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="After the warm-up.")
    weight_decay: float = Field(0.01, ge=0, description="Of matrices; vectors have none.")
    clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    evaluations: int = Field(1, ge=1, description="Validations an epoch.")
    patience: int = Field(3, ge=1, description="Validations without a better score before training stops.")
    recall_floor: float = Field(
        0.0, ge=0, le=1, description="A checkpoint whose worst class recalls less is kept only if none reaches it."
    )
    checkpoint_seconds: float = Field(60.0, ge=0, description="At most this much work is lost to a kill.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the computation; `auto`: bfloat16 where the processor has it."
    )
    seed: int = Field(0, description="Of the head, the adapters, the order of rows and dropout.")
    frozen_states: str | None = Field(
        None,
        description="Folder where the states above frozen layers are kept for other runs of the same rows; without it"
        " each run computes its own and leaves none.",
    )
    report_to: tuple[str, ...] = Field(
        ("tensorboard",), description="Trackers of accelerate: tensorboard, wandb, mlflow, ...; `[]` for none."
    )
