"""Feedback as files: JSON lines of our own, tasks of Label Studio, records of Argilla; each can be read again.

What was said so far goes along in the places where those tools show it, and whole beside it, so that coming back
nothing is lost. A verdict that differs from what went along is news, and becomes one more thing said.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tamis.decisions import stamp
from tamis.errors import DataError
from tamis.feedback.examples import TEACHER, Feedback, Said
from tamis.languages import language
from tamis.records import content_id

QUESTION = "verdict"
OURS = "tamis-"
"""What the ids of results begin with that went along."""

NAME = 64
"""Characters of a reviewer's name."""

REVIEWERS = uuid.UUID("6f1f9d5e-6c0d-5b0e-9f0a-2d8f3f6f7a11")
"""Namespace of the user ids that stand for reviewers' names in Argilla."""


@dataclass(frozen=True)
class Format:
    """How feedback is written to a text and read from one."""

    write: Callable[[Sequence[Feedback]], str]
    read: Callable[[str], list[Feedback]]


def write_feedback(path: Path, feedback: Sequence[Feedback], form: str) -> None:
    """Write a file in one of `FORMATS`.

    Raises:
        DataError: it cannot be written.
    """
    try:
        # Half a surrogate pair is no UTF-8; its escape is JSON.
        path.write_text(FORMATS[form].write(feedback), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror or error}): name another file") from error


def read_feedback(path: Path, form: str) -> list[Feedback]:
    """Read a file in one of `FORMATS`.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        return FORMATS[form].read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        kind = type(error).__name__
        raise DataError(
            f"{path} is no feedback in the format {form} ({kind}): check --format, or export it again"
        ) from error


def read_texts(path: Path) -> list[str]:
    """The `text` of each JSON line of a file.

    Raises:
        DataError: it cannot be read, or a line has none.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return [str(json.loads(line)["text"]) for line in lines if line.strip()]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} has a line that is no JSON object with `text`: give one object a line") from error


def _to_lines(feedback: Sequence[Feedback]) -> str:
    return "".join(json.dumps(_line(one), ensure_ascii=False) + "\n" for one in feedback)


def _line(one: Feedback) -> dict[str, Any]:
    """A line that is a row of a source too: `text`, `lang`, and `label` where a person decides."""
    given = one.decides.verdict.split()
    label: dict[str, Any] = {"label": given[0] if len(given) == 1 else given} if one.by_person else {}
    return {"text": one.text, "lang": one.lang, **label, "feedback": _beside(one)}


def _from_lines(text: str) -> list[Feedback]:
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    return [_known(row["text"], row["feedback"]) for row in rows]


def _to_label_studio(feedback: Sequence[Feedback]) -> str:
    return json.dumps([_task(one) for one in feedback], ensure_ascii=False, indent=1) + "\n"


def _task(one: Feedback) -> dict[str, Any]:
    """A task: https://labelstud.io/guide/task_format; the teacher is a prediction, people are annotations."""
    annotations, predictions = [], []
    for number, said in enumerate(one.said):
        result = {
            "id": f"{OURS}{number}",
            "from_name": QUESTION,
            "to_name": "text",
            "type": "choices",
            "value": {"choices": said.verdict.split()},
        }
        if said.kind == TEACHER:
            predictions.append({"model_version": said.by, "score": said.probability, "result": [result]})
        else:
            annotations.append({"created_at": said.time, "result": [result]})
    data = {"text": one.text, "lang": one.lang, "feedback": _beside(one)}
    return {"data": data, "annotations": annotations, "predictions": predictions}


def _from_label_studio(text: str) -> list[Feedback]:
    return [_from_task(task) for task in json.loads(text)]


def _from_task(task: dict[str, Any]) -> Feedback:
    known = _known(task["data"]["text"], task["data"].get("feedback"))
    news = []
    for annotation in task.get("annotations", []):
        for result in annotation["result"]:
            verdict = " ".join(result["value"].get("choices", ()))
            if (
                verdict
                and not annotation.get("was_cancelled")
                and not _went_along(known, str(result.get("id")), verdict)
            ):
                news.append((_annotator(annotation), verdict, _time(annotation.get("created_at"))))
    return _with(known, news)


def _annotator(annotation: dict[str, Any]) -> str:
    """Who it was: a number or an address, as the export has it."""
    who = annotation.get("completed_by", "")
    return f"label-studio {who.get('email', '') if isinstance(who, dict) else who}".strip()[:NAME]


def _time(told: str | None) -> str:
    return stamp(datetime.fromisoformat(told)) if told else ""


def _went_along(known: Feedback, name: str, verdict: str) -> bool:
    number = name.removeprefix(OURS)
    ours = name.startswith(OURS) and number.isdecimal() and int(number) < len(known.said)
    return ours and known.said[int(number)].verdict == verdict


def _to_argilla(feedback: Sequence[Feedback]) -> str:
    return json.dumps([_record(one) for one in feedback], ensure_ascii=False, indent=1) + "\n"


def _record(one: Feedback) -> dict[str, Any]:
    """A record as `records.to_json` of Argilla 2 writes it; the teacher is a suggestion, people are responses."""
    people = [said for said in one.said if said.kind != TEACHER]
    told = [said for said in one.said if said.kind == TEACHER]
    suggested = [{"value": _value(said.verdict), "score": said.probability, "agent": said.by} for said in told]
    # A person answers a question once there: the last word of each.
    last = {_user(said.by): _value(said.verdict) for said in people}
    responses = [{"value": value, "user_id": user} for user, value in last.items()]
    return {
        "id": one.id,
        "fields": {"text": one.text},
        "metadata": {"lang": one.lang, "feedback": json.dumps(_beside(one), ensure_ascii=False)},
        "suggestions": {QUESTION: suggested[-1]} if suggested else {},
        "responses": {QUESTION: responses} if responses else {},
        "vectors": {},
        "_server_id": None,
    }


def _from_argilla(text: str) -> list[Feedback]:
    return [_from_record(record) for record in json.loads(text)]


def _from_record(record: dict[str, Any]) -> Feedback:
    beside = record.get("metadata", {}).get("feedback")
    known = _known(record["fields"]["text"], json.loads(beside) if beside else None)
    went = {(_user(said.by), said.verdict) for said in known.said}
    given = [(str(one["user_id"]), _words(one["value"])) for one in record.get("responses", {}).get(QUESTION, [])]
    return _with(known, [(f"argilla {user}", verdict, "") for user, verdict in given if (user, verdict) not in went])


def _user(name: str) -> str:
    return str(uuid.uuid5(REVIEWERS, name))


def _value(verdict: str) -> str | list[str]:
    names = verdict.split()
    return names[0] if len(names) == 1 else names


def _words(value: str | list[str]) -> str:
    return value if isinstance(value, str) else " ".join(value)


def _beside(one: Feedback) -> dict[str, Any]:
    """All but the text and its language, as a tree without what is empty."""
    tree = {name: value for name, value in asdict(one).items() if name not in ("text", "lang", "said") and value}
    said = [{name: value for name, value in asdict(each).items() if value not in (None, "")} for each in one.said]
    return tree | {"said": said}


def _known(text: str, beside: dict[str, Any] | None) -> Feedback:
    """What went along with a text; its id is always that of the text itself."""
    tree = dict(beside or {})
    said = tuple(Said(**{"time": ""} | each) for each in tree.pop("said", []))
    return Feedback(**tree | {"id": content_id(text), "text": text, "lang": language(text), "said": said})


def _with(known: Feedback, news: Iterable[tuple[str, str, str]]) -> Feedback:
    added = tuple(Said(by, "imported", verdict, time) for by, verdict, time in news)
    return Feedback(**vars(known) | {"said": (*known.said, *added)})


FORMATS = {
    "jsonl": Format(_to_lines, _from_lines),
    "label-studio": Format(_to_label_studio, _from_label_studio),
    "argilla": Format(_to_argilla, _from_argilla),
}
"""What feedback can be written as and read from."""
