"""Who labels, how it is asked and what it may cost."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tamis.config.section import Section


class BudgetConfig(Section):
    """What labelling may cost at most; the run stops before it would cost more."""

    tokens: int | None = Field(None, ge=1, description="Prompt and completion tokens together; null sets no limit.")
    money: float | None = Field(None, gt=0, description="In the currency of the two prices.")
    price_prompt: float = Field(0.0, ge=0, description="Per million prompt tokens.")
    price_completion: float = Field(0.0, ge=0, description="Per million completion tokens.")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of so many tokens, in the currency of the prices."""
        return (prompt_tokens * self.price_prompt + completion_tokens * self.price_completion) / 1e6


class FewShotConfig(Section):
    """Gold examples shown to the teacher; they come from the training split only."""

    kind: Literal["none", "fixed", "nearest"] = Field(
        "fixed", description="`nearest`: the most similar gold rows of each text."
    )
    n: int = Field(16, ge=1, le=64, description="Examples shown.")


class TeacherConfig(Section):
    """Who labels, and how it is asked."""

    kind: Literal["openai", "gguf", "transformers", "bundle", "ensemble", "none"] = Field(
        "none", description="`ensemble`: the `members` together. `none`: train on human labels alone."
    )
    model: str = Field(
        "", description="Model name at the endpoint, catalogue name, hub id, folder, GGUF file or bundle."
    )
    base_url: str = Field("https://api.openai.com/v1", description="Of an OpenAI-compatible endpoint.")
    api_key_env: str = Field(
        "OPENAI_API_KEY", description="Environment variable that holds the key; keys never stand in recipes."
    )
    method: Literal["auto", "logprobs", "votes", "verbalised"] = Field(
        "auto",
        description="How probabilities are had; `auto` probes the endpoint in this order. Not used by local models.",
    )
    language: Literal["zh", "en"] = Field("zh", description="Language of the prompt.")
    few_shot: FewShotConfig = FewShotConfig(kind="fixed", n=16)
    prior_correction: bool = Field(True, description="Divide out what the teacher answers whatever the text is.")
    orders: int = Field(1, ge=1, le=8, description="Category orders to average over.")
    votes: int = Field(5, ge=2, le=64, description="Samples a text where log-probabilities are unusable.")
    concurrency: int = Field(4, ge=1, le=1024, description="Requests at a time; slots of a local GGUF server.")
    timeout: float = Field(60.0, gt=0, description="Seconds a request.")
    retries: int = Field(5, ge=0, description="Further attempts after 408, 409, 429, 5xx and lost connections.")
    budget: BudgetConfig = BudgetConfig()
    self_check: int = Field(20, ge=0, description="Validation rows asked twice to measure agreement with itself.")
    features: tuple[int, ...] = Field(
        (),
        description="Layers of a local teacher whose pooled hidden states are kept with its answers; -1: the last.",
    )
    live: bool = Field(False, description="Compute those states anew while training, instead of keeping them on disk.")

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.kind not in ("none", "ensemble") and not self.model:
            raise ValueError(f"a teacher of kind {self.kind} needs `model`")
        return self


class TeachingConfig(TeacherConfig):
    """Who labels which rows: one teacher, or several together."""

    label: Literal["all", "unlabelled"] = Field("all", description="Which training rows are labelled.")
    limit: int | None = Field(None, ge=1, description="Label at most this many training rows.")
    members: tuple[TeacherConfig, ...] = Field(
        (),
        description="With `kind: ensemble`: two or more teachers, each with the settings of `teacher` that stand above"
        " `teacher.label`, its own budget among them.",
    )
    combine: Literal["mean", "confidence", "majority", "dawid_skene", "fallback"] = Field(
        "mean",
        description="How the members' answers become one; `fallback`: each member is asked only about rows that none"
        " before it answered.",
    )
    weights: tuple[float, ...] = Field(
        (), description="Of the members in a `mean`; without them how reliable each is on validation gold."
    )

    @model_validator(mode="after")
    def _has_members(self) -> Self:
        kinds = [member.kind for member in self.members]
        if self.kind not in ("none", "ensemble") and kinds:
            raise ValueError(f"a teacher of kind {self.kind} has no `members`: set `kind: ensemble`, or leave them out")
        if self.kind == "ensemble" and len(kinds) < 2:
            raise ValueError(
                f"an ensemble needs two or more `members`, it has {len(kinds)}: add some, or name one teacher"
            )
        wrong = next((kind for kind in kinds if kind in ("none", "ensemble")), None)
        if wrong:
            raise ValueError(f"a member of an ensemble is one teacher, not of kind {wrong}: name single teachers")
        # A budget that nobody keeps would be worse than none.
        idle = sorted(self.model_fields_set - {"kind", "label", "limit", "members", "combine", "weights"})
        if self.kind == "ensemble" and idle:
            raise ValueError(f"an ensemble is not asked itself: move {', '.join(idle)} into its `members`")
        return self

    @model_validator(mode="after")
    def _weighs(self) -> Self:
        if self.weights and self.combine != "mean":
            raise ValueError(f"`weights` are those of a mean, not of {self.combine}: leave them out")
        if self.weights and len(self.weights) != len(self.members):
            raise ValueError(f"got {len(self.weights)} `weights` for {len(self.members)} members: give one for each")
        if self.weights and (min(self.weights) < 0 or not 0 < sum(self.weights) < float("inf")):
            raise ValueError("`weights` must be numbers from 0 up, not all of them 0: give each member its share")
        return self
