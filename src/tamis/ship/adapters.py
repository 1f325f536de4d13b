"""Students that share a base: their adapters and heads stay apart from it and from each other, in one process.

A bundle for `adapter` holds what its student learnt and the name and sum of the base, which is loaded once. Each text
is judged by the adapter it asks for, with that student's template, policy, calibration and thresholds; texts of
different adapters share a batch. Adapters come and go between two batches.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tamis import models
from tamis.errors import BundleError
from tamis.network import (
    Network,
    Pooling,
    bfloat16_is_fast,
    first_position,
    is_decoder,
    load_base,
    mixed_precision,
    positions,
)
from tamis.policy import Policy
from tamis.records import Decision, Scores
from tamis.ship.bundle import Moderator, load_bundle
from tamis.ship.head import HEAD, write_head
from tamis.windows import Array, Ids, by_length, padded

BASE = "base.json"
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
BARE = "__base__"
"""What peft calls a row that no adapter changes."""


@dataclass(frozen=True)
class Origin:
    """The base of a bundle: its name, and the sum of its weights."""

    model: str
    sha256: str


@dataclass(frozen=True)
class Seat:
    """One student's place over the shared base: which adapter its rows take, and its head and pooling in a network."""

    over: Adapters
    adapter: str
    network: Network

    def logits(self, ids: Ids, mask: Ids) -> Array:
        """As `Backend` says."""
        return np.stack(self.over.logits(ids, mask, [self] * len(ids)))


class Adapters:
    """One base and the students over it, by name; safe in several threads.

    Args:
        model: name of the base, as `student.model` has it.

    Raises:
        WeightsError: it cannot be had.
    """

    def __init__(self, model: str) -> None:
        folder = models.training_folder(model)
        self.model, self.sum = model, sum_of(folder)
        base = load_base(folder, torch.bfloat16 if bfloat16_is_fast() else torch.float32)
        self._base: Any = base.eval().requires_grad_(requires_grad=False)
        self._first = first_position(self._base)
        self._moderators: dict[str, Moderator] = {}
        self._numbers = count()
        # peft hangs hooks into the layers while a mixed batch is computed: two at a time would take each other's.
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The students that are there."""
        return tuple(self._moderators)

    def __getitem__(self, name: str) -> Moderator:
        """One student.

        Raises:
            BundleError: there is none of that name.
        """
        if name not in self._moderators:
            raise BundleError(f"no adapter {name!r} over {self.model}: add it, there are {', '.join(self.names)}")
        return self._moderators[name]

    def add(self, name: str, folder: str | Path) -> None:
        """Load a bundle for `adapter`; one of that name goes once the new one is there.

        Raises:
            BundleError: it is damaged, of another backend or over another base.
        """

        def seat(backend: str, path: Path, pooling: Pooling, policy: Policy, _max_tokens: int) -> Seat:
            if backend != "adapter":
                raise BundleError(f"{path} is served by {backend} and brings its own base: export it for adapter")
            return self.seat(path, pooling, policy)

        before = self._moderators.get(name)
        self._moderators[name] = load_bundle(folder, seat)
        if before:
            self.leave(cast("Seat", before.backend))

    def remove(self, name: str) -> None:
        """Take a student away; texts being judged are finished first.

        Raises:
            BundleError: there is none of that name.
        """
        moderator = self[name]
        del self._moderators[name]
        self.leave(cast("Seat", moderator.backend))

    def __call__(self, texts: Sequence[str], names: Sequence[str]) -> list[Decision]:
        """Judge each text by the student named for it."""
        told = zip(texts, names, self.score(texts, names), strict=True)
        return [self[name].decide(text, scores) for text, name, scores in told]

    def score(self, texts: Sequence[str], names: Sequence[str]) -> list[Scores]:
        """Calibrated scores of each text by the student named for it, all of them in common batches.

        Raises:
            BundleError: there is no student of a name.
        """
        asked = {name: [i for i, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
        students = {name: self[name] for name in asked}
        windows = {name: students[name].encoder.encode([texts[i] for i in places]) for name, places in asked.items()}
        rows = [row for name in asked for row in windows[name].ids]
        logits = self._in_batches(rows, [students[name].backend for name in asked for _ in windows[name].ids])
        found: list[Scores | None] = [None] * len(texts)
        for name, places in asked.items():
            own, logits = logits[: len(windows[name].ids)], logits[len(windows[name].ids) :]
            scored = students[name].scores(np.stack(own), windows[name].owner, windows[name].places)
            for place, scores in zip(places, scored, strict=True):
                found[place] = scores
        return [scores for scores in found if scores is not None]

    def logits(self, ids: Ids, mask: Ids, seats: Sequence[Seat]) -> list[Array]:
        """(batch, length) ids and mask, and the seat of each row -> logits of each row, (categories,) of its seat."""
        found: list[Array] = [np.empty(0, np.float32)] * len(seats)
        with self._lock, torch.inference_mode(), mixed_precision(torch.device("cpu")):
            held = torch.from_numpy(mask)
            hidden = self._hidden(torch.from_numpy(ids), held, [seat.adapter for seat in seats])
            for seat in {id(seat): seat for seat in seats}.values():
                places = [place for place, other in enumerate(seats) if other is seat]
                rows = seat.network.judge(hidden[places], held[places]).float().numpy()
                for place, row in zip(places, rows, strict=True):
                    found[place] = row
        return found

    def next_token(self, rows: Sequence[Sequence[int]]) -> Array:
        """What the base itself says, all adapters switched off: logits of the token after each row.

        Args:
            rows: token ids.

        Returns:
            (rows, vocabulary) in float32.

        Raises:
            BundleError: the base is no language model whose output shares the table of its inputs.
        """
        if not (is_decoder(self._base) and self._base.config.tie_word_embeddings):
            raise BundleError(
                f"{self.model} says no next token: it has no output layer, or one that is not loaded here"
            )
        ids, mask = (torch.from_numpy(part) for part in padded(rows))
        with self._lock, torch.inference_mode(), mixed_precision(torch.device("cpu")):
            hidden = self._hidden(ids, mask, [BARE] * len(rows))
            last = hidden[torch.arange(len(rows)), mask.sum(1) - 1]
            return nn.functional.linear(last, self._base.get_input_embeddings().weight).float().numpy()

    def seat(self, folder: Path, pooling: Pooling, policy: Policy) -> Seat:
        """Put the adapter and the head of a checked bundle over the base.

        Raises:
            BundleError: it is over another base, or its weights do not fit.
        """
        wanted = base_of(folder)
        if wanted.sha256 != self.sum:
            raise BundleError(f"{folder} is over {wanted.model}, whose weights differ from those of {self.model}")
        network = Network(self._base, len(policy.ids), pooling, policy.kind)
        network.head.load_state_dict(load_file(folder / HEAD))
        adapter = f"a{next(self._numbers)}" if (folder / WEIGHTS).is_file() else BARE
        if adapter != BARE:
            self._attach(folder, adapter)
        return Seat(self, adapter, network.eval())

    def leave(self, seat: Seat) -> None:
        """Free the weights of a seat; a batch that is computed is finished first, none after it may hold the seat."""
        if seat.adapter != BARE:
            with self._lock:
                self._detach(seat.adapter)

    def _detach(self, adapter: str) -> None:
        others = [name for name in self._base.peft_config if name != adapter]
        if others:
            self._base.set_adapter(others[0])
            self._base.delete_adapter(adapter)
        else:
            self._base = self._base.unload()

    def _attach(self, folder: Path, adapter: str) -> None:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        # Only these: other settings of peft change the base, or fetch something.
        config = LoraConfig(**{name: settings[name] for name in ("r", "lora_alpha", "target_modules")})
        weights = load_file(folder / WEIGHTS)
        with self._lock:
            if isinstance(self._base, PeftModel):
                self._base.add_adapter(adapter, config)
            else:
                self._base = get_peft_model(self._base, config, adapter_name=adapter)
            self._base.eval().requires_grad_(requires_grad=False)
            # What the settings name is counted where it is attached: of many layers peft notes their common endings.
            wanted = get_peft_model_state_dict(self._base, adapter_name=adapter)
            if wanted.keys() != weights.keys():
                self._detach(adapter)
                raise BundleError(
                    f"{folder / WEIGHTS} has {len(weights)} weights, its settings want {len(wanted)}: export again"
                )
            set_peft_model_state_dict(self._base, weights, adapter_name=adapter)

    def _hidden(self, ids: Tensor, mask: Tensor, adapters: list[str]) -> Tensor:
        more = {"adapter_names": adapters} if isinstance(self._base, PeftModel) else {}
        states = self._base(input_ids=ids, attention_mask=mask, **positions(mask, self._first), **more)
        return states.last_hidden_state

    def _in_batches(self, rows: Sequence[list[int]], seats: Sequence[Any], tokens: int = 4096) -> list[Array]:
        found: list[Array] = [np.empty(0, np.float32)] * len(rows)
        for batch in by_length([len(row) for row in rows], tokens):
            for place, logits in zip(
                batch, self.logits(*padded([rows[i] for i in batch]), [seats[i] for i in batch]), strict=True
            ):
                found[place] = logits
        return found


def base_of(folder: Path) -> Origin:
    """Which base a bundle for `adapter` is over."""
    return Origin(**json.loads((folder / BASE).read_text(encoding="utf-8")))


def sum_of(folder: Path) -> str:
    """sha256 of a model's weights, of several files one after the other."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def write_adapter(network: Network, model: str, folder: Path) -> None:
    """Write what a student learnt, in peft's format, its head, and which base it is over.

    Args:
        network: as trained, its adapters not merged.
        model: name of the base.
        folder: of the bundle.

    Raises:
        BundleError: the student changed its base.
    """
    base: Any = network.base
    if isinstance(base, PeftModel):
        config = base.peft_config["default"]
        settings = {
            "peft_type": "LORA",
            "base_model_name_or_path": model,
            "r": config.r,
            "lora_alpha": config.lora_alpha,
            "target_modules": sorted(config.target_modules),
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")
        weights = get_peft_model_state_dict(base)
        save_file({name: w.detach().cpu().contiguous() for name, w in weights.items()}, folder / WEIGHTS)
    elif any(weight.requires_grad for weight in base.parameters()):
        raise BundleError(f"the student changed {model} itself: export.backend=adapter wants student.mode lora or head")
    origin = Origin(model, sum_of(models.training_folder(model)))
    (folder / BASE).write_text(json.dumps(asdict(origin), indent=1), encoding="utf-8")
    write_head(network, folder)


def open_adapter(folder: Path, pooling: Pooling, policy: Policy) -> Seat:
    """The backend of a bundle for `adapter` that has the base to itself.

    Raises:
        BundleError: the base is not the one it was trained over.
    """
    return Adapters(base_of(folder).model).seat(folder, pooling, policy)
