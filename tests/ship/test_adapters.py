"""Several students over one base: real tiny models, LoRA of different ranks, a bare head, also while in use."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BertConfig, BertModel, Qwen2Config, Qwen2ForCausalLM

from tamis.config import StudentConfig
from tamis.deciding import ANY, Thresholds
from tamis.errors import BundleError
from tamis.learn.score import scorer_of
from tamis.learn.student import Student, build_student, merged
from tamis.policy import Actions, Policy, load_policy
from tamis.records import Example
from tamis.ship.adapters import SETTINGS, WEIGHTS, Adapters
from tamis.ship.backends import Parts, Quantize
from tamis.ship.bundle import BundleSpec, load_bundle, write_bundle
from tamis.ship.choose import export_bundle
from tamis.ship.parity import ALL

AGREE = 0.06
"""Between a float32 base and one in 16 bits, whose rounding the random weights of a tiny decoder make much of."""
TEXTS = ["今天天气很好", "注册就送彩金", "easy money no fee", "", "日入上千私我" * 60, "a\0b\ud800"]


def _student(base: Path, policy: Policy, seed: int, **settings: object) -> Student:
    named = {"model": str(base), "max_tokens": 24, "pretrained_dtype": "float32"} | settings
    made = build_student(StudentConfig.model_validate(named), policy)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in made.network.named_parameters():
            if "lora_B" in name or name == "head.weight":
                weight.normal_(std=0.1)
    return made


def _bundle(student: Student, folder: Path, thresholds: Thresholds | None = None) -> Path:
    parts = Parts(lambda whole: merged(student, whole=whole).network, student.network, student.config.model)
    more = {"thresholds": thresholds} if thresholds else {}
    spec = BundleSpec.of(student.network.pooling, student.encoder, student.policy, backend="adapter", **more)
    return write_bundle(parts, student.encoder, student.policy, spec, ["aa"], folder)


@pytest.fixture(scope="module", params=["tiny_qwen", "tiny_bert"])
def base(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def students(base: Path, small_policy: Policy) -> dict[str, Student]:
    return {
        "thin": _student(base, small_policy, 1, lora={"rank": 2}),
        "thick": _student(base, load_policy("default"), 2, lora={"rank": 8, "targets": ["value"]}, max_tokens=40),
        "head": _student(base, load_policy("severity"), 3, mode="head", template="Text: {text}"),
    }


@pytest.fixture(scope="module")
def bundles(students: dict[str, Student], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: _bundle(student, folder / name) for name, student in students.items()}


@pytest.fixture
def adapters(base: Path, bundles: dict[str, Path]) -> Adapters:
    made = Adapters(str(base))
    for name, folder in bundles.items():
        made.add(name, folder)
    return made


def _agree(adapters: Adapters, students: dict[str, Student], names: list[str]) -> None:
    texts = [text for text in TEXTS for _ in names]
    asked = names * len(TEXTS)
    found = adapters.score(texts, asked)
    for name in names:
        wanted = scorer_of(students[name])(TEXTS)
        got = [scores for scores, other in zip(found, asked, strict=True) if other == name]
        for one, other in zip(got, wanted, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=AGREE), name


def test_each_text_is_judged_by_the_student_it_asks_for_in_common_batches(
    adapters: Adapters, students: dict[str, Student]
) -> None:
    assert adapters.names == ("thin", "thick", "head")
    _agree(adapters, students, ["thin", "thick", "head"])
    assert adapters.score([], []) == []
    # Alone it is the same as in company.
    alone = adapters["thick"].score(TEXTS)
    for one, other in zip(alone, adapters.score(TEXTS, ["thick"] * len(TEXTS)), strict=True):
        assert one.risk == pytest.approx(other.risk, abs=1e-6)


def test_the_students_differ(students: dict[str, Student], small_policy: Policy, base: Path, tmp_path: Path) -> None:
    # Else a mix-up of adapters would show nowhere: the same head on the bare base says something else.
    adapters, student = Adapters(str(base)), students["thin"]
    adapters.add("thin", _bundle(student, tmp_path / "thin"))
    bare = _student(base, small_policy, 1, mode="head")
    bare.network.head.load_state_dict(student.network.head.state_dict())
    adapters.add("bare", _bundle(bare, tmp_path / "bare"))
    both = adapters.score(["注册就送彩金"] * 2, ["thin", "bare"])
    apart = [abs(both[0].probabilities[name] - both[1].probabilities[name]) for name in small_policy.ids]
    assert max(apart) > 0.05
    alone = scorer_of(bare)(["注册就送彩金"])[0]
    assert both[1].probabilities == pytest.approx(alone.probabilities, abs=0.02)


def test_thresholds_and_versions_are_each_students_own(base: Path, small_policy: Policy, tmp_path: Path) -> None:
    adapters = Adapters(str(base))
    student = _student(base, small_policy, 1, lora={"rank": 2})
    for name, (review, block) in {"strict": (0.0, 0.0), "lax": (1.0, 1.0)}.items():
        cells = {ANY: Actions(review=review, block=block)}
        adapters.add(name, _bundle(student, tmp_path / name, Thresholds(method="costs", by_category={"fraud": cells})))
    decisions = adapters(TEXTS[:2] * 2, ["strict", "lax", "lax", "strict"])
    assert [decision.action for decision in decisions] == ["block", "pass", "pass", "block"]
    assert decisions[0].versions["model"] != decisions[1].versions["model"]


def test_adapters_come_and_go(adapters: Adapters, students: dict[str, Student], bundles: dict[str, Path]) -> None:
    adapters.remove("thin")
    _agree(adapters, students, ["thick", "head"])
    with pytest.raises(BundleError, match=r"no adapter 'thin' over .*: add it, there are thick, head"):
        adapters.score(TEXTS[:2], ["head", "thin"])
    adapters.remove("thick")
    assert not isinstance(adapters._base, PeftModel)
    _agree(adapters, students, ["head"])
    adapters.add("thin", bundles["thin"])
    _agree(adapters, students, ["head", "thin"])
    weights = sum(p.numel() for p in adapters._base.parameters())
    # The same name again: the new one takes the place of the old, whose weights are freed.
    adapters.add("thin", bundles["thin"])
    assert sum(p.numel() for p in adapters._base.parameters()) == weights
    _agree(adapters, students, ["head", "thin"])
    with pytest.raises(BundleError, match="no adapter 'none'"):
        adapters.remove("none")


def test_adding_and_removing_changes_no_answer_in_flight(
    adapters: Adapters, bundles: dict[str, Path], students: dict[str, Student]
) -> None:
    wanted = [scores.risk for scores in adapters.score(TEXTS, ["thick", "head"] * 3)]
    over, wrong, rounds = threading.Event(), [], []

    def judge() -> None:
        while not over.is_set():
            found = [scores.risk for scores in adapters.score(TEXTS, ["thick", "head"] * 3)]
            rounds.append(1)
            if not np.allclose(found, wanted, atol=1e-5):
                wrong.append(found)

    threads = [threading.Thread(target=judge) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(10):
        adapters.add(f"more{i}", bundles["thin"])
        adapters.add("thin", bundles["thin"])
        adapters.remove(f"more{i}")
    over.set()
    for thread in threads:
        thread.join()
    assert len(rounds) > 3
    assert not wrong


def test_switched_off_the_base_says_its_own_next_token(tokenizer: Path, small_policy: Policy, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    folder = tmp_path / "tied"
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for path in tokenizer.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    adapters = Adapters(str(folder))
    rows = [[5, 6, 7], [200], [3, 4, 5, 6, 7, 8]]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = np.stack([model(torch.tensor([row])).logits[0, -1].numpy() for row in rows])
    before = adapters.next_token(rows)
    assert np.linalg.norm(before - wanted) < 0.03 * np.linalg.norm(wanted)
    adapters.add("thin", _bundle(_student(folder, small_policy, 1, lora={"rank": 4}), tmp_path / "thin"))
    np.testing.assert_array_equal(adapters.next_token(rows), before)


def test_a_base_without_an_output_says_no_token(tiny_bert: Path) -> None:
    with pytest.raises(BundleError, match="says no next token: it has no output layer"):
        Adapters(str(tiny_bert)).next_token([[1]])


def test_a_bundle_for_adapter_passes_the_gate_and_is_small(
    students: dict[str, Student], examples: tuple[Example, ...], base: Path, tmp_path: Path
) -> None:
    student = students["thin"]

    def write(_backend: str, _quantize: Quantize, folder: Path) -> Path:
        return _bundle(student, folder)

    parity = export_bundle(write, [("adapter", "none")], scorer_of(student), examples, tmp_path / "bundle")
    assert parity[ALL].clear_flips <= 1
    assert (tmp_path / "bundle" / WEIGHTS).stat().st_size < 0.2 * (base / "model.safetensors").stat().st_size
    # peft itself can read it.
    settings = json.loads((tmp_path / "bundle" / SETTINGS).read_text())
    assert (settings["peft_type"], settings["r"]) == ("LORA", 2)


@pytest.mark.parametrize("layers", [None, 2])
def test_a_base_of_many_layers(tokenizer: Path, small_policy: Policy, tmp_path: Path, layers: int | None) -> None:
    # From 20 layers with adapters on peft notes the endings of their names alone.
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=400, **sizes), add_pooling_layer=False).save_pretrained(tmp_path / "deep")
    for path in tokenizer.iterdir():
        (tmp_path / "deep" / path.name).write_bytes(path.read_bytes())
    student = _student(tmp_path / "deep", small_policy, 1, lora={"rank": 2, "layers": layers})
    folder = _bundle(student, tmp_path / "bundle")
    if layers is None:
        assert len(json.loads((folder / SETTINGS).read_text())["target_modules"]) < 20
    adapters = Adapters(str(tmp_path / "deep"))
    adapters.add("deep", folder)
    _agree(adapters, {"deep": student}, ["deep"])


def test_what_is_over_another_base_is_refused(
    bundles: dict[str, Path], base: Path, tiny_qwen: Path, tiny_bert: Path
) -> None:
    adapters = Adapters(str(tiny_bert if base == tiny_qwen else tiny_qwen))
    with pytest.raises(BundleError, match="whose weights differ from those of"):
        adapters.add("thin", bundles["thin"])
    assert adapters.names == ()


def test_other_bundles_and_students_are_refused(
    students: dict[str, Student], base: Path, small_policy: Policy, tmp_path: Path
) -> None:
    student = students["thin"]
    parts = Parts(lambda whole: merged(student, whole=whole).network)
    spec = BundleSpec.of(student.network.pooling, student.encoder, student.policy, backend="torch")
    whole = write_bundle(parts, student.encoder, student.policy, spec, [], tmp_path / "whole")
    with pytest.raises(BundleError, match="is served by torch and brings its own base: export it for adapter"):
        Adapters(str(base)).add("whole", whole)
    with pytest.raises(BundleError, match=r"changed .* itself: export\.backend=adapter wants student\.mode lora"):
        _bundle(_student(base, small_policy, 1, mode="full"), tmp_path / "full")


def test_weights_of_other_layers_are_refused(bundles: dict[str, Path], base: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    from tamis.ship.bundle import _write_manifest

    folder = shutil.copytree(bundles["thin"], tmp_path / "thin")
    weights = load_file(folder / WEIGHTS)
    weights.pop(min(weights))
    save_file(weights, folder / WEIGHTS)
    _write_manifest(folder)
    adapters = Adapters(str(base))
    with pytest.raises(
        BundleError, match=r"adapter_model\.safetensors has \d+ weights, its settings want \d+: export again"
    ):
        adapters.add("thin", folder)
    assert load_bundle(bundles["thin"]).trained_on == {"aa"}
