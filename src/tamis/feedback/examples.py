"""From what people and teachers said to examples: who said what of a text, and whose word decides."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, or_, select, update

from tamis.decisions import decisions_table, forget, stamp
from tamis.languages import language
from tamis.policy import Policy
from tamis.records import Example, TeacherSignal, content_id
from tamis.reviews import Judgement, Verdict, settle, verdicts
from tamis.reviews.queue import item
from tamis.reviews.tables import ITEMS, LOCK, items_table, parts, verdicts_table
from tamis.reviews.verdicts import rank
from tamis.store import Store

TEACHER = "teacher"
"""The kind of what a teacher said; the other kinds are the causes of reviews."""


@dataclass(frozen=True)
class Said:
    """What one person or teacher said of a text.

    `kind` is why they were asked (`review`, `audit`, `selected`, `second`, `appeal`, `imported`, `teacher`), `verdict` a
    category, or several with a space between, `time` UTC, `probability` the teacher's own of its verdict.
    """

    by: str
    kind: str
    verdict: str
    time: str
    reason: str = ""
    outcome: str | None = None
    probability: float | None = None


@dataclass(frozen=True)
class Feedback:
    """A text and all that was said of it; `category` and `action` are what had been decided."""

    id: str
    text: str
    lang: str
    said: tuple[Said, ...]
    decision: str | None = None
    category: str = ""
    action: str = ""
    policy: str = ""

    @property
    def decides(self) -> Said:
        """Whose word it is: an appeal's, else the blind second verdict's, else a first one's, else the teacher's.

        Of several of one kind it is the last.
        """
        return max(self.said, key=lambda one: rank(one.kind, one.time))

    @property
    def by_person(self) -> bool:
        """Whether a person decides; what a teacher says alone is no label."""
        return self.decides.kind != TEACHER

    def example(self, policy: Policy) -> Example:
        """The example to train on, labelled where a person decides; its source says which kind of word that was."""
        decides = self.decides
        several = policy.kind == "multi_label"
        given = tuple(decides.verdict.split()) if self.by_person else None
        label = given[0] if given and not several else None
        labels = given if several else None
        return Example(self.id, self.text, self.lang, f"feedback {decides.kind}", label=label, labels=labels)


@dataclass(frozen=True)
class Truths:
    """By content: the verdict of people that decides, and the last answer of a teacher."""

    people: Mapping[str, Verdict] = field(default_factory=dict)
    teachers: Mapping[str, TeacherSignal] = field(default_factory=dict)


@dataclass(frozen=True)
class Gathered:
    """Feedback with texts, and how many contents have verdicts but no text is kept or given."""

    feedback: tuple[Feedback, ...]
    without_text: int


def truths(store: Store, policy: Policy) -> Truths:
    """What is known of the texts that were decided about.

    Raises:
        ConfigError: the database cannot be read.
    """
    return Truths(settle(verdicts(store)), store.answers(policy.label_space))


def gather(store: Store, policy: Policy, texts: Iterable[str] = (), since: datetime | None = None) -> Gathered:
    """Everything people said since a time, with the teacher's answer beside it.

    Args:
        store: the database.
        policy: whose categories the teacher was asked about.
        texts: where the decision log does not keep whole texts, those of the platform; matched by content hash.
        since: leave out texts of which nothing was said since.
    """
    said: dict[str, list[Verdict]] = defaultdict(list)
    for one in verdicts(store):
        if one.cause != "gold":
            said[one.content].append(one)
    recent = stamp(since) if since else ""
    wanted = [content for content, every in said.items() if max(one.time for one in every) >= recent]
    known, decided = _texts(store, wanted), _decisions(store, wanted)
    known |= {content: text for text in texts if (content := content_id(text)) in said}
    answers = store.answers(policy.label_space)
    found = tuple(
        _feedback(content, known[content], said[content], decided.get(content), answers.get(content))
        for content in wanted
        if content in known
    )
    return Gathered(found, len(wanted) - len(found))


def take(store: Store, feedback: Iterable[Feedback], now: datetime | None = None) -> int:
    """Write what people said elsewhere as verdicts; returns how many were new.

    A verdict that is there (the same person, text, word and time, if one is told) is not written again, so a file may be taken twice.
    What teachers said is left out: their answers come from labelling.
    """
    known = {key for one in verdicts(store) for key in _keys(one.content, one.reviewer, one.verdict, one.time)}
    moment, fresh = now or datetime.now(UTC), 0
    with store.exclusive(LOCK) as connection:
        for one in feedback:
            for said in one.said:
                keys = _keys(one.id, said.by, said.verdict, said.time)
                if said.kind == TEACHER or keys[-1] in known:
                    continue
                known.update(keys)
                fresh += 1
                row = _item(one, said, moment)
                connection.execute(insert(items_table), [row])
                judged = Judgement(said.by, said.verdict, said.reason)
                told = {"outcome": said.outcome, "time": said.time or stamp(moment), "item": row["id"]}
                connection.execute(insert(verdicts_table), [vars(judged) | told])
    return fresh


def _keys(content: str, by: str, verdict: str, time: str) -> list[tuple[str, ...]]:
    """What a verdict is known by: without its time, which some tools do not tell, and with it where there is one."""
    return [(content, by, verdict), *([(content, by, verdict, time)] if time else [])]


def forget_text(store: Store, name: str) -> int:
    """Remove what is kept of a text, in the decision log and among imported reviews; see `decisions.forget`."""
    about = or_(ITEMS.content == name, ITEMS.decision == name)
    with store.begin() as connection:
        connection.execute(update(items_table).where(about, ITEMS.cause != "gold").values(text=None))
    return forget(store, name)


def _feedback(
    content: str, text: str, said: Sequence[Verdict], decided: Mapping[str, Any] | None, answer: TeacherSignal | None
) -> Feedback:
    people = [Said(one.reviewer, one.cause, one.verdict, one.time, one.reason, one.outcome) for one in said]
    about = decided or {"id": None, "category": "", "action": "", "versions": "{}"}
    return Feedback(
        content,
        text,
        language(text),
        (*_answer(answer), *people),
        about["id"],
        about["category"],
        about["action"],
        json.loads(about["versions"]).get("policy", ""),
    )


def _answer(answer: TeacherSignal | None) -> list[Said]:
    if answer is None:
        return []
    best = max(answer.probabilities, key=lambda name: answer.probabilities[name])
    return [Said(answer.teacher, TEACHER, best, "", answer.rationale or "", None, answer.probabilities[best])]


def _item(one: Feedback, said: Said, moment: datetime) -> dict[str, Any]:
    about = {"decision": one.decision, "category": one.category, "language": one.lang, "text": one.text}
    return item(moment, one.id, said.kind, 0.0, **about) | {"state": "done"}


def _decisions(store: Store, contents: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The last decision about each content."""
    columns = decisions_table.c
    wanted = (columns.content, columns.id, columns.category, columns.action, columns.versions)
    found: dict[str, Mapping[str, Any]] = {}
    with store.begin() as connection:
        for part in parts(contents):
            query = select(*wanted).where(columns.content.in_(part)).order_by(columns.number)
            found |= {row["content"]: dict(row) for row in connection.execute(query).mappings()}
    return found


def _texts(store: Store, contents: Sequence[str]) -> dict[str, str]:
    """What the store keeps of texts: those of the decision log that are not forgotten, and imported ones."""
    columns = decisions_table.c
    found: dict[str, str] = {}
    with store.begin() as connection:
        for part in parts(contents):
            logged = select(columns.content, columns.kept).where(columns.content.in_(part), columns.kept.is_not(None))
            for row in connection.execute(logged):
                kept = json.loads(row.kept)
                found |= {row.content: kept["text"]} if "text" in kept else {}
            own = select(ITEMS.content, ITEMS.text).where(ITEMS.content.in_(part), ITEMS.text.is_not(None))
            found |= {row.content: row.text for row in connection.execute(own)}
    return found
