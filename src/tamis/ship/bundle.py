"""The bundle: everything a student needs to judge texts, in one folder whose every file has its sum in the manifest.

manifest.json       format, versions, sha256 and size of every other file
bundle.json         template, window length, pooling, calibration, thresholds, backend, where the student comes from
policy.json         taxonomy, and the thresholds where bundle.json has none
tokenizer.json      fast tokenizer
model/              for torch: transformers folder with the merged weights (safetensors)
head.safetensors    for all that stop at hidden states: the head of categories or levels
model.onnx          for onnx and openvino: the whole network, its weights beside it in model.onnx.data
model.gguf          for gguf: the transformer
adapter_*           for adapter: its weights in peft's format; base.json names the base, whose weights are elsewhere
remote.json         for remote: where the server is
trained_on.txt      content ids of the rows whose human verdict it learnt, so that it never labels one as a teacher
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import tamis
from tamis.calibration import Calibration, Curve
from tamis.deciding import ANY, Thresholds, decide
from tamis.errors import BundleError, RemoteError
from tamis.languages import language
from tamis.policy import Policy, parse_policy
from tamis.records import NO_ANSWER, Decision, Scores, content_id, digest_of
from tamis.ship.backends import (
    BACKENDS,
    Backend,
    Name,
    Open,
    Parts,
    Quantize,
    TorchBackend,
    kind_of,
    logits_of,
    open_backend,
)
from tamis.windows import Array, Encoder, scores_of

if TYPE_CHECKING:
    from tamis.network import Pooling

FORMAT = 1
FORBIDDEN = {".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".py", ".so"}
AS_TOLD, BY_POLICY = Calibration(), Thresholds()
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BundleSpec:
    """What the bundle says of itself beside its weights.

    `measured` holds what each backend reached on the machine that exported, where it was chosen among several.
    """

    template: str
    template_hash: str
    max_tokens: int
    pooling: Pooling
    label_space: str
    temperature: float = 1.0
    curves: dict[str, Curve] = field(default_factory=dict)
    thresholds: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    backend: Name = "torch"
    quantize: Quantize = "none"
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        pooling: Pooling,
        encoder: Encoder,
        policy: Policy,
        calibration: Calibration = AS_TOLD,
        thresholds: Thresholds = BY_POLICY,
        **more: Any,
    ) -> BundleSpec:
        """What follows from the parts; `more` is the facts, the backend and its precision."""
        return cls(
            template=encoder.template,
            template_hash=encoder.template_hash,
            max_tokens=encoder.max_tokens,
            pooling=pooling,
            label_space=policy.label_space,
            temperature=calibration.temperature,
            curves=dict(calibration.curves),
            thresholds=thresholds.model_dump(),
            **more,
        )


class Moderator:
    """A loaded bundle: texts in, one `Decision` a text out."""

    def __init__(self, backend: Backend, encoder: Encoder, policy: Policy, spec: BundleSpec, version: str) -> None:
        self.backend, self.encoder, self.policy, self.spec = backend, encoder, policy, spec
        self.versions = {"policy": f"{policy.name} {policy.version}", "model": version, "tamis": tamis.__version__}
        self.calibration = Calibration(curves=spec.curves)
        self.thresholds = Thresholds.model_validate(spec.thresholds)
        self.trained_on: frozenset[str] = frozenset()

    @property
    def uncalibrated(self) -> Moderator:
        """The same model, with probabilities as it was trained to give them."""
        spec = replace(self.spec, temperature=1.0, curves={})
        return Moderator(self.backend, self.encoder, self.policy, spec, self.versions["model"])

    def __call__(self, texts: Sequence[str]) -> list[Decision]:
        """Judge texts; each decision has `.probabilities`, `.category`, `.risk` and `.action`.

        Where a server that should compute them does not answer, all of them are reviewed.
        """
        try:
            found = self.score(texts)
        except RemoteError as error:
            log.warning("%s; %d texts are reviewed", error, len(texts))
            found = [NO_ANSWER] * len(texts)
        return [self.decide(text, scores) for text, scores in zip(texts, found, strict=True)]

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """Calibrated scores of texts, as every scorer gives them.

        Raises:
            RemoteError: a server should compute them and does not answer.
        """
        if not texts:
            return []
        windows = self.encoder.encode(texts)
        logits = logits_of(self.backend, windows.ids)
        return self.scores(logits, windows.owner, windows.places)

    def scores_and_states(
        self, texts: Sequence[str], layers: Sequence[int]
    ) -> tuple[list[Scores], npt.NDArray[np.float16]]:
        """Scores of texts, and states of some layers, (texts, layers, width), which are those of the first window.

        Raises:
            BundleError: layers are asked for, and the backend is not torch.
        """
        if not layers:
            return self.score(texts), np.empty((len(texts), 0, 0), np.float16)
        if not isinstance(self.backend, TorchBackend):
            raise BundleError(
                f"a bundle served by {self.spec.backend} shows no hidden states: export it again with"
                " export.backend=torch, or use terms over answers"
            )
        from tamis.network import outputs_of

        windows = self.encoder.encode(texts)
        logits, states = outputs_of(self.backend.network, windows.ids, layers)
        return self.scores(logits, windows.owner, windows.places), states[
            np.unique(windows.owner, return_index=True)[1]
        ]

    def scores(self, logits: Array, owner: Sequence[int], places: Sequence[str]) -> list[Scores]:
        """Calibrated scores of each text from the logits of its windows; `owner` and `places` as `Windows` has them."""
        told = scores_of(logits, owner, self.policy, self.spec.temperature, places)
        return self.calibration.apply(told, self.policy) if self.spec.curves else told

    def decide(self, text: str, scores: Scores) -> Decision:
        """What is done with a text that has these scores."""
        lang = language(text) if self.thresholds.need_language else ANY
        action, reasons = decide(scores, lang, self.thresholds, self.policy)
        return Decision(content_id(text), action, scores.category, scores, self.versions, ("student",), reasons)


def write_bundle(
    parts: Parts, encoder: Encoder, policy: Policy, spec: BundleSpec, trained_on: Iterable[str], out: Path
) -> Path:
    """Write a bundle beside `out`, then put it in its place in one step; returns `out`."""
    fresh = out.with_name(out.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    BACKENDS[spec.backend].write[spec.quantize](parts, fresh)
    encoder.tokenizer.save(str(fresh / "tokenizer.json"))
    (fresh / "policy.json").write_text(policy.model_dump_json(indent=1))
    (fresh / "trained_on.txt").write_text("\n".join(sorted(trained_on)))
    return _seal(fresh, spec, out)


def place_bundle(moderator: Moderator, folder: Path, measured: Mapping[str, Mapping[str, float]], out: Path) -> Path:
    """Note in a bundle how its backend was chosen and move it to `out`; returns `out`."""
    return _seal(folder, replace(moderator.spec, measured=measured), out)


def reissue(folder: Path, policy: Policy, thresholds: Thresholds, out: Path) -> Path:
    """Write a bundle that decides by other thresholds, or by another version of its policy; returns `out`.

    All else is that of the bundle in `folder`, so its scores are the same.

    Raises:
        BundleError: there is no sound bundle in `folder`, `out` is there, or cannot be written.
    """
    check_manifest(folder)
    spec = BundleSpec(**json.loads((folder / "bundle.json").read_text()))
    if out.exists():
        raise BundleError(f"{out} is there already: name another version of the policy")
    fresh = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(folder, fresh)
        (fresh / "manifest.json").unlink()
        (fresh / "policy.json").write_text(policy.model_dump_json(indent=1))
        return _seal(fresh, replace(spec, thresholds=thresholds.model_dump()), out)
    except OSError as error:
        raise BundleError(
            f"{out} cannot be written ({error.strerror or error}): let the service write there"
        ) from error


def _seal(folder: Path, spec: BundleSpec, out: Path) -> Path:
    (folder / "bundle.json").write_text(json.dumps(asdict(spec), ensure_ascii=False, indent=1))
    _write_manifest(folder)
    shutil.rmtree(out, ignore_errors=True)
    folder.rename(out)
    return out


def load_bundle(path: str | Path, opened: Open = open_backend) -> Moderator:
    """Check every file of a bundle and load it.

    Args:
        path: of its folder.
        opened: makes its backend.

    Raises:
        BundleError: no bundle, a file added, missing or changed, pickles or code, or a template that has drifted.
        RemoteError: a server computes for it whose key is not set.
        MissingExtraError: the packages of its backend are not installed.
    """
    try:
        # A link may be switched to another bundle while this one's files are read.
        folder = Path(path).resolve()
    except ValueError as error:
        raise BundleError(f"{str(path)!r} can be the name of no folder ({error}): name that of a bundle") from error
    version = check_manifest(folder)
    policy = parse_policy((folder / "policy.json").read_text(encoding="utf-8"), where=str(folder / "policy.json"))
    spec = BundleSpec(**json.loads((folder / "bundle.json").read_text()))
    encoder = Encoder.from_file(folder / "tokenizer.json", spec.template, spec.max_tokens)
    if encoder.template_hash != spec.template_hash or policy.label_space != spec.label_space:
        raise BundleError(f"{folder}: template or label space differ from the trained ones: export the bundle again")
    backend = opened(spec.backend, folder, spec.pooling, policy, spec.max_tokens)
    moderator = Moderator(backend, encoder, policy, spec, version)
    moderator.trained_on = frozenset((folder / "trained_on.txt").read_text().split())
    return moderator


def check_servable(folder: Path) -> None:
    """See that a bundle can be loaded here, without loading it.

    Raises:
        BundleError: as `check_manifest` says.
        MissingExtraError: the packages of its backend are not installed.
    """
    check_manifest(folder)
    kind_of(json.loads((folder / "bundle.json").read_text())["backend"], folder)


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
    if not (folder / name).is_file() or digest_of(folder / name) != files[name]["sha256"]:
        raise BundleError(
            f"{folder}: {name} is missing or its sha256 differs from the manifest: copy or export it again"
        )


def _write_manifest(folder: Path) -> None:
    held = [name for name in _files(folder) if name != "manifest.json"]
    files = {n: {"sha256": digest_of(folder / n), "bytes": (folder / n).stat().st_size} for n in held}
    version = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]
    manifest = {"format": FORMAT, "version": version, "tamis": tamis.__version__, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
