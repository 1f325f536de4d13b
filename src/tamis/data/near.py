"""Near-duplicates by MinHash and banding, verified by exact Jaccard similarity.

datasketch computes the same signatures but needs over 5 GB of tables for a million rows; here signatures come from
numpy and a bucket holds only rows that are kept, so memory stays flat however many copies a text has.
MinHash: Broder (1997). Banding: Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4.
"""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tamis.data.rows import Advance, ignore

PERMUTATIONS = 128
MISSED = 1e-4
"""Largest probability of missing a pair that is exactly as similar as the threshold."""
CHUNK_ROWS = 4096
DEVIATIONS = 5
"""Standard deviations the estimate of a pair may lie below the threshold before the pair is passed over."""
Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint32]


class _Dropped(dict[int, int | None]):
    """A translation table without numbers, punctuation, white space and invisible characters, filled as needed."""

    def __missing__(self, code: int) -> int | None:
        self[code] = None if unicodedata.category(chr(code))[0] in "NPZC" else code
        return self[code]


DROPPED = _Dropped()


def fold(text: str) -> str:
    """What shingles are cut from: NFKC, lower case, letters and symbols only; another number makes no other text."""
    return unicodedata.normalize("NFKC", text).lower().translate(DROPPED)


def shingles(text: str, length: int) -> frozenset[str]:
    """Character shingles of a text; none where its folded form is shorter than one."""
    folded = fold(text)
    return frozenset(folded[start : start + length] for start in range(len(folded) - length + 1))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Size of the intersection over size of the union, in [0, 1]; 0 for two empty sets."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared) if shared else 0.0


def banding(threshold: float) -> tuple[int, int]:
    """Bands and rows a band: the most selective that miss a pair at `threshold` with probability `MISSED` at most."""
    for rows in range(PERMUTATIONS, 0, -1):
        agree = threshold**rows
        bands = 1 if agree >= 1 else math.ceil(math.log(MISSED) / math.log1p(-agree)) if agree > 0 else PERMUTATIONS + 1
        if bands * rows <= PERMUTATIONS:
            return bands, rows
    return PERMUTATIONS, 1


def near_duplicates(
    texts: Sequence[str], order: Integers, group: Integers, shingle: int, threshold: float, advance: Advance = ignore
) -> Integers:
    """For each text the index of the kept text it is a near-duplicate of, -1 where it is kept itself.

    Rows are taken in `order`: each is kept unless it is near one kept before, so that no two kept rows are near.

    Args:
        texts: shape (n,).
        order: shape (n,); indices, the most worth keeping first.
        group: shape (n,); rows of one group are never duplicates of each other, -1 is no group.
        shingle: characters a shingle.
        threshold: Jaccard similarity in (0, 1] from which two texts are near.
        advance: told the rows done; each counts twice.
    """
    bands, rows = banding(threshold)
    signatures = _signatures(texts, shingle, bands * rows, advance)
    buckets = _buckets(signatures, bands, rows)
    match = np.full(len(texts), -1, dtype=np.int64)
    kept: dict[int, list[int]] = defaultdict(list)

    @lru_cache(maxsize=1 << 16)
    def cut(index: int) -> frozenset[str]:
        return shingles(texts[index], shingle)

    crowded = buckets.max(axis=1) >= 0
    for done, index in enumerate(order[crowded[order]].tolist()):
        if done % CHUNK_ROWS == 0:
            advance(len(texts) + done, 2 * len(texts))
        keys = [key for key in buckets[index].tolist() if key >= 0]
        near = _likely({other for key in keys for other in kept[key]}, index, signatures, group, threshold)
        found = next((other for other in near if jaccard(cut(index), cut(other)) >= threshold), -1)
        match[index] = found
        if found < 0:
            for key in keys:
                kept[key].append(index)
    advance(2 * len(texts), 2 * len(texts))
    return match


def _likely(near: set[int], index: int, signatures: Signatures, group: Integers, threshold: float) -> list[int]:
    """Candidates in order whose signatures agree about as often as `threshold` asks."""
    if not near:
        return []
    others = np.array(sorted(near))
    if group[index] >= 0:
        others = others[group[others] != group[index]]
    agreement = (signatures[others] == signatures[index]).mean(axis=1)
    margin = DEVIATIONS * math.sqrt(threshold * (1 - threshold) / signatures.shape[1])
    return [int(other) for other in others[agreement >= threshold - margin]]


def _signatures(texts: Sequence[str], shingle: int, permutations: int, advance: Advance) -> Signatures:
    """Minimum hashes, shape (n, permutations); all ones where a text is shorter than a shingle."""
    random = np.random.default_rng(20_240_501)
    factors = random.integers(1, 2**63, permutations, dtype=np.uint64) | np.uint64(1)
    offsets = random.integers(0, 2**63, permutations, dtype=np.uint64)
    signatures = np.full((len(texts), permutations), np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(texts), CHUNK_ROWS):
        hashes, starts, rows = _shingle_hashes(texts[start : start + CHUNK_ROWS], shingle)
        if rows.size:
            for column in range(permutations):
                mixed = ((hashes * factors[column] + offsets[column]) >> np.uint64(32)).astype(np.uint32)
                signatures[start + rows, column] = np.minimum.reduceat(mixed, starts)
        advance(start, 2 * len(texts))
    return signatures


def _shingle_hashes(texts: Sequence[str], shingle: int) -> tuple[Hashes, Integers, Integers]:
    """Hashes of all shingles of some texts, where each text's begin, and which texts have any."""
    folded = [fold(text) for text in texts]
    lengths = np.array([len(text) for text in folded], dtype=np.int64)
    codes = np.frombuffer("".join(folded).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    counts = np.maximum(lengths - shingle + 1, 0)
    rows = np.flatnonzero(counts)
    if not rows.size:
        return np.empty(0, np.uint64), rows, rows
    hashes = np.zeros(codes.size - shingle + 1, dtype=np.uint64)
    for step in range(shingle):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[step : step + hashes.size] + np.uint64(1)
    ends = np.cumsum(lengths)
    inside = np.arange(hashes.size) < np.repeat(ends - lengths + counts, lengths)[: hashes.size]
    starts = np.cumsum(counts[rows]) - counts[rows]
    return _mixed(hashes[inside]), starts, rows


def _mixed(hashes: Hashes) -> Hashes:
    """Finaliser of splitmix64 (Steele, Lea, Flood, 2014): every bit of the input reaches every bit of the output."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _buckets(signatures: Signatures, bands: int, rows: int) -> npt.NDArray[np.int32]:
    """Bucket number by row and band, shape (n, bands); -1 where a row is alone in its bucket or has no shingles."""
    buckets = np.full((len(signatures), bands), -1, dtype=np.int32)
    some = np.flatnonzero((signatures != np.iinfo(np.uint32).max).any(axis=1))
    first = 0
    for band in range(bands):
        key = np.zeros(some.size, dtype=np.uint64)
        for column in range(band * rows, (band + 1) * rows):
            key = _mixed(key * np.uint64(31) + signatures[some, column])
        _, number, count = np.unique(key, return_inverse=True, return_counts=True)
        shared = count[number] > 1
        buckets[some[shared], band] = first + number[shared]
        first += count.size
    return buckets
