"""The student: a frozen or fading base with adapters, or all of it, and a new head; saved as what was trained."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from peft import LoraConfig as PeftLora
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from tamis import models
from tamis.config import StudentConfig
from tamis.errors import ConfigError, TrainingError
from tamis.learn.pclora import drop_faded, fade, make_fading
from tamis.network import DTYPES, Network, bfloat16_is_fast, layers_of, load_base
from tamis.policy import Policy
from tamis.windows import Encoder

# What the parts of an attention block are called in the families a student may come from.
TARGETS: dict[str, tuple[str, ...]] = {
    "query": ("q_proj", "query", "q_lin", "query_proj", "Wqkv"),
    "key": ("k_proj", "key", "k_lin", "key_proj"),
    "value": ("v_proj", "value", "v_lin", "value_proj"),
    "output": ("o_proj", "attention.output.dense", "out_lin", "Wo"),
    "ffn": ("gate_proj", "up_proj", "down_proj", "intermediate.dense", "output.dense", "lin1", "lin2", "Wi"),
}


@dataclass(frozen=True)
class Student:
    """A network with what it takes to use and to rebuild it."""

    network: Network
    encoder: Encoder
    policy: Policy
    config: StudentConfig
    learnt: frozenset[str] = frozenset()
    facts: dict[str, float] = field(default_factory=dict)

    def trained(self) -> dict[str, Tensor]:
        """The weights that training changes, by name; those of layers that a stage holds still among them."""
        return {name: p.detach() for name, p in self.network.named_parameters() if name in self.learnt}

    def load(self, path: Path) -> None:
        """Put saved weights in place; they are those of a student whose base has faded, where it fades.

        Raises:
            TrainingError: the file is of a student with other weights.
        """
        state = load_file(path)
        if set(state) != set(self.trained()):
            raise TrainingError(
                f"{path} is of another student (other rank, targets or mode): remove it and train again"
            )
        self.network.load_state_dict(state, strict=False)
        fade(self.network, 1.0)

    def save(self, folder: Path) -> None:
        """Write what was trained, the head included, the tokenizer and how to rebuild the rest."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: p.contiguous() for name, p in self.trained().items()}, folder / "trained.safetensors")
        self.encoder.tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"student": self.config.model_dump(mode="json"), "policy": self.policy.model_dump(mode="json")}
        (folder / "student.json").write_text(json.dumps(settings | {"facts": self.facts}, ensure_ascii=False, indent=1))


def build_student(config: StudentConfig, policy: Policy, seed: int = 0) -> Student:
    """A fresh student; the same seed gives the same adapters and head.

    Raises:
        WeightsError: the base cannot be had.
        ConfigError: LoRA targets that the base does not have.
    """
    return student_on(_encoder(config), config, policy, seed)


def student_on(encoder: Encoder, config: StudentConfig, policy: Policy, seed: int = 0) -> Student:
    """A fresh student with an encoder of its own, as of a base that was saved without a tokenizer.

    Raises:
        WeightsError: the base cannot be had.
        ConfigError: LoRA targets that the base does not have.
    """
    base = load_base(models.training_folder(config.model), _dtype(config))
    torch.manual_seed(seed)
    network = Network(_adapted(base, config), len(policy.ids), config.pooling, policy.kind)
    learnt = frozenset(name for name, p in network.named_parameters() if p.requires_grad)
    return Student(network, encoder, policy, config, learnt)


def load_student(folder: Path) -> Student:
    """A trained student from its folder."""
    settings = json.loads((folder / "student.json").read_text())
    config = StudentConfig.model_validate(settings["student"])
    encoder = Encoder.from_file(folder / "tokenizer.json", _template(config), config.max_tokens)
    student = student_on(encoder, config, Policy.model_validate(settings["policy"]))
    student.load(folder / "trained.safetensors")
    student.facts.update(settings["facts"])
    return student


def hold_still(student: Student, layers: int | None) -> None:
    """Train the head and the adapters of this many of the upper layers, and let the others rest; None trains all."""
    resting = layers_of(student.network.base)[: -layers if layers else 0]
    below = {id(p) for layer in resting for p in layer.parameters()}
    for name, weight in student.network.named_parameters():
        weight.requires_grad_(name in student.learnt and id(weight) not in below)


def merged(student: Student, *, whole: bool = False) -> Student:
    """The student as it is served, its LoRA merged or its faded weights dropped; the one given is left as it is.

    Merging happens in float32: in 16 bits small updates are lost, and a 4-bit base is ruined by it. With `whole` the
    merged weights stay in float32.
    """
    config = student.config.model_copy(update={"pretrained_dtype": "float32"})
    fresh = student_on(student.encoder, config, student.policy)
    fresh.network.load_state_dict(student.trained(), strict=False)
    if student.config.mode == "lora":
        fresh.network.base = fresh.network.base.merge_and_unload()  # type: ignore[operator]
    elif student.config.mode == "pclora":
        drop_faded(fresh.network.base)
    fresh.network.base.to(torch.float32 if whole else _dtype(student.config))
    return replace(student, network=fresh.network.eval().requires_grad_(requires_grad=False))


def _dtype(config: StudentConfig) -> torch.dtype:
    if config.mode == "full":
        return torch.float32
    if config.pretrained_dtype == "auto":
        return torch.bfloat16 if bfloat16_is_fast() else torch.float32
    return DTYPES[config.pretrained_dtype]


def _encoder(config: StudentConfig) -> Encoder:
    folder = models.training_folder(config.model)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Encoder(tokenizer, _template(config), config.max_tokens)


def _template(config: StudentConfig) -> str:
    return config.template or models.template_of(config.model)


def _adapted(base: nn.Module, config: StudentConfig) -> nn.Module:
    if config.mode == "full":
        return base
    base.requires_grad_(False)
    if config.mode == "head":
        return base
    if config.mode == "pclora":
        make_fading(base, _modules(base, config), config.lora.rank)
        return base
    lora = PeftLora(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=_modules(base, config),
    )
    return get_peft_model(base, lora)


def _modules(base: nn.Module, config: StudentConfig) -> list[str]:
    """Names of the linear layers of the base that the configured targets stand for."""
    linear = _linear(base, config.lora.layers)
    if config.lora.targets == "all-linear":
        return linear
    found: list[str] = []
    for target in config.lora.targets:
        names = [name for name in linear if name.endswith(TARGETS.get(target, (target,)))]
        if target == "ffn":
            names = [name for name in names if "attention" not in name]
        if not names:
            leaves = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise ConfigError(
                f"student.lora.targets: {config.model} has no {target!r}; its layers are {', '.join(leaves)}"
            )
        found += names
    return sorted(set(found))


def _linear(base: nn.Module, upper: int | None) -> list[str]:
    """Names of the linear modules, of the `upper` layers alone where that is given."""
    layers = layers_of(base)
    if upper is not None and upper > len(layers):
        raise ConfigError(f"student.lora.layers: the model has {len(layers)} layers, got {upper}")
    chosen = {id(m) for layer in layers[-upper if upper else 0 :] for m in layer.modules()}
    linear = ((name, module) for name, module in base.named_modules() if isinstance(module, nn.Linear))
    return [name for name, module in linear if upper is None or id(module) in chosen]
