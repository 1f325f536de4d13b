"""The second look: no text of one split stands, nearly the same, in another.

Shares nothing with `prepare`: shingles are three letters, written as exact numbers instead of hashed, and candidates
come from prefix filtering, which misses no pair. Prefix filtering: Bayardo, Ma, Srikant, "Scaling up all pairs
similarity search" (2007); Xiao et al., "Efficient similarity joins for near-duplicate detection" (2008).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from tamis.data.rows import Advance, ignore
from tamis.errors import LeakError
from tamis.records import Example, Splits

LETTERS = 3
SIMILAR = 0.9
"""Jaccard similarity from which two texts leak; above what `prepare` removes, so that sound data passes."""
SHORTEST = 12
"""Texts with fewer letters are compared whole: a few shingles say little."""
CHUNK_ROWS = 8192
CHUNK_PAIRS = 1 << 20
SKETCH_BITS = 22
Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint64]


class _Letters(dict[int, int | None]):
    """A translation table that keeps letters, their marks and symbols such as emoji, filled as letters turn up."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMS" else None
        return self[code]


def check_leaks(splits: Splits, advance: Advance = ignore) -> None:
    """Look for texts that are the same, or nearly, in two splits.

    Raises:
        LeakError: there are some; it says how many between which splits and names up to three pairs by id.
    """
    names = ("train", "validation", "calibration", "test")
    parts = [getattr(splits, name).examples for name in names]
    examples: list[Example] = [example for part in parts for example in part]
    side = np.repeat(np.arange(4), [len(part) for part in parts])
    letters = _Letters()
    folded = [unicodedata.normalize("NFKC", example.text).lower() for example in examples]
    stripped = [text.translate(letters) for text in folded]
    pairs = sorted({*_same(folded, side), *_alike(stripped, side, advance)})
    if not pairs:
        return
    counts = Counter(f"{names[side[left]]}/{names[side[right]]}" for left, right in pairs)
    told = ", ".join(f"{count} between {where}" for where, count in counts.most_common())
    shown = "; ".join(f"{examples[left].id} and {examples[right].id}" for left, right in pairs[:3])
    raise LeakError(
        f"{len(pairs)} pairs of texts are the same or nearly the same in two splits ({told}), e.g. {shown}: "
        "lower `data.near_duplicate` or remove one of each from the sources"
    )


def _same(folded: Sequence[str], side: Integers) -> Iterator[tuple[int, int]]:
    """Pairs of rows of different splits that are equal but for white space; one pair for each later row."""
    first: dict[bytes, int] = {}
    for row, text in enumerate(folded):
        digest = blake2b("".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=12).digest()
        other = first.setdefault(digest, row)
        if side[other] != side[row]:
            yield other, row


def _alike(stripped: Sequence[str], side: Integers, advance: Advance) -> Iterator[tuple[int, int]]:
    """Pairs of rows of different splits whose shingles have a Jaccard similarity of `SIMILAR`."""
    tokens, rows, sizes = _prefixes(stripped, advance)

    @lru_cache(maxsize=1 << 16)
    def cut(row: int) -> frozenset[str]:
        text = stripped[row]
        return frozenset(text[start : start + LETTERS] for start in range(len(text) - LETTERS + 1))

    for left, right in _candidates(tokens, rows, sizes, side):
        shared = len(cut(left) & cut(right))
        if shared >= SIMILAR * (sizes[left] + sizes[right] - shared):
            yield left, right


def _prefixes(stripped: Sequence[str], advance: Advance) -> tuple[Codes, Integers, Integers]:
    """The rarest shingles of each text, as many as two similar texts must share one of.

    Returns:
        tokens, shape (m,); the row of each, shape (m,); shingles by row, shape (n,).
    """
    seen = np.zeros(1 << SKETCH_BITS, dtype=np.int32)
    starts = range(0, len(stripped), CHUNK_ROWS)
    for start in starts:
        codes, _ = _codes(stripped[start : start + CHUNK_ROWS])
        seen += np.bincount(_slots(codes), minlength=seen.size).astype(np.int32)
        advance(start, 2 * len(stripped))
    sizes = np.zeros(len(stripped), dtype=np.int64)
    tokens, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for start in starts:
        codes, owner = _codes(stripped[start : start + CHUNK_ROWS])
        order = np.lexsort((codes, seen[_slots(codes)], owner))
        codes, owner = codes[order], owner[order]
        size = np.bincount(owner, minlength=min(CHUNK_ROWS, len(stripped) - start))
        sizes[start : start + size.size] = size
        rank = np.arange(codes.size) - np.repeat(np.cumsum(size) - size, size)
        first = rank <= (size - np.ceil(SIMILAR * size - 1e-9).astype(np.int64))[owner]
        tokens.append(codes[first])
        rows.append(owner[first] + start)
        advance(len(stripped) + start, 2 * len(stripped))
    return np.concatenate(tokens), np.concatenate(rows), sizes


def _codes(stripped: Sequence[str]) -> tuple[Codes, Integers]:
    """Different shingles of some texts as numbers of 63 bits, 21 a letter, and the text each is of."""
    long = [text if len(text) >= SHORTEST else "" for text in stripped]
    lengths = np.array([len(text) for text in long], dtype=np.int64)
    letters = np.frombuffer("".join(long).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if not letters.size:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    codes = (letters[:-2] << np.uint64(42)) | (letters[1:-1] << np.uint64(21)) | letters[2:]
    owner = np.repeat(np.arange(len(long)), lengths)
    whole = owner[:-2] == owner[2:]
    codes, owner = codes[whole], owner[:-2][whole]
    order = np.lexsort((codes, owner))
    codes, owner = codes[order], owner[order]
    new = np.ones(codes.size, dtype=bool)
    new[1:] = (codes[1:] != codes[:-1]) | (owner[1:] != owner[:-1])
    return codes[new], owner[new]


def _slots(codes: Codes) -> Integers:
    """Where a shingle is counted. Two may share a slot: the order by rarity stays the same for all texts."""
    return ((codes * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - SKETCH_BITS)).astype(np.int64)


def _candidates(tokens: Codes, rows: Integers, sizes: Integers, side: Integers) -> Iterator[tuple[int, int]]:
    """Pairs of rows of different splits and similar sizes that share a token, each once."""
    order = np.lexsort((rows, tokens))
    tokens, rows = tokens[order], rows[order]
    bounds = np.flatnonzero(np.diff(tokens, prepend=tokens[:1] + np.uint64(1)))
    ends = np.append(bounds[1:], tokens.size)
    mixed = np.flatnonzero(side[rows[bounds]] != side[rows[ends - 1]]) if tokens.size else bounds
    told: set[tuple[int, int]] = set()
    for start, end in zip(bounds[mixed].tolist(), ends[mixed].tolist(), strict=True):
        members = rows[start:end]
        for left, right in _crossing(members, sizes[members], side[members]):
            if (left, right) not in told:
                told.add((left, right))
                yield left, right


def _crossing(members: Integers, sizes: Integers, side: Integers) -> Iterator[tuple[int, int]]:
    """Pairs of one bucket that cross splits; rows come in order of their splits."""
    if members.size == 2:
        if min(sizes) >= SIMILAR * max(sizes):
            yield int(members[0]), int(members[1])
        return
    step = max(1, CHUNK_PAIRS // members.size)
    for start in range(0, members.size, step):
        part = slice(start, start + step)
        small, large = np.minimum.outer(sizes[part], sizes), np.maximum.outer(sizes[part], sizes)
        fits = (small >= SIMILAR * large) & np.less.outer(side[part], side)
        for left, right in zip(*np.nonzero(fits), strict=True):
            yield int(members[start + left]), int(members[right])
