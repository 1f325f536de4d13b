"""Pooled hidden states of a local teacher, kept for feature distillation: float16 rows and an index of content ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tamis.errors import DataError

Vectors = npt.NDArray[np.float16]


class FeatureFile:
    """`NAME.npy` of shape (rows, width), memory-mapped when read, and `NAME.ids`, one content id a line.

    A row is written before its id, so a run killed between the two leaves a row without a name, which is overwritten.
    """

    def __init__(self, path: Path, width: int) -> None:
        # Not with_suffix: names of models hold dots.
        name = path.name.removesuffix(".npy")
        self.path = path.with_name(f"{name}.npy")
        self.index = path.with_name(f"{name}.ids")
        self.width = width
        self._rows = {name: row for row, name in enumerate(_names(self.index))}

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


def _names(index: Path) -> list[str]:
    if not index.is_file():
        return []
    text = index.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        # A kill cut the last line; the next name must not be glued to it.
        index.write_text(whole, encoding="utf-8")
    return whole.splitlines()
