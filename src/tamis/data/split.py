"""From examples to the four typed splits."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tamis.config import DataConfig, SplitConfig, SplitName
from tamis.data.sources import named
from tamis.errors import DataError
from tamis.policy import Policy
from tamis.records import CalibrationSplit, Example, Splits, TestSplit, TrainSplit, ValidationSplit

SHARED: tuple[SplitName, ...] = ("test", "validation", "calibration")
"""The splits that take a share, in the order they are cut."""
SCORE_STRATA = 10
NO_VERDICT: dict[str, Any] = {"label": None, "labels": None, "score": None, "unknown": ()}


def split(examples: Iterable[Example], config: DataConfig, policy: Policy) -> Splits:
    """Divide examples that hold no near-duplicates (see `prepare`) among the four splits.

    Rows whose source names a split go there; gold rows of the others are divided by `config.split`, stratified by
    verdict; rows no person has judged are for training. A row's place depends on the seed and its content alone, so
    that new rows move few of the old ones. Gold beyond `config.gold` is hidden in training.

    Raises:
        DataError: no verdicts, only one kind of them, fewer than classes, a split that stays empty, or an evaluation
            source nothing is left of.
    """
    examples = tuple(examples)
    _check_verdicts(examples, policy)
    forced = {str(source.name): source.split for source in named(config.sources)}
    _check_sources(examples, forced)
    parts: dict[SplitName, list[Example]] = {"train": [], "validation": [], "calibration": [], "test": []}
    strata: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        place = forced.get(example.source)
        if place is None and example.is_gold:
            strata[_stratum(example, policy)].append(example)
        else:
            parts[place if place is not None and example.is_gold else "train"].append(example)
    for name, members in strata.items():
        for place, share in _cut(name, members, config.split).items():
            parts[place].extend(share)
    _check_parts(parts, config.split)
    train = _in_order(parts["train"], examples)
    if config.gold is not None:
        train = _hide_gold(train, config.gold, policy, config.split.seed)
    return Splits(
        TrainSplit(tuple(train)),
        ValidationSplit(tuple(_in_order(parts["validation"], examples))),
        CalibrationSplit(tuple(_in_order(parts["calibration"], examples))),
        TestSplit(tuple(_in_order(parts["test"], examples))),
    )


def _in_order(members: list[Example], examples: Sequence[Example]) -> list[Example]:
    wanted = {member.id for member in members}
    return [example for example in examples if example.id in wanted]


def _check_verdicts(examples: Sequence[Example], policy: Policy) -> None:
    gold = [example for example in examples if example.is_gold]
    if not gold:
        raise DataError(
            f"none of the {len(examples)} rows has a human verdict: name the column in `label` or `score` of a source"
        )
    strata = Counter(_stratum(example, policy) for example in gold)
    if len(strata) == 1:
        raise DataError(f"all {len(gold)} human verdicts are {next(iter(strata))}: add rows of another class")
    classes = len(policy.ids)
    if len(gold) < classes and all(example.score is None for example in gold):
        raise DataError(
            f"{len(gold)} human verdicts for {classes} classes: label at least {10 * classes}, "
            "or keep fewer classes with `policy.only`"
        )


def _check_sources(examples: Sequence[Example], forced: Mapping[str, SplitName | None]) -> None:
    """Refuse an evaluation source nothing is left of: another one must not take its place in silence."""
    present = {example.source for example in examples}
    for name, place in forced.items():
        if place in SHARED and name not in present:
            raise DataError(
                f"source {name} is used for {place} and none of its rows is left: "
                "name its column of verdicts in `label`, or leave its `split` out"
            )


def _check_parts(parts: Mapping[SplitName, Sequence[Example]], config: SplitConfig) -> None:
    # All of the rows may be shared out where another source is for training; an empty train split is refused below.
    if config.validation + config.calibration + config.test > 1 + 1e-9:
        raise DataError("the shares of validation, calibration and test come to more than 1: lower `data.split`")
    for name, members in parts.items():
        needed = name == "train" or getattr(config, name) > 0
        if needed and not members:
            remedy = "" if name == "train" else f", or set `data.split.{name}` to 0"
            raise DataError(
                f"the {name} split is empty: add labelled rows, or a source with `split: {name}`, "
                f"or leave `split` out of a source so that its rows are divided{remedy}"
            )


def _stratum(example: Example, policy: Policy) -> str:
    """What must be alike in all splits: the label, the rarer end of several labels, or a tenth of the score."""
    if example.label is not None:
        return example.label
    if example.labels is not None:
        return next((label for label in reversed(policy.ids) if label in example.labels), policy.benign)
    return f"score {min(int((example.score or 0.0) * SCORE_STRATA), SCORE_STRATA - 1) / SCORE_STRATA:g}"


def _draw(seed: int, key: str) -> int:
    """A number in [0, 2^64) that depends on seed and key only."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), "big")


def _cut(name: str, members: list[Example], config: SplitConfig) -> dict[SplitName, list[Example]]:
    """Divide one stratum. Fractions of a row are rounded by one draw a stratum, so that small ones add up."""
    ranked = sorted(members, key=lambda example: _draw(config.seed, example.id))
    luck = _draw(config.seed, f"stratum {name}") / 2**64
    parts: dict[SplitName, list[Example]] = {}
    start, share = 0, 0.0
    for place in SHARED:
        share += getattr(config, place)
        end = min(math.floor(len(ranked) * share + luck), len(ranked))
        parts[place] = ranked[start:end]
        start = end
    parts["train"] = ranked[start:]
    return parts


def _hide_gold(train: Sequence[Example], keep: int, policy: Policy, seed: int) -> list[Example]:
    """Keep `keep` verdicts, shares of the classes as they were and at least one each; the rest become unlabelled."""
    strata: dict[str, list[Example]] = defaultdict(list)
    for example in train:
        if example.is_gold:
            strata[_stratum(example, policy)].append(example)
    quota = _shares({name: len(members) for name, members in strata.items()}, keep)
    shown = {
        example.id
        for name, members in strata.items()
        for example in sorted(members, key=lambda example: _draw(seed, f"gold {example.id}"))[: quota[name]]
    }
    return [example if example.id in shown else replace(example, **NO_VERDICT) for example in train]


def _shares(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide `total` in proportion to `counts`, by largest remainder, at least one each where `total` allows it."""
    whole = sum(counts.values())
    if total >= whole:
        return dict(counts)
    exact = {name: total * count / whole for name, count in counts.items()}
    floor = 1 if total >= len(counts) else 0
    quota = {name: max(math.floor(value), floor) for name, value in exact.items()}
    by_need = sorted(quota, key=lambda name: (quota[name] - exact[name], name))
    while sum(quota.values()) < total:
        name = min((n for n in by_need if quota[n] < counts[n]), key=lambda n: quota[n] - exact[n])
        quota[name] += 1
    while sum(quota.values()) > total:
        name = max((n for n in by_need if quota[n] > floor), key=lambda n: quota[n] - exact[n])
        quota[name] -= 1
    return quota
