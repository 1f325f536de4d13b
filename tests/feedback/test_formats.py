"""The formats of other tools: their own shape, a round trip, and what people changed over there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import DataError
from tamis.feedback import FORMATS, Feedback, Said, read_feedback, read_texts, write_feedback
from tamis.languages import language
from tamis.records import content_id

TIME = "2026-03-01T12:00:00.000000+00:00"
TEACHER = Said("t@1", "teacher", "normal", "", "a joke", None, 0.75)


def feedback(text: str = "加我", *said: Said) -> Feedback:
    return Feedback(
        content_id(text), text, language(text), said or (TEACHER, Said("ann", "review", "fraud", TIME)), "d1"
    )


words = st.sampled_from(["fraud", "normal", "fraud gambling"])
people = st.builds(
    Said,
    by=st.sampled_from(["ann", "bob", "小王"]),
    kind=st.sampled_from(["review", "second", "audit", "imported"]),
    verdict=words,
    time=st.sampled_from(["", TIME]),
    reason=st.text(max_size=5),
)
teachers = st.builds(Said, st.just("t"), st.just("teacher"), words, st.just(""), probability=st.floats(0, 1))


@pytest.mark.parametrize("form", sorted(FORMATS))
@given(st.text(), st.lists(st.one_of(people, teachers), min_size=1, max_size=4))
def test_what_is_written_is_read(form: str, text: str, said: list[Said]) -> None:
    one = feedback(text, *said)
    written = FORMATS[form].write([one, one])
    assert FORMATS[form].read(written) == [one, one]


def test_a_task_of_label_studio() -> None:
    (task,) = json.loads(FORMATS["label-studio"].write([feedback()]))
    assert task["data"]["text"] == "加我"
    assert task["predictions"][0]["model_version"] == "t@1"
    assert task["predictions"][0]["score"] == 0.75
    (result,) = task["annotations"][0]["result"]
    assert (result["from_name"], result["to_name"], result["type"]) == ("verdict", "text", "choices")
    assert result["value"] == {"choices": ["fraud"]}


def test_what_annotators_of_label_studio_did() -> None:
    (task,) = json.loads(FORMATS["label-studio"].write([feedback()]))
    ours = task["annotations"][0]
    changed = json.loads(json.dumps(ours)) | {"completed_by": {"id": 3, "email": "eve@example.org"}}
    changed["result"][0]["value"]["choices"] = ["gambling"]
    fresh = {
        "completed_by": 7,
        "created_at": "2026-03-02T10:00:00.5Z",
        "result": [
            {
                "id": "Dx_aB",
                "from_name": "verdict",
                "to_name": "text",
                "type": "choices",
                "value": {"choices": ["normal"]},
            }
        ],
    }
    cancelled = fresh | {"was_cancelled": True}
    span = {"completed_by": 7, "result": [{"id": "q", "type": "labels", "value": {"labels": ["x"], "start": 0}}]}
    task["annotations"] = [ours, changed, fresh, cancelled, span]
    (one,) = FORMATS["label-studio"].read(json.dumps([task]))
    assert one.said[:2] == feedback().said
    assert one.said[2:] == (
        Said("label-studio eve@example.org", "imported", "gambling", TIME),
        Said("label-studio 7", "imported", "normal", "2026-03-02T10:00:00.500000+00:00"),
    )


def test_a_task_made_elsewhere_can_be_read() -> None:
    task = {
        "id": 1,
        "data": {"text": "hello"},
        "annotations": [
            {"completed_by": 2, "result": [{"id": "a", "type": "choices", "value": {"choices": ["normal"]}}]}
        ],
    }
    (one,) = FORMATS["label-studio"].read(json.dumps([task]))
    assert (one.id, one.lang, one.decides.verdict) == (content_id("hello"), "en", "normal")


def test_a_record_of_argilla_and_what_its_users_did() -> None:
    (record,) = json.loads(FORMATS["argilla"].write([feedback()]))
    assert record.keys() == {"id", "fields", "metadata", "suggestions", "responses", "vectors", "_server_id"}
    assert record["suggestions"] == {"verdict": {"value": "normal", "score": 0.75, "agent": "t@1"}}
    (response,) = record["responses"]["verdict"]
    assert response["value"] == "fraud"
    record["responses"]["verdict"] = [{"value": "gambling", "user_id": "u-1"}]
    (one,) = FORMATS["argilla"].read(json.dumps([record]))
    assert one.said == (*feedback().said, Said("argilla u-1", "imported", "gambling", ""))


@pytest.mark.parametrize("form", sorted(FORMATS))
@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}', '[{"data": {}}]', "\udcff"])
def test_another_file_is_one_sentence(tmp_path: Path, form: str, content: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=rf"f is no feedback in the format {form} \(\w+\): check --format"):
        read_feedback(path, form)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_feedback(tmp_path / "none", "jsonl")
    with pytest.raises(DataError, match=r"cannot write .* name another file"):
        write_feedback(tmp_path / "none" / "f", [feedback()], "jsonl")
    (tmp_path / "t").write_text('{"text": "a"}\n\n{"body": "b"}\n')
    with pytest.raises(DataError, match="a line that is no JSON object with `text`"):
        read_texts(tmp_path / "t")
    (tmp_path / "t").write_text('{"text": "a\\u2028b"}\n')
    assert read_texts(tmp_path / "t") == ["a\u2028b"]
