"""Label rows with a teacher: cached, resumable, inside a budget, each answer committed as it arrives."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tamis.config import TeacherConfig
from tamis.errors import BudgetError, TeacherError
from tamis.policy import Policy
from tamis.records import Example, TeacherSignal
from tamis.store import Store
from tamis.teach.budget import Meter
from tamis.teach.prior import content_free, correct, prior_of
from tamis.teach.teachers import Teacher

NEVER_TWICE = {"rows": 0, "same": float("nan"), "distance": float("nan")}
"""Agreement with itself of who was asked nothing twice."""
_log = logging.getLogger(__name__)


def label(
    examples: Sequence[Example], teacher: Teacher, store: Store, config: TeacherConfig, policy: Policy
) -> dict[str, TeacherSignal]:
    """What the teacher says of each example, by id, with its prior divided out if the recipe says so.

    Answers in the store are not asked for again, refused and unparsable ones neither; failed ones are. The store keeps
    what was said, the correction is applied on the way out.

    Args:
        examples: the rows; two with the same id are asked about once.
        teacher: who is asked.
        store: where each answer is committed as it arrives.
        config: budget, prior correction and prices.
        policy: the categories.

    Raises:
        BudgetError: the next question could pass the budget; what was answered is in the store.
        TeacherError: the teacher cannot be asked, or answered another question.
    """
    nothing = content_free(config.language) if _has_one_prior(config, policy) else []
    raw = ask_all([*nothing, *examples], teacher, store, config)
    prior = prior_of((raw[example.id] for example in nothing), policy)
    return {example.id: correct(raw[example.id], prior, policy) for example in examples}


def _has_one_prior(config: TeacherConfig, policy: Policy) -> bool:
    """With nearest examples every text has a prompt, and so a prior, of its own; a common one made answers worse."""
    return config.prior_correction and policy.kind != "multi_label" and config.few_shot.kind != "nearest"


def ask_all(
    examples: Sequence[Example], teacher: Teacher, store: Store, config: TeacherConfig, repeat: int = 0
) -> dict[str, TeacherSignal]:
    """Raw signals of each example, by id: from the store, else from the teacher.

    Raises:
        BudgetError: the next question could pass the budget.
        TeacherError: the teacher cannot be asked, or answered another question.
    """
    unique = {example.id: example for example in examples}
    stored = store.signals(teacher.fingerprint, teacher.label_space, repeat)
    todo = [e for e in unique.values() if e.id not in stored or stored[e.id].outcome == "failed"]
    other = store.signals(teacher.fingerprint, teacher.label_space, 1 - repeat)
    meter = Meter(config, chain(stored.values(), other.values()))
    for signal in _answers(todo, teacher, meter):
        store.add(signal, repeat)
        stored[signal.example_id] = signal
    return {name: stored[name] for name in unique}


def _answers(todo: Sequence[Example], teacher: Teacher, meter: Meter) -> Iterator[TeacherSignal]:
    """Answers to all of `todo`; the first row ever goes alone, because the cost of the others is judged by it."""
    counts: Counter[str] = Counter()
    with _progress(len(todo)) as show:
        for rows in filter(None, (todo,) if meter.rows else (todo[:1], todo[1:])):
            if meter.rows:
                tokens, money = meter.estimate(len(rows))
                _log.info("%d rows to label: about %d tokens, %.4g in money", len(rows), tokens, money)
            for signal in _asked(rows, teacher, meter):
                counts[signal.outcome] += 1
                yield signal
                show(counts)
    if counts["failed"]:
        _log.warning("%d of %d rows failed: run again to ask them again", counts["failed"], counts.total())


def _asked(rows: Sequence[Example], teacher: Teacher, meter: Meter) -> Iterator[TeacherSignal]:
    flying: set[str] = set()
    left = list(reversed(rows))

    def feed() -> Iterator[Example]:
        while left and meter.allows(left[-1]):
            flying.add(left[-1].id)
            yield left.pop()

    with closing(teacher.ask(feed())) as stream:
        for signal in stream:
            _require_own(signal, teacher, flying)
            flying.discard(signal.example_id)
            meter.add(signal)
            yield signal
    if flying:
        raise TeacherError(f"teacher {teacher.fingerprint} left {len(flying)} rows unanswered: run again")
    if left:
        raise BudgetError(
            f"labelling stopped at {meter}: the next question could pass the budget of {meter.limit} and"
            f" {len(left)} rows are left; raise teacher.budget and run again, what is labelled is kept"
        )


def _require_own(signal: TeacherSignal, teacher: Teacher, flying: set[str]) -> None:
    """A signal must answer a question that was put, in this label space; order says nothing."""
    got = (signal.teacher, signal.label_space)
    wanted = (teacher.fingerprint, teacher.label_space)
    if signal.example_id not in flying or got != wanted:
        raise TeacherError(
            f"the teacher answered row {signal.example_id} as {' / '.join(got)}, wanted one of the rows asked about as"
            f" {' / '.join(wanted)}: nothing of this answer was kept"
        )


@contextmanager
def _progress(rows: int) -> Iterator[Callable[[Mapping[str, int]], None]]:
    """A bar on standard error with the time left, refusals and failures; nothing where that is no terminal."""
    columns = (TextColumn("labelling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    counts = TextColumn("{task.fields[refused]} refused, {task.fields[failed]} failed")
    console = Console(stderr=True)
    with Progress(*columns, counts, console=console, disable=not (rows and console.is_terminal)) as bar:
        task = bar.add_task("labelling", total=rows, refused=0, failed=0)

        def show(seen: Mapping[str, int]) -> None:
            bar.update(task, completed=sum(seen.values()), refused=seen["refused"], failed=seen["failed"])

        yield show


def agreement_with_itself(
    examples: Sequence[Example], teacher: Teacher, store: Store, config: TeacherConfig, policy: Policy
) -> dict[str, float]:
    """Ask some rows a second time and compare: the ceiling of what a student can agree with this teacher.

    Returns:
        `rows` answered both times, the share with the `same` category or categories, and the mean total variation
        `distance` of the two answers, in [0, 1], of several categories the mean over them; NaN where no row was
        answered twice.

    Raises:
        BudgetError: the next question could pass the budget.
        TeacherError: the teacher cannot be asked.
    """
    first = ask_all(examples, teacher, store, config)
    second = ask_all(examples, teacher, store, config, repeat=1)
    pairs = [(first[name], second[name]) for name in first]
    both = [(a.probabilities, b.probabilities) for a, b in pairs if a.outcome == b.outcome == "ok"]
    if not both:
        return NEVER_TWICE
    same = sum(policy.named(a) == policy.named(b) for a, b in both) / len(both)
    # Each of several categories is a distribution of its own over yes and no.
    parts = len(policy.ids) if policy.kind == "multi_label" else 2
    distance = sum(abs(a[name] - b[name]) for a, b in both for name in a) / (parts * len(both))
    return {"rows": len(both), "same": same, "distance": distance}
