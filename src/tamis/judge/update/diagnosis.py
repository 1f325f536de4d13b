"""What the running model missed, and whose fault it is: the teacher's, who missed it too, or the student's alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tamis.calibration import categories_of
from tamis.judge.update.result import Advice, Missed
from tamis.policy import Policy
from tamis.records import Example

Said = Mapping[str, tuple[str, ...]]
"""The categories somebody named, by example id; a row that was not answered is not there."""


def missed_by(said: Said, examples: Sequence[Example], policy: Policy) -> list[Example]:
    """The examples in which a category that holds was not named."""
    return [row for row in examples if not set(categories_of(row, policy)) <= set(said.get(row.id, ()))]


def diagnose(
    examples: Sequence[Example], old: Said, teacher: Said, new: Said, policy: Policy, added: Collection[str]
) -> dict[str, Missed]:
    """Count the misses of each category that has reviewed texts.

    Args:
        examples: every reviewed text, none of which the running model had learnt.
        old: what the running model named.
        teacher: what the teacher named in the texts that were missed, as far as it was asked and answered.
        new: what the new model names in the texts that it has not learnt either.
        policy: of the verdicts.
        added: categories the running model does not know.
    """
    found = {}
    for name in policy.ids:
        rows = [row for row in examples if name in categories_of(row, policy)]
        if rows:
            missed = [row.id for row in rows if name not in old.get(row.id, ())]
            alone = sum(name in teacher.get(row, ()) for row in missed)
            shared = sum(row in teacher for row in missed) - alone
            found[name] = Missed(
                rows=len(rows),
                missed=len(missed),
                shared=shared,
                alone=alone,
                tested=sum(row in new for row in missed),
                mended=sum(name in new.get(row, ()) for row in missed),
                advice=_advice(name in added, shared, alone),
            )
    return found


def _advice(is_new: bool, shared: int, alone: int) -> Advice:
    if is_new:
        return "new"
    if not shared + alone:
        return "unasked"
    return "teacher" if shared > alone else "student"
