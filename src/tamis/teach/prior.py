"""What a teacher answers whatever the text is, divided out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from tamis.policy import Language, Policy
from tamis.records import Example, TeacherSignal, content_id

CONTENT_FREE = ("", "N/A", "无", "……")
FLOOR = 1e-4
"""No category's prior is taken for smaller: a token outside the top 20 is rare, not impossible."""
CORRECTED = ("logprobs", "local_logits")


def content_free(language: Language) -> list[Example]:
    """Questions about nothing; their answers are the prior (contextual calibration, Zhao et al., 2021)."""
    return [Example(content_id(text), text, language, "content-free") for text in CONTENT_FREE]


def prior_of(signals: Iterable[TeacherSignal], policy: Policy) -> dict[str, float]:
    """Mean normalised answer to these questions; empty when none has one.

    Over content-free questions this is contextual calibration; over many rows it is batch calibration (Zhou et al.,
    2023), which takes a rare category for an unwilling teacher and so suits balanced rows only.
    """
    rows = [normalised(signal.probabilities) for signal in signals if _is_correctable(signal)]
    if not rows:
        return {}
    return normalised({name: max(FLOOR, sum(row.get(name, 0.0) for row in rows) / len(rows)) for name in policy.ids})


def correct(signal: TeacherSignal, prior: Mapping[str, float], policy: Policy) -> TeacherSignal:
    """Divide the prior out and normalise to 1; `known_mass` stays what it was. Votes and words are left as they are."""
    if not prior or not _is_correctable(signal):
        return signal
    probabilities = normalised({name: p / prior[name] for name, p in signal.probabilities.items()})
    return replace(signal, probabilities=probabilities, risk=policy.risk(probabilities))


def _is_correctable(signal: TeacherSignal) -> bool:
    # A classifier or a bundle is asked without a prompt: it was fitted to its categories and leans to none of them.
    return signal.outcome == "ok" and signal.method in CORRECTED and bool(signal.prompt_hash)


def normalised(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Divided by their sum."""
    total = sum(probabilities.values()) or 1.0
    return {name: p / total for name, p in probabilities.items()}
