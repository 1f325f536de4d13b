from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tamis
from tamis.calibration import Calibration
from tamis.config import StudentConfig
from tamis.deciding import ANY, Thresholds
from tamis.errors import BundleError
from tamis.learn.score import scorer_of
from tamis.learn.student import Student, build_student, merged
from tamis.policy import Actions, Policy
from tamis.records import Scores, content_id
from tamis.ship.bundle import BundleSpec, load_bundle, require_parity, write_bundle

TEXTS = ["今天天气很好", "注册就送彩金", "easy money no fee", "", "日入上千私我" * 60, "a\0b\ud800"]


@pytest.fixture(scope="module")
def student(tiny_qwen: Path, small_policy: Policy) -> Student:
    made = build_student(StudentConfig(model=str(tiny_qwen), max_tokens=24, pretrained_dtype="float32"), small_policy)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in made.network.named_parameters():
            if "lora_B" in name or name == "head.weight":
                weight.normal_(std=0.5)
    return made


@pytest.fixture
def bundle(student: Student, tmp_path: Path) -> Path:
    served, encoder = merged(student), student.encoder
    spec = BundleSpec.of(served.network, encoder, student.policy)
    return write_bundle(served.network, encoder, student.policy, spec, ["aa", "bb"], tmp_path / "bundle")


def test_a_loaded_bundle_decides_as_the_student(bundle: Path, student: Student) -> None:
    decisions = tamis.load(bundle)(TEXTS)
    for text, decision, scores in zip(TEXTS, decisions, scorer_of(student)(TEXTS), strict=True):
        assert decision.id == content_id(text)
        assert decision.category == scores.category
        assert set(decision.probabilities) == set(student.policy.ids)
        assert sum(decision.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert decision.risk == pytest.approx(scores.risk, abs=0.02)
        assert decision.action in {"pass", "review", "block"}


def test_it_decides_by_its_own_calibration_and_thresholds(student: Student, tmp_path: Path) -> None:
    served, policy = merged(student), student.policy
    # Log-odds of every category raised by 1, and thresholds that block Chinese texts and pass all others.
    curves = {name: ((-30.0, 30.0), (-29.0, 31.0)) for name in policy.ids}
    cells = {"zh": Actions(review=0, block=0), ANY: Actions(review=1, block=1)}
    thresholds = Thresholds(method="costs", by_category={"fraud": cells})
    spec = BundleSpec.of(served.network, student.encoder, policy, Calibration("platt", curves=curves), thresholds)
    loaded = load_bundle(write_bundle(served.network, student.encoder, policy, spec, [], tmp_path / "bundle"))
    assert [decision.action for decision in loaded(TEXTS[:3])] == ["block", "block", "pass"]
    assert loaded(TEXTS[:1])[0].reasons == ("fraud calls for block",)
    expected = Calibration("platt", curves=curves).over(scorer_of(student), policy)(TEXTS)
    for scores, wanted in zip(loaded.score(TEXTS), expected, strict=True):
        assert scores.risk == pytest.approx(wanted.risk, abs=0.02)
    assert require_parity(loaded, lambda _: expected, TEXTS)["clear_flips"] == 0


def test_it_knows_what_it_was_trained_on(bundle: Path) -> None:
    assert load_bundle(bundle).trained_on == {"aa", "bb"}


def test_nothing_to_judge_is_no_error(bundle: Path) -> None:
    assert tamis.load(bundle)([]) == []


@pytest.mark.parametrize("name", ["head.safetensors", "policy.json", "model/model.safetensors", "tokenizer.json"])
def test_a_changed_file_is_refused(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[-1] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} is missing or its sha256 differs"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["model/code.py", "pickle.bin", "x.pt"])
def test_code_and_pickles_are_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"x")
    with pytest.raises(BundleError, match="pickles and code are refused"):
        load_bundle(bundle)


def test_missing_and_extra_files_are_refused(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("x")
    with pytest.raises(BundleError, match="does not name"):
        load_bundle(bundle)
    (bundle / "notes.txt").unlink()
    (bundle / "head.safetensors").unlink()
    with pytest.raises(BundleError, match="missing"):
        load_bundle(bundle)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        load_bundle(tmp_path)


def test_pitfall_20_a_drifted_template_is_refused(bundle: Path) -> None:
    from tamis.ship.bundle import _write_manifest

    spec = json.loads((bundle / "bundle.json").read_text()) | {"template": "classify: {text}"}
    (bundle / "bundle.json").write_text(json.dumps(spec))
    (bundle / "manifest.json").unlink()
    _write_manifest(bundle)
    with pytest.raises(BundleError, match="template or label space differ"):
        load_bundle(bundle)


def test_an_interrupted_export_leaves_the_old_bundle(bundle: Path, student: Student) -> None:
    before = (bundle / "manifest.json").read_text()

    class FullDiskError(OSError):
        pass

    broken = merged(student)

    def full(folder: Path) -> None:
        raise FullDiskError(28, "No space left on device")

    broken.network.base.save_pretrained = full
    with pytest.raises(FullDiskError):
        write_bundle(broken.network, student.encoder, student.policy, load_bundle(bundle).spec, [], bundle)
    assert (bundle / "manifest.json").read_text() == before
    assert load_bundle(bundle)(["hello"])


def test_pitfall_17_parity_counts_flips_and_refuses_them(bundle: Path, student: Student) -> None:
    moderator = load_bundle(bundle)
    parity = require_parity(moderator, scorer_of(student), TEXTS)
    assert parity["flips"] == 0
    assert parity["largest_difference"] < 0.02

    def opposite(texts: list[str]) -> list[Scores]:
        return [student.policy.scores({**dict.fromkeys(student.policy.ids, 0.0), "fraud": 1.0}) for _ in texts]

    with pytest.raises(BundleError, match="otherwise than the student"):
        require_parity(moderator, opposite, TEXTS)


def test_pitfall_17_a_near_tie_may_flip_a_clear_decision_may_not(bundle: Path, student: Student) -> None:
    moderator = load_bundle(bundle)
    said = moderator.score(TEXTS)

    def nudged(to: float) -> list[Scores]:
        """The bundle's answers, each with another category ahead by `to`."""
        answers = []
        for scores in said:
            other = next(name for name in student.policy.ids if name != scores.category)
            rest = (1 - to) / 2
            shares = dict.fromkeys(student.policy.ids, 0.0) | {scores.category: rest, other: rest + to}
            answers.append(student.policy.scores(shares))
        return answers

    parity = require_parity(moderator, lambda _: nudged(0.02), TEXTS)
    assert parity["flips"] == len(TEXTS)
    assert parity["clear_flips"] == 0
    with pytest.raises(BundleError, match="otherwise than the student"):
        require_parity(moderator, lambda _: nudged(0.4), TEXTS)


@pytest.mark.parametrize("base", ["tiny_qwen", "tiny_bert"])
def test_a_compressed_bundle_is_smaller_and_decides_as_its_student(
    base: str, request: pytest.FixtureRequest, small_policy: Policy, tmp_path: Path
) -> None:
    def exported(mode: str) -> tuple[Student, Path]:
        settings = {"model": str(request.getfixturevalue(base)), "mode": mode, "lora": {"rank": 2}}
        config = StudentConfig.model_validate(settings | {"max_tokens": 24, "pretrained_dtype": "float32"})
        made = build_student(config, small_policy)
        served = merged(made)
        spec = BundleSpec.of(served.network, made.encoder, small_policy)
        return served, write_bundle(served.network, made.encoder, small_policy, spec, [], tmp_path / mode)

    (whole, full), (compressed, small) = exported("lora"), exported("pclora")
    weights = [sum(p.numel() for p in student.network.base.parameters()) for student in (whole, compressed)]
    sizes = [(folder / "model" / "model.safetensors").stat().st_size for folder in (full, small)]
    assert weights[0] > 1.4 * weights[1]
    # Four bytes a weight, but for the names in the header.
    assert sizes[0] - sizes[1] == pytest.approx(4 * (weights[0] - weights[1]), abs=4000)
    loaded = load_bundle(small)
    assert sum(p.numel() for p in loaded.network.base.parameters()) == weights[1]
    wanted = scorer_of(compressed)(TEXTS)
    for scores, expected in zip(loaded.score(TEXTS), wanted, strict=True):
        assert scores.risk == pytest.approx(expected.risk, abs=0.02)
    assert require_parity(loaded, scorer_of(compressed), TEXTS)["clear_flips"] == 0
