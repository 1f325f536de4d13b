"""What a recipe may say. Frozen; an unknown key is refused with the nearest known one.

Every setting is listed with its default in docs/configuration.md, which is generated from this module.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SplitName = Literal["train", "validation", "calibration", "test"]


class Section(BaseModel):
    """A part of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class PolicyConfig(Section):
    """The taxonomy."""

    path: str = Field("default", description="A policy file, or the name of a shipped one.")
    only: tuple[str, ...] = Field((), description="Keep only these categories; empty keeps all.")


class SourceConfig(Section):
    """Where rows come from and what their columns mean."""

    path: str = Field(description="A .csv, .tsv, .jsonl (.gz too) or .parquet file, a folder, `hub:NAME`, or `demo`.")
    split: SplitName | None = Field(
        None, description="Put all rows into this split; without it rows are split by `data.split`."
    )
    text: str = Field("text", description="Column of the text.")
    label: str | None = Field(
        "label",
        description="Column of the human verdict (several: separated by `|`, `!x` for one that does not hold); null"
        " where there is none.",
    )
    unlisted: Literal["absent", "unknown"] = Field(
        "absent",
        description="Where a text may have several labels: what a row says of categories it does not list. `unknown`:"
        " nothing, neither yes nor no.",
    )
    score: str | None = Field(None, description="Column of a human risk score in [0, 1].")
    lang: str | None = Field(None, description="Column of the language; without it the language is recognised.")
    labels: dict[str, str] = Field({}, description="Maps labels found to category ids; others must be category ids.")
    name: str | None = Field(None, description="Name of the source in tables; the file's name without it.")
    subset: str | None = Field(None, description="Configuration name of a hub data set.")
    hub_split: str = Field("train", description="Split to read of a hub data set.")


class SplitConfig(Section):
    """Shares of the splits for rows that name none."""

    seed: int = Field(
        0, description="Chooses which rows go where; a row's place depends on it and on its own text alone."
    )
    validation: float = Field(0.1, ge=0, lt=1, description="Chooses checkpoints; audits the teacher.")
    calibration: float = Field(0.1, ge=0, lt=1, description="Fits temperature and thresholds.")
    test: float = Field(0.2, ge=0, lt=1, description="Measures; nothing is chosen on it.")


class DataConfig(Section):
    """Ingest and prepare."""

    sources: tuple[SourceConfig, ...] = Field(
        min_length=1, description="One or more sources, see [data.sources](#datasources)."
    )
    min_chars: int = Field(1, ge=1, description="Shorter rows are rejected.")
    max_chars: int = Field(100_000, ge=1, description="Longer rows are rejected, never cut.")
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of shingles from which two texts are one."
    )
    shingle: int = Field(4, ge=2, le=12, description="Characters a shingle.")
    split: SplitConfig = SplitConfig()
    gold: int | None = Field(None, ge=1, description="Human labels kept in training, the rest hidden; all without it.")


class BudgetConfig(Section):
    """What labelling may cost at most; the run stops before it would cost more."""

    tokens: int | None = Field(None, ge=1, description="Prompt and completion tokens together; null sets no limit.")
    money: float | None = Field(None, gt=0, description="In the currency of the two prices.")
    price_prompt: float = Field(0.0, ge=0, description="Per million prompt tokens.")
    price_completion: float = Field(0.0, ge=0, description="Per million completion tokens.")


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
    pooling: Literal["auto", "mean", "last", "first"] = Field(
        "auto", description="`auto`: last token for decoders, mean for encoders."
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
