"""Hidden states of a local teacher, kept for feature distillation: float16 rows and an index of content ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from tamis.config import TeacherConfig
from tamis.errors import ConfigError, DataError
from tamis.models import home
from tamis.records import Example
from tamis.store import Store

Vectors = npt.NDArray[np.float16]
Reads = Callable[[Sequence[Example]], Vectors]
"""Hidden states of some examples, (rows, layers, width)."""


@runtime_checkable
class HasStates(Protocol):
    """A teacher of this process, which can show its hidden states."""

    def states(self, examples: Sequence[Example]) -> npt.NDArray[np.float16]:
        """Hidden states of these examples, (rows, layers, width); the layers are `teacher.features`."""


class FeatureFile:
    """`NAME.npy` of shape (rows, width), memory-mapped when read, and `NAME.ids`, one content id a line.

    A row is written before its id, so a run killed between the two leaves a row without a name, which is overwritten.
    """

    def __init__(self, path: Path, width: int) -> None:
        # Not with_suffix: names of models hold dots.
        self.name = path.name.removesuffix(".npy")
        self.path = path.with_name(f"{self.name}.npy")
        self.index = path.with_name(f"{self.name}.ids")
        self.width = width
        self._rows = {name: row for row, name in enumerate(_names(self.index))}

    @classmethod
    def open(cls, path: Path) -> Self:
        """A file that is there, with the width it has.

        Raises:
            DataError: it is not there.
        """
        if not path.is_file():
            raise DataError(f"the teacher's hidden states {path} are gone: remove the `label` folder and label again")
        return cls(path, int(np.load(path, mmap_mode="r").shape[1]))

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, name: str, vector: npt.ArrayLike) -> str:
        """Keep one vector under a content id and return its reference; one that is there stays.

        Raises:
            DataError: it has another width than the file.
        """
        row = np.asarray(vector, dtype=np.float16).reshape(-1)
        if row.shape != (self.width,):
            raise DataError(f"feature of {name} has {row.size} numbers, {self.path} holds {self.width}: use another")
        if name not in self._rows:
            self._append(row)
            with self.index.open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")
            self._rows[name] = len(self._rows)
        return f"{self.path.name}#{name}"

    def _append(self, row: Vectors) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            shape = (len(self._rows) + 1, self.width)
            # numpy pads the header so that a longer first axis still fits.
            np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
            file.seek(len(self._rows) * row.nbytes, 1)
            file.write(row.tobytes())
            file.truncate()

    def read(self) -> dict[str, Vectors]:
        """Memory-mapped vectors by content id."""
        if not self._rows:
            return {}
        matrix = np.load(self.path, mmap_mode="r")
        if matrix.shape[0] < len(self._rows) or matrix.shape[1] != self.width:
            raise DataError(
                f"{self.path} holds {matrix.shape} numbers, wanted {len(self._rows)} x {self.width}: delete it"
            )
        return {name: matrix[row] for name, row in self._rows.items()}


def kept_features(config: TeacherConfig, teacher: str, width: int, store: Store | None) -> FeatureFile | None:
    """Where a teacher's states are kept, named by its fingerprint and its layers; None where none are to be kept.

    Args:
        config: `features` and `live`.
        teacher: fingerprint, layers included.
        width: of one layer's state.
        store: the file stands beside it, or in the home of models where the store is a server.
    """
    if not config.features or config.live:
        return None
    name = re.sub(r"[^\w.-]", "-", teacher)
    return FeatureFile(features_folder(store) / name, width * len(config.features))


def with_layers(teacher: str, config: TeacherConfig) -> str:
    """Fingerprint of a teacher that keeps its states: with other layers it is asked again, so that they are kept."""
    return teacher if config.live else teacher + "".join(map(str, config.features))


def features_folder(store: Store | None) -> Path:
    """Folder of the files of states."""
    return ((store.folder if store else None) or home()) / "features"


def kept_states(file: FeatureFile, layers: int, chosen: Sequence[int]) -> Reads:
    """Reads the states of examples, (rows, chosen layers, width), from a file that keeps `layers` of them a row.

    A row without states is NaN.
    """
    vectors = file.read()
    blank = np.full(file.width, np.nan, dtype=np.float16)

    def read(examples: Sequence[Example]) -> Vectors:
        rows = np.stack([vectors.get(example.id, blank) for example in examples])
        return rows.reshape(len(examples), layers, -1)[:, list(chosen)]

    return read


def live_states(teacher: object, chosen: Sequence[int]) -> Reads:
    """Computes the states of examples anew, (rows, chosen layers, width).

    Raises:
        ConfigError: the teacher has none to show.
    """
    if not isinstance(teacher, HasStates):
        raise ConfigError("teacher.live: a classifier shows no hidden states; use a causal model or a bundle")
    return lambda examples: teacher.states(examples)[:, list(chosen)]


def _names(index: Path) -> list[str]:
    if not index.is_file():
        return []
    text = index.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        # A kill cut the last line; the next name must not be glued to it.
        index.write_text(whole, encoding="utf-8")
    return whole.splitlines()
