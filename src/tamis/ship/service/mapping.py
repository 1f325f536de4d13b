"""A decision in the words of another service: its categories are the policy's, by their `counterparts`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tamis.policy import HOLDS, Policy, Taxonomy
from tamis.records import Decision


def counterparts(policy: Policy, taxonomy: Taxonomy) -> dict[str, tuple[str, ...]]:
    """The policy's categories behind each name of another taxonomy; names that none stands behind are left out."""
    found: dict[str, tuple[str, ...]] = {}
    for category in policy.categories:
        for name in category.counterparts.get(taxonomy, ()):
            found[name] = (*found.get(name, ()), category.id)
    return found


def probability(probabilities: Mapping[str, float], ids: tuple[str, ...], policy: Policy) -> float:
    """Probability that one of some categories holds: their sum, or the largest where a text may have several."""
    told = [probabilities.get(name, 0.0) for name in ids]
    return max(told, default=0.0) if policy.kind == "multi_label" else min(1.0, math.fsum(told))


def called(decision: Decision, policy: Policy) -> frozenset[str]:
    """The harmful categories a decision that is no `pass` is about: the likeliest, and each of at least 0.5."""
    harmful = {name: p for name, p in decision.probabilities.items() if name != policy.benign}
    if decision.action == "pass" or not harmful:
        return frozenset()
    likeliest = max(harmful, key=lambda name: harmful[name])
    return frozenset({likeliest} | {name for name, p in harmful.items() if p >= HOLDS})
