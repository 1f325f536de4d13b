"""From a text to windows of token ids, and from the windows' scores back to one row a text.

Needs no torch, so that training and every serving backend share it. Nothing is cut: a long text becomes overlapping
windows, and the window with the highest risk speaks for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from tamis.errors import ConfigError, need
from tamis.policy import Policy
from tamis.records import Scores, digest_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")

SLOT = "{text}"
WORTHWHILE, SIMILAR = 192, 0.75
Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """Token ids of each window, the index of the text it belongs to, and where in a text of several windows it is."""

    ids: list[list[int]]
    owner: list[int]
    places: list[str]


@dataclass(frozen=True)
class Encoder:
    """Tokenizer, template and window length; what must be the same in training and serving.

    Args:
        tokenizer: a fast tokenizer with its special tokens.
        template: how a text is shown, with `{text}` once.
        max_tokens: tokens a window, special tokens and template included.
    """

    tokenizer: Tokenizer
    template: str = SLOT
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.template.count(SLOT) != 1:
            raise ConfigError(f"student.template must hold {SLOT} once, got {self.template!r}")
        if self._room < 4:
            raise ConfigError(f"student.max_tokens ({self.max_tokens}) leaves no room for the text: raise it")

    @classmethod
    def from_file(cls, path: Path, template: str, max_tokens: int) -> Encoder:
        """An encoder from a `tokenizer.json`.

        Raises:
            MissingExtraError: tokenizers is not installed.
        """
        return cls(_tokenizer(_Source(digest_of(path), path)), template, max_tokens)

    @property
    def template_hash(self) -> str:
        """Hash of the template and the window length; a bundle with another one is refused."""
        return hashlib.sha256(f"{self.template}\0{self.max_tokens}".encode()).hexdigest()[:16]

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """Ids before and after the text: special tokens and the template's own words."""
        before, after = self.template.split(SLOT)
        bare = self.tokenizer.encode("a", add_special_tokens=False).ids
        dressed = self.tokenizer.encode("a", add_special_tokens=True).ids
        start = next(i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare)
        words = [self.tokenizer.encode(part, add_special_tokens=False).ids if part else [] for part in (before, after)]
        return dressed[:start] + words[0], words[1] + dressed[start + len(bare) :]

    @cached_property
    def _blank(self) -> list[int]:
        """What stands for an empty text where the tokenizer adds no special tokens: a model needs one token."""
        return self.tokenizer.encode(" ").ids or [0]

    @property
    def _room(self) -> int:
        return self.max_tokens - sum(map(len, self._frame))

    def encode(self, texts: Sequence[str]) -> Windows:
        """Windows of all texts, in order; an empty text has one window."""
        head, tail = self._frame
        # A lone surrogate cannot be encoded; it becomes a question mark rather than an error.
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        windows = Windows([], [], [])
        for index, encoding in enumerate(self.tokenizer.encode_batch_fast(clean, add_special_tokens=False)):
            parts = overlapping(encoding.ids, self._room)
            windows.ids.extend(head + part + tail or self._blank for part in parts)
            windows.owner.extend([index] * len(parts))
            windows.places.extend(self._places(clean[index]) if len(parts) > 1 else [""])
        return windows

    def _places(self, text: str) -> list[str]:
        """Where each of a text's windows is; costs more than the ids, and few texts have several windows."""
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return [f"characters {part[0][0]} to {part[-1][1]}" for part in overlapping(offsets, self._room)]


@dataclass(frozen=True)
class _Source:
    """A tokenizer's file; one with the same content is the same."""

    digest: str
    path: Path = field(compare=False)


@lru_cache(maxsize=2)
def _tokenizer(source: _Source) -> Tokenizer:
    # A large one takes a second in which no other thread runs: a service that loads its next bundle would stand still.
    tokenizer = need("tokenizers", "serve").Tokenizer.from_file(str(source.path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def overlapping(ids: list[T], size: int) -> list[list[T]]:
    """Cut `ids` into windows of `size` that overlap by a quarter; the last one ends with the text."""
    if len(ids) <= size:
        return [ids]
    step = max(1, size - size // 4)
    starts = [*range(0, len(ids) - size, step), len(ids) - size]
    return [ids[start : start + size] for start in starts]


def padded(rows: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[Ids, Ids]:
    """Right-padded (batch, length) ids and their mask, 1 for tokens and 0 for padding."""
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, of at most `tokens` padded tokens each.

    A batch also ends where the next row is much shorter, once it is large enough to be worth a pass of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batch[0]] if batch else 0
        worthwhile = longest * len(batch) >= WORTHWHILE and lengths[index] < SIMILAR * longest
        if batch and (worthwhile or longest * (len(batch) + 1) > tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def probabilities_of(logits: Array, policy: Policy, temperature: float = 1.0) -> Array:
    """Softmax, or a sigmoid a category for a multi-label policy, of (windows, categories) logits in float32."""
    scaled = logits.astype(np.float32) / np.float32(temperature)
    if policy.kind == "multi_label":
        return np.exp(-np.logaddexp(0, -scaled))
    shifted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def worst(probabilities: Array, owner: Sequence[int], policy: Policy) -> Array:
    """The row of each text's riskiest window: (windows, categories) -> (texts, categories)."""
    return probabilities[riskiest(probabilities, owner, policy)]


def riskiest(probabilities: Array, owner: Sequence[int], policy: Policy) -> Ids:
    """The index of each text's riskiest window: (windows, categories) -> (texts,)."""
    harmful = probabilities * np.asarray(policy.harm, dtype=np.float32)
    risk = harmful.max(axis=1) if policy.kind == "multi_label" else harmful.sum(axis=1)
    order = np.lexsort((risk, np.asarray(owner)))
    owners = np.asarray(owner)[order]
    last = np.append(owners[1:] != owners[:-1], True)
    return order[last]


def scores_of(
    logits: Array, owner: Sequence[int], policy: Policy, temperature: float = 1.0, places: Sequence[str] = ()
) -> list[Scores]:
    """Scores of each text from the logits of its windows; their evidence is where the riskiest one is, if told."""
    probabilities = probabilities_of(logits, policy, temperature)
    chosen, ids = riskiest(probabilities, owner, policy), policy.ids
    found = [(places[i],) if places and places[i] else () for i in chosen]
    rows = probabilities[chosen].tolist()
    return [policy.scores(dict(zip(ids, row, strict=True)), where) for row, where in zip(rows, found, strict=True)]
