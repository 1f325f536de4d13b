"""The classifier itself: a transformer, a pooling and a head; the student and every export are made of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import MODEL_MAPPING, AutoConfig, AutoModel

from tamis.errors import WeightsError
from tamis.factored import factored_class, ranks_of
from tamis.policy import Kind
from tamis.windows import by_length, padded

Pooling = Literal["mean", "last", "first"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class OrdinalHead(nn.Module):
    """One score a text and ordered thresholds, so that a higher score never means a lower level.

    P(level > k) = sigmoid(score + b_k) with b_1 > b_2 > ...: the shared weights of CORAL (Cao, Mirjalili and Raschka,
    2020, arXiv 1901.07884) in a cumulative link (McCullagh, 1980). CORAL's thresholds are in order where its own loss
    is least; here a gap is a softplus, so they are under every loss, from the first step on.

    `bias` holds b_1 and then the gaps before their softplus. At first all levels are equally likely at a score of 0.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(1, in_features))
        above = torch.arange(out_features - 1, 0, -1) / out_features
        thresholds = above.logit()
        gaps = thresholds[:-1] - thresholds[1:]
        self.bias = nn.Parameter(torch.cat([thresholds[:1], gaps.expm1().log()]))

    @property
    def thresholds(self) -> Tensor:
        """b_1 > b_2 > ..., (levels - 1,)."""
        return self.bias[0] - functional.pad(functional.softplus(self.bias[1:]).cumsum(0), (1, 0))

    def forward(self, state: Tensor) -> Tensor:
        """Log-probabilities of the levels, which serve as logits: (batch, width) -> (batch, levels).

        sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)), whose logarithm loses nothing at either end.
        """
        steps = functional.linear(state, self.weight) + self.thresholds
        above, below = functional.logsigmoid(steps), functional.logsigmoid(-steps)
        between = (-torch.expm1(-functional.softplus(self.bias[1:]))).log()
        inner = above[:, :-1] + below[:, 1:] + between
        return torch.cat([below[:, :1], inner, above[:, -1:]], dim=1)


HEADS: dict[Kind, type[nn.Linear | OrdinalHead]] = {
    "single_label": nn.Linear,
    "multi_label": nn.Linear,
    "ordinal": OrdinalHead,
}


class Network(nn.Module):
    """Token ids to logits.

    Args:
        base: a transformers model that returns `last_hidden_state`.
        outputs: number of categories.
        pooling: which token, or the mean of all, speaks for the text.
        kind: of the policy; it chooses the head.
    """

    def __init__(self, base: nn.Module, outputs: int, pooling: Pooling, kind: Kind = "single_label") -> None:
        super().__init__()
        self.base = base
        self.pooling = pooling
        self._first_position = first_position(base)
        self.head = HEADS[kind](base.config.hidden_size, outputs)  # type: ignore[union-attr, arg-type]
        nn.init.normal_(self.head.weight, std=0.02)
        if kind != "ordinal":
            nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits.

        Args:
            ids: (batch, length) token ids.
            mask: (batch, length), 1 for tokens and 0 for padding on either side.

        Returns:
            (batch, categories) in float32, because 16-bit probabilities tie and saturate.
        """
        where = positions(mask, self._first_position)
        return self.judge(self.base(input_ids=ids, attention_mask=mask, **where).last_hidden_state, mask)

    def judge(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Logits from the last layer's states: (batch, length, width) and (batch, length) -> (batch, categories)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(self.state(hidden, mask).to(self.head.weight.dtype))

    def state(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """What one layer says of each text: (batch, length, width) -> (batch, width), pooled and normalised.

        A decoder's hidden states have a few dimensions a hundred times the others; unnormalised, they alone drive the
        head, training at a usual learning rate diverges, and a comparison with another model's states sees them alone.
        """
        pooled = pool(hidden, mask, self.pooling).float()
        return functional.layer_norm(pooled, pooled.shape[-1:])


def positions(mask: Tensor, first: int | None) -> dict[str, Tensor]:
    """Positions that count tokens, not padding, so that the side of the padding changes nothing."""
    return {} if first is None else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0) + first}


def first_position(base: nn.Module) -> int | None:
    """Position of a text's first token: 0, behind the padding id in the RoBERTa family, None where none is taken."""
    # Adapters take anything and hand it on.
    base = base.get_base_model() if hasattr(base, "get_base_model") else base  # type: ignore[operator]
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return None
    table = getattr(getattr(base, "embeddings", None), "position_embeddings", None)
    return 0 if table is None or table.padding_idx is None else int(table.padding_idx) + 1


def layers_of(base: nn.Module) -> nn.ModuleList:
    """The transformer's layers, lowest first; `base` may carry adapters."""
    count = base.config.num_hidden_layers  # type: ignore[union-attr]
    return next(m for m in base.modules() if isinstance(m, nn.ModuleList) and len(m) == count)


@contextmanager
def tapped(base: nn.Module, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Within this, each pass leaves the output of these layers behind, by number: (batch, length, width).

    Args:
        base: the transformer.
        layers: numbers from the top, -1 the last, as everywhere in recipes.
    """
    kept: dict[int, Tensor] = {}

    def keep(number: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            kept[number] = output if isinstance(output, Tensor) else output[0]

        return hook

    hooks = [layers_of(base)[number].register_forward_hook(keep(number)) for number in layers]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def frozen_layers(network: Network) -> int:
    """How many of the lowest layers hold no trained weight, and no trained weight lies below them."""
    layers = layers_of(network.base)
    inside = {id(p) for layer in layers for p in layer.parameters()}
    if any(p.requires_grad and id(p) not in inside for p in network.base.parameters()):
        return 0
    trained = (any(p.requires_grad for p in layer.parameters()) for layer in layers)
    return next((depth for depth, some in enumerate(trained) if some), len(layers))


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector a text: (batch, length, width) and (batch, length) -> (batch, width)."""
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(torch.float32)
        return (hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1)
    places = torch.arange(mask.shape[1], device=mask.device)
    far = mask.shape[1]
    index = (places * mask).argmax(1) if pooling == "last" else (places + far * (1 - mask)).argmin(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]


def pad(rows: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Right-padded (batch, length) ids and their mask."""
    ids, mask = padded(rows, pad_id)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def logits_of(network: Network, rows: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """Logits of token rows in their order, (rows, categories)."""
    return outputs_of(network, rows, ())[0]


@torch.inference_mode()
def outputs_of(
    network: Network, rows: Sequence[Sequence[int]], layers: Sequence[int], tokens: int = 4096
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float16]]:
    """Logits of token rows in their order, (rows, categories), and states of chosen layers, (rows, layers, width).

    `tokens` padded tokens are computed at a time. States are rounded to the 16 bits they are kept in.
    """
    network.eval()
    device = network.head.weight.device
    logits = np.empty((len(rows), network.head.out_features), dtype=np.float32)
    states = np.empty((len(rows), len(layers), network.head.in_features), dtype=np.float16)
    for batch in by_length([len(row) for row in rows], tokens):
        ids, mask = (part.to(device) for part in pad([rows[i] for i in batch]))
        with mixed_precision(device), tapped(network.base, layers) as hidden:
            logits[batch] = network(ids, mask).float().cpu().numpy()
        for place, layer in enumerate(layers):
            states[batch, place] = network.state(hidden[layer], mask).cpu().numpy()
    return logits, states


def load_base(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The transformer of a transformers folder, without any head of its own.

    Attention is the plain one: on a processor the fused kernel's bfloat16 backward pass takes a third of a step.

    Raises:
        WeightsError: the folder holds no model, or weights are missing from it or have another shape.
    """
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        ranks = ranks_of(config)
        base, info = (factored_class(MODEL_MAPPING[type(config)], ranks) if ranks else AutoModel).from_pretrained(
            folder,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot load a model from {folder}: {str(error).splitlines()[0]}") from error
    missing = [name for name in info["missing_keys"] if not name.startswith("pooler.")]
    if missing:
        raise WeightsError(f"{folder} lacks {len(missing)} weights, first {missing[0]}: it is another model's file")
    if info["mismatched_keys"]:
        name, found, wanted = sorted(info["mismatched_keys"])[0]
        raise WeightsError(
            f"{folder}: {name} is {list(found)} and config.json wants {list(wanted)}: they are of two models"
        )
    if hasattr(base, "pooler"):
        base.pooler = None
    return base


def is_decoder(base: nn.Module) -> bool:
    """Whether a transformer is a decoder, whose tokens see those before them alone."""
    config: Any = base.config
    # A decoder saved without its language head names only its base; grouped key-value heads still give it away.
    named = any("CausalLM" in name for name in config.architectures or ())
    return named or hasattr(config, "num_key_value_heads") or bool(getattr(config, "is_decoder", False))


def bfloat16_is_fast() -> bool:
    """Whether the processor, or the accelerator, computes in bfloat16 rather than emulating it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def mixed_precision(device: torch.device, wanted: str = "auto") -> AbstractContextManager[None]:
    """Autocast to bfloat16 where `wanted`, or where it is fast; else float32."""
    use = wanted == "bfloat16" or (wanted == "auto" and bfloat16_is_fast())
    return torch.autocast(device.type, dtype=torch.bfloat16) if use else nullcontext()


def parameters_of(network: nn.Module) -> tuple[int, int]:
    """Number of parameters, and of those that are trained."""
    every = list(network.parameters())
    return sum(p.numel() for p in every), sum(p.numel() for p in every if p.requires_grad)
