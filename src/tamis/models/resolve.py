"""From the name in a recipe to files on disk."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path

from tamis.errors import WeightsError
from tamis.models import e5, gguf
from tamis.models.catalogue import CATALOGUE, fetch, home
from tamis.records import digest_of

COMPLETE = "complete.json"
log = logging.getLogger(__name__)


def resolve(name: str) -> Path:
    """Path of the weights `name` stands for: itself where it exists, a catalogue model (fetched), or a hub download.

    Raises:
        WeightsError: nothing of that name can be reached.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name in CATALOGUE:
        return fetch(name)
    return _from_hub(name)


def template_of(name: str) -> str:
    """How a catalogue model wants a text shown; others get the text alone."""
    return CATALOGUE[name].template if name in CATALOGUE else "{text}"


def training_folder(name: str) -> Path:
    """A transformers folder for `name`; GGUF and e5 files are converted once and kept under their sum.

    Raises:
        WeightsError: nothing of that name can be reached, or it is damaged.
    """
    path = resolve(name)
    if path.is_dir():
        return path
    folder = home() / "converted" / f"{Path(name).name}-{digest_of(path)[:12]}"
    if not (folder / COMPLETE).is_file():
        log.info("converting %s for training, once", name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="partial-") as scratch:
            fresh = Path(scratch) / "model"
            fresh.mkdir()
            _convert(path, fresh)
            (fresh / COMPLETE).write_text(json.dumps({"source": name}))
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
    return folder


def _convert(path: Path, folder: Path) -> None:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == e5.MAGIC:
        e5.write_folder(e5.read_e5(path), folder)
    elif magic == gguf.MAGIC:
        gguf.write_folder(path, folder)
    else:
        raise WeightsError(f"{path} is neither a GGUF nor an e5 weight file: give a transformers folder or fetch again")


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (OSError, HFValidationError, RuntimeError) as error:
        raise WeightsError(
            f"no model {name!r}: it is no file or folder, none of the catalogue ({', '.join(CATALOGUE)}), no hub has it"
        ) from error
