"""The bundle: everything a student needs to judge texts, in one folder whose every file has its sum in the manifest.

manifest.json       format, versions, sha256 and size of every other file
bundle.json         template, window length, pooling, calibration, thresholds, where the student comes from
policy.json         taxonomy, and the thresholds where bundle.json has none
tokenizer.json      fast tokenizer
model/              transformers folder with the merged weights (safetensors)
head.safetensors    the classification head
trained_on.txt      content ids of the rows whose human verdict it learnt, so that it never labels one as a teacher
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

import tamis
from tamis.calibration import Calibration, Curve
from tamis.deciding import ANY, Thresholds, decide, limits
from tamis.errors import BundleError
from tamis.languages import language
from tamis.network import Network, Pooling, bfloat16_is_fast, load_base, outputs_of
from tamis.policy import Policy, parse_policy
from tamis.records import Decision, Scorer, Scores, content_id
from tamis.windows import Encoder, scores_of

FORMAT = 1
FORBIDDEN = {".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".py", ".so"}
FLIPS_ALLOWED = 0.01
NEAR_TIE = 0.05
AS_TOLD, BY_POLICY = Calibration(), Thresholds()


@dataclass(frozen=True)
class BundleSpec:
    """What the bundle says of itself beside its weights."""

    template: str
    template_hash: str
    max_tokens: int
    pooling: Pooling
    label_space: str
    temperature: float = 1.0
    curves: dict[str, Curve] = field(default_factory=dict)
    thresholds: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        network: Network,
        encoder: Encoder,
        policy: Policy,
        calibration: Calibration = AS_TOLD,
        thresholds: Thresholds = BY_POLICY,
        **more: Any,
    ) -> BundleSpec:
        """What follows from the parts; `more` is the facts."""
        return cls(
            template=encoder.template,
            template_hash=encoder.template_hash,
            max_tokens=encoder.max_tokens,
            pooling=network.pooling,
            label_space=policy.label_space,
            temperature=calibration.temperature,
            curves=dict(calibration.curves),
            thresholds=thresholds.model_dump(),
            **more,
        )


class Moderator:
    """A loaded bundle: texts in, one `Decision` a text out."""

    def __init__(self, network: Network, encoder: Encoder, policy: Policy, spec: BundleSpec, version: str) -> None:
        self.network, self.encoder, self.policy, self.spec = network, encoder, policy, spec
        self.versions = {"policy": f"{policy.name} {policy.version}", "model": version, "tamis": tamis.__version__}
        self.calibration = Calibration(curves=spec.curves)
        self.thresholds = Thresholds.model_validate(spec.thresholds)
        self.trained_on: frozenset[str] = frozenset()

    def __call__(self, texts: Sequence[str]) -> list[Decision]:
        """Judge texts; each decision has `.probabilities`, `.category`, `.risk` and `.action`."""
        return [self.decide(text, scores) for text, scores in zip(texts, self.score(texts), strict=True)]

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """Calibrated scores of texts, as every scorer gives them."""
        return self.scores_and_states(texts, ())[0] if texts else []

    def scores_and_states(
        self, texts: Sequence[str], layers: Sequence[int]
    ) -> tuple[list[Scores], npt.NDArray[np.float16]]:
        """Scores of texts, and states of some layers, (texts, layers, width), which are those of the first window."""
        windows = self.encoder.encode(texts)
        logits, states = outputs_of(self.network, windows.ids, layers)
        scores = scores_of(logits, windows.owner, self.policy, self.spec.temperature)
        scores = self.calibration.apply(scores, self.policy) if self.spec.curves else scores
        return scores, states[np.unique(windows.owner, return_index=True)[1]]

    def decide(self, text: str, scores: Scores) -> Decision:
        """What is done with a text that has these scores."""
        lang = language(text) if self.thresholds.need_language else ANY
        action, reasons = decide(scores, lang, self.thresholds, self.policy)
        return Decision(content_id(text), action, scores.category, scores, self.versions, ("student",), reasons)


def write_bundle(
    network: Network, encoder: Encoder, policy: Policy, spec: BundleSpec, trained_on: Iterable[str], out: Path
) -> Path:
    """Write a bundle beside `out`, then put it in its place in one step; returns `out`."""
    fresh = out.with_name(out.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    network.base.save_pretrained(fresh / "model")  # type: ignore[operator]
    save_file(
        {name: p.detach().contiguous() for name, p in network.head.named_parameters()}, fresh / "head.safetensors"
    )
    encoder.tokenizer.save(str(fresh / "tokenizer.json"))
    (fresh / "policy.json").write_text(policy.model_dump_json(indent=1))
    (fresh / "bundle.json").write_text(json.dumps(asdict(spec), ensure_ascii=False, indent=1))
    (fresh / "trained_on.txt").write_text("\n".join(sorted(trained_on)))
    _write_manifest(fresh)
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    return out


def load_bundle(path: str | Path) -> Moderator:
    """Check every file of a bundle and load it.

    Raises:
        BundleError: no bundle, a file added, missing or changed, pickles or code, or a template that has drifted.
    """
    folder = Path(path)
    version = check_manifest(folder)
    policy = parse_policy((folder / "policy.json").read_text(encoding="utf-8"), where=str(folder / "policy.json"))
    spec = BundleSpec(**json.loads((folder / "bundle.json").read_text()))
    encoder = Encoder.from_file(folder / "tokenizer.json", spec.template, spec.max_tokens)
    if encoder.template_hash != spec.template_hash or policy.label_space != spec.label_space:
        raise BundleError(f"{folder}: template or label space differ from the trained ones: export the bundle again")
    moderator = Moderator(_network(folder, spec, len(policy.ids)), encoder, policy, spec, version)
    moderator.trained_on = frozenset((folder / "trained_on.txt").read_text().split())
    return moderator


def check_manifest(folder: Path) -> str:
    """See that a bundle holds what its manifest says and nothing else; returns the bundle's version.

    Raises:
        BundleError: it does not.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        files, version = manifest["files"], str(manifest["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{folder} is no bundle: it has no readable manifest.json; make one with `tamis export`"
        ) from error
    if manifest.get("format") != FORMAT:
        raise BundleError(f"{folder} has format {manifest.get('format')}, this version reads {FORMAT}: export it again")
    found = {name for name in _files(folder) if name != "manifest.json"}
    for name in sorted(found | set(files)):
        _check_file(folder, name, files)
    return version


def _check_file(folder: Path, name: str, files: dict[str, dict[str, str | int]]) -> None:
    if Path(name).suffix in FORBIDDEN:
        raise BundleError(f"{folder} holds {name}: pickles and code are refused")
    if name not in files:
        raise BundleError(f"{folder} holds {name}, which its manifest does not name: remove it or export again")
    if not (folder / name).is_file() or _digest(folder / name) != files[name]["sha256"]:
        raise BundleError(
            f"{folder}: {name} is missing or its sha256 differs from the manifest: copy or export it again"
        )


def require_parity(moderator: Moderator, reference: Scorer, texts: Sequence[str]) -> dict[str, float]:
    """Compare a reloaded bundle with the trained student.

    Merging and 16-bit arithmetic move a probability by some hundredths, which flips decisions that were nearly a tie.
    Those are counted in `flips`; `clear_flips` counts the decisions the student was not near to taking otherwise.

    Args:
        moderator: the bundle.
        reference: the student at the same temperature.
        texts: of the calibration split.

    Raises:
        BundleError: over one clear decision in a hundred, and more than a single one, is another.
    """
    wanted, got = reference(texts), moderator.score(texts)
    act, names = moderator.decide, moderator.policy.ids
    pairs = list(zip(wanted, got, strict=True))
    flipped = [
        a
        for text, (a, b) in zip(texts, pairs, strict=True)
        if a.category != b.category or act(text, a).action != act(text, b).action
    ]
    clear = sum(_margin(scores, moderator) > NEAR_TIE for scores in flipped)
    if clear > max(1, FLIPS_ALLOWED * len(texts)):
        raise BundleError(f"the bundle decides {clear} of {len(texts)} texts otherwise than the student: not exported")
    largest = max((abs(a.probabilities[n] - b.probabilities[n]) for a, b in pairs for n in names), default=0.0)
    return {"texts": len(texts), "flips": len(flipped), "clear_flips": clear, "largest_difference": largest}


def _margin(scores: Scores, moderator: Moderator) -> float:
    """How far a decision is from another one: to the second category, or to a threshold, whichever is nearer."""
    first, second = sorted(scores.probabilities.values(), reverse=True)[:2]
    held = limits(scores, ANY, moderator.thresholds, moderator.policy)
    return min(first - second, *(abs(one.value - t) for one in held for t in (one.actions.review, one.actions.block)))


def _network(folder: Path, spec: BundleSpec, outputs: int) -> Network:
    dtype = torch.bfloat16 if bfloat16_is_fast() else torch.float32
    network = Network(load_base(folder / "model", dtype), outputs, spec.pooling)
    network.head.load_state_dict(load_file(folder / "head.safetensors"))
    return network.eval()


def _write_manifest(folder: Path) -> None:
    files = {n: {"sha256": _digest(folder / n), "bytes": (folder / n).stat().st_size} for n in _files(folder)}
    version = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]
    manifest = {"format": FORMAT, "version": version, "tamis": tamis.__version__, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
