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
from tamis.policy import Actions, Policy, load_policy
from tamis.records import Example, content_id
from tamis.ship.backends import Parts, TorchBackend
from tamis.ship.bundle import BundleSpec, load_bundle, reissue, write_bundle
from tamis.ship.parity import ALL, compare

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
    spec = BundleSpec.of(served.network.pooling, encoder, student.policy)
    parts = Parts(lambda _whole: served.network)
    return write_bundle(parts, encoder, student.policy, spec, ["aa", "bb"], tmp_path / "bundle")


def test_a_loaded_bundle_decides_as_the_student(bundle: Path, student: Student) -> None:
    decisions = tamis.load(bundle)(TEXTS)
    for text, decision, scores in zip(TEXTS, decisions, scorer_of(student)(TEXTS), strict=True):
        assert decision.id == content_id(text)
        assert decision.category == scores.category
        assert set(decision.probabilities) == set(student.policy.ids)
        assert sum(decision.probabilities.values()) == pytest.approx(1, abs=1e-5)
        # Merged in 16 bits, where the student is not.
        assert decision.risk == pytest.approx(scores.risk, abs=0.04)
        assert decision.action in {"pass", "review", "block"}


def test_it_decides_by_its_own_calibration_and_thresholds(student: Student, tmp_path: Path) -> None:
    served, policy = merged(student), student.policy
    # Log-odds of every category raised by 1, and thresholds that block Chinese texts and pass all others.
    curves = {name: ((-30.0, 30.0), (-29.0, 31.0)) for name in policy.ids}
    cells = {"zh": Actions(review=0, block=0), ANY: Actions(review=1, block=1)}
    thresholds = Thresholds(method="costs", by_category={"fraud": cells})
    pooling, parts = served.network.pooling, Parts(lambda _whole: served.network)
    spec = BundleSpec.of(pooling, student.encoder, policy, Calibration("platt", curves=curves), thresholds)
    loaded = load_bundle(write_bundle(parts, student.encoder, policy, spec, [], tmp_path / "bundle"))
    assert [decision.action for decision in loaded(TEXTS[:3])] == ["block", "block", "pass"]
    assert loaded(TEXTS[:1])[0].reasons == ("fraud calls for block",)
    expected = Calibration("platt", curves=curves).over(scorer_of(student), policy)(TEXTS)
    for scores, wanted in zip(loaded.score(TEXTS), expected, strict=True):
        assert scores.risk == pytest.approx(wanted.risk, abs=0.02)
    examples = [Example(str(i), text, "zh", "made") for i, text in enumerate(TEXTS)]
    assert compare(expected, loaded.score(TEXTS), examples, loaded)[ALL].clear_flips == 0


def test_a_reissued_bundle_decides_by_other_thresholds_with_the_same_scores(bundle: Path, tmp_path: Path) -> None:
    old = load_bundle(bundle)
    actions = Actions(review=0.0, block=1.0)
    policy = old.policy.model_copy(update={"version": "next", "actions": actions})
    fresh = load_bundle(reissue(bundle, policy, Thresholds(), tmp_path / "next"))
    assert fresh.versions["policy"] == f"{policy.name} next"
    assert fresh.versions["model"] != old.versions["model"]
    assert fresh.trained_on == old.trained_on
    texts = ["今天天气很好", "no fee needed"]
    assert fresh.score(texts) == old.score(texts)
    assert {one.action for one in fresh(texts)} == {"review"}
    # The old one is as it was, and what is there is not written over.
    assert load_bundle(bundle).versions == old.versions
    with pytest.raises(BundleError, match="is there already: name another version"):
        reissue(bundle, policy, Thresholds(), tmp_path / "next")
    with pytest.raises(BundleError, match="cannot be written"):
        reissue(bundle, policy, Thresholds(), tmp_path / "next" / "policy.json" / "inside")


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
    for name in ("a\0b", "\ud800"):
        with pytest.raises(BundleError, match="no folder"):
            load_bundle(name)


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
    spec, parts = load_bundle(bundle).spec, Parts(lambda _whole: broken.network)
    with pytest.raises(FullDiskError):
        write_bundle(parts, student.encoder, student.policy, spec, [], bundle)
    assert (bundle / "manifest.json").read_text() == before
    assert load_bundle(bundle)(["hello"])


@pytest.mark.parametrize("base", ["tiny_qwen", "tiny_bert"])
def test_a_compressed_bundle_is_smaller_and_decides_as_its_student(
    base: str, request: pytest.FixtureRequest, small_policy: Policy, tmp_path: Path
) -> None:
    def exported(mode: str) -> tuple[Student, Path]:
        settings = {"model": str(request.getfixturevalue(base)), "mode": mode, "lora": {"rank": 2}}
        config = StudentConfig.model_validate(settings | {"max_tokens": 24, "pretrained_dtype": "float32"})
        made = build_student(config, small_policy)
        served = merged(made)
        spec = BundleSpec.of(served.network.pooling, made.encoder, small_policy)
        parts = Parts(lambda _whole: served.network)
        return served, write_bundle(parts, made.encoder, small_policy, spec, [], tmp_path / mode)

    (whole, full), (compressed, small) = exported("lora"), exported("pclora")
    weights = [sum(p.numel() for p in student.network.base.parameters()) for student in (whole, compressed)]
    sizes = [(folder / "model" / "model.safetensors").stat().st_size for folder in (full, small)]
    assert weights[0] > 1.4 * weights[1]
    # Four bytes a weight, but for the names in the header.
    assert sizes[0] - sizes[1] == pytest.approx(4 * (weights[0] - weights[1]), abs=4000)
    loaded = load_bundle(small)
    assert isinstance(loaded.backend, TorchBackend)
    assert sum(p.numel() for p in loaded.backend.network.base.parameters()) == weights[1]
    wanted = scorer_of(compressed)(TEXTS)
    for scores, expected in zip(loaded.score(TEXTS), wanted, strict=True):
        assert scores.risk == pytest.approx(expected.risk, abs=0.02)


def test_a_bundle_of_levels_has_the_ordinal_head_and_decides_as_the_student(tiny_qwen: Path, tmp_path: Path) -> None:
    policy = load_policy("severity")
    made = build_student(StudentConfig(model=str(tiny_qwen), max_tokens=24, pretrained_dtype="float32"), policy)
    with torch.no_grad():
        made.network.head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
        made.network.head.bias.copy_(torch.tensor([0.5, -0.2, 0.3]))
    served = merged(made)
    spec = BundleSpec.of(served.network.pooling, made.encoder, policy)
    write_bundle(Parts(lambda _whole: served.network), made.encoder, policy, spec, [], tmp_path / "bundle")
    loaded = load_bundle(tmp_path / "bundle")
    assert isinstance(loaded.backend, TorchBackend)
    torch.testing.assert_close(loaded.backend.network.head.bias, made.network.head.bias)
    for decision, scores in zip(loaded(TEXTS), scorer_of(made)(TEXTS), strict=True):
        # Merged in 16 bits, where the student is not.
        assert decision.risk == pytest.approx(scores.risk, abs=0.04)
        assert list(decision.probabilities) == ["none", "mild", "serious", "extreme"]
