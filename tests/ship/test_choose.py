from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tamis.config import StudentConfig
from tamis.errors import BundleError
from tamis.learn.score import scorer_of
from tamis.learn.student import Student, build_student, merged
from tamis.policy import Policy
from tamis.records import Example, Scores
from tamis.ship.backends import Name, Parts, Quantize
from tamis.ship.bundle import BundleSpec, load_bundle, write_bundle
from tamis.ship.choose import ROUNDS, Write, candidates, export_bundle, rates
from tamis.ship.parity import ALL


@pytest.fixture(scope="module")
def student(tiny_bert: Path, small_policy: Policy) -> Student:
    return build_student(StudentConfig(model=str(tiny_bert), max_tokens=24, pretrained_dtype="float32"), small_policy)


@pytest.fixture(scope="module")
def write(student: Student) -> Write:
    parts = Parts(lambda whole: merged(student, whole=whole).network)

    def write(backend: Name, quantize: Quantize, folder: Path) -> Path:
        spec = BundleSpec.of(
            student.network.pooling, student.encoder, student.policy, backend=backend, quantize=quantize
        )
        return write_bundle(parts, student.encoder, student.policy, spec, [], folder)

    return write


def test_auto_tries_what_there_is_and_suits(student: Student, tiny_qwen: Path, small_policy: Policy) -> None:
    encoder = student.network
    assert candidates("onnx", "int8", encoder) == [("onnx", "int8")]
    assert candidates("remote", "none", encoder) == [("remote", "none")]
    assert candidates("auto", "none", encoder) == [("torch", "none"), ("onnx", "none"), ("openvino", "none")]
    decoder = build_student(StudentConfig(model=str(tiny_qwen)), small_policy).network
    tried = candidates("auto", "int4", decoder)
    assert tried[:5] == candidates("auto", "int8", encoder)
    assert tried[5:] == [("gguf", "none"), ("gguf", "int8"), ("gguf", "int4")]
    assert candidates("auto", "int8", encoder) == [
        ("torch", "none"),
        ("onnx", "none"),
        ("onnx", "int8"),
        ("openvino", "none"),
        ("openvino", "int8"),
    ]


def test_the_fastest_that_decides_as_the_student_is_taken(
    write: Write, student: Student, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    parity = export_bundle(write, candidates("auto", "int8", student.network), scorer_of(student), examples, out)
    assert parity[ALL].clear_flips <= 1
    moderator = load_bundle(out)
    table = moderator.spec.measured
    assert set(table) == {"torch", "onnx", "onnx int8", "openvino", "openvino int8"}
    timed = {name: row["texts_per_second"] for name, row in table.items() if row["holds"]}
    quantized = "" if moderator.spec.quantize == "none" else " int8"
    assert moderator.spec.backend + quantized == max(timed, key=lambda name: timed[name])
    assert all(row["slowest"] <= row["texts_per_second"] <= row["fastest"] for row in table.values() if row["holds"])
    compared = json.loads((tmp_path / "export" / "parity.json").read_text(encoding="utf-8"))
    assert set(compared) == set(table)
    assert {"all", "language zh"} <= set(compared["onnx"])
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["parity.json"]


def test_what_decides_otherwise_is_never_put_in_place(
    write: Write, student: Student, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"

    def opposite(texts: Sequence[str]) -> list[Scores]:
        surest = {"normal": 0.0, "gambling": 0.0, "fraud": 1.0}
        return [student.policy.scores(surest) for _ in texts]

    with pytest.raises(BundleError, match=r"the torch bundle decides \d+ of 144 texts \(all\) otherwise"):
        export_bundle(write, [("torch", "none")], opposite, examples, out)
    assert not out.exists()
    assert json.loads((tmp_path / "export" / "parity.json").read_text())["torch"]["all"]["texts"] == 144


def test_they_are_timed_in_turns() -> None:
    asked: list[str] = []

    def scorer(name: str) -> object:
        return lambda texts: asked.append(name)

    found = rates({"a": scorer("a"), "b": scorer("b")}, ["x", "y"])
    assert asked == ["a", "b"] * (ROUNDS + 1)
    assert [len(values) for values in found.values()] == [ROUNDS, ROUNDS]
