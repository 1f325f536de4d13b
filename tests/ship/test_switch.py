from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tamis.errors import BundleError
from tamis.ship.bundle import _write_manifest, check_manifest
from tamis.ship.switch import before, roll_back, switch


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    """Three folders whose manifests hold."""
    made = [tmp_path / f"bundle{i}" for i in range(3)]
    for folder in made:
        folder.mkdir()
        (folder / "bundle.json").write_text(folder.name)
        _write_manifest(folder)
    return made


def test_a_link_is_switched_and_rolled_back_and_forth(bundles: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "served" / "live"
    versions = [switch(folder, link) for folder in bundles]
    assert versions == [check_manifest(folder) for folder in bundles]
    assert link.resolve() == bundles[2]
    assert not link.readlink().is_absolute()
    assert roll_back(link) == versions[1]
    assert link.resolve() == bundles[1]
    assert roll_back(link) == versions[2]
    assert sorted(path.name for path in link.parent.iterdir()) == ["live", "live.before"]


def test_the_same_bundle_again_changes_nothing(bundles: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "live"
    for folder in (bundles[0], bundles[1], bundles[1]):
        switch(folder, link)
    roll_back(link)
    assert link.resolve() == bundles[0]


def test_a_reader_always_finds_a_sound_bundle(bundles: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "live"
    switch(bundles[0], link)
    found, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            found.add(check_manifest(link.resolve()))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(200):
        switch(bundles[turn % 2], link)
    done.set()
    reader.join()
    assert found == {check_manifest(folder) for folder in bundles[:2]}


def test_what_cannot_be_switched_is_refused(bundles: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no link: move it away, or name another place"):
        switch(bundles[0], bundles[1])
    with pytest.raises(BundleError, match="is no bundle"):
        switch(tmp_path / "none", tmp_path / "live")
    switch(bundles[0], tmp_path / "live")
    with pytest.raises(BundleError, match="has named no other bundle before: promote one with"):
        roll_back(tmp_path / "live")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot set the link"):
        switch(bundles[0], tmp_path / "file" / "live")


def test_a_bundle_that_has_changed_is_not_rolled_back_to(bundles: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "live"
    switch(bundles[0], link)
    switch(bundles[1], link)
    (bundles[0] / "bundle.json").write_text("changed")
    with pytest.raises(BundleError, match="sha256 differs"):
        roll_back(link)
    assert (link.resolve(), before(link).resolve()) == (bundles[1], bundles[0])
