"""Which bundle runs: a link that names it, switched in one step and back in one step."""

from __future__ import annotations

import os
from pathlib import Path

from tamis.errors import BundleError
from tamis.ship.bundle import check_manifest

BEFORE = ".before"


def switch(bundle: Path, link: Path) -> str:
    """Let a link name a bundle, and note beside it which one it named before; returns the bundle's version.

    Whoever opens the link meanwhile finds the old bundle or the new one, never none.

    Raises:
        BundleError: no sound bundle, or something else than a link stands in the link's place.
    """
    version = check_manifest(bundle)
    if link.exists() and not link.is_symlink():
        raise BundleError(f"{link} is no link: move it away, or name another place with --to")
    if link.is_symlink() and link.resolve() != bundle.resolve():
        # Noted first: a kill between the two leaves a link that still names what ran.
        _point(before(link), link.resolve())
    _point(link, bundle.resolve())
    return version


def roll_back(link: Path) -> str:
    """Let a link name again the bundle it named before; the same once more undoes it. Returns the bundle's version.

    Raises:
        BundleError: nothing was promoted before, or the earlier bundle is gone or changed.
    """
    earlier = before(link)
    if not (link.is_symlink() and earlier.is_symlink()) or earlier.resolve() == link.resolve():
        raise BundleError(
            f"{link} has named no other bundle before: promote one with `tamis promote BUNDLE --to {link}`"
        )
    return switch(earlier.resolve(), link)


def before(link: Path) -> Path:
    """The link that names what another one named before."""
    return link.with_name(link.name + BEFORE)


def _point(link: Path, target: Path) -> None:
    """A relative link, so that both may be moved together; it takes its place in one step."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(target, link.parent.resolve()), target_is_directory=True)
        fresh.replace(link)
    except OSError as error:
        raise BundleError(
            f"cannot set the link {link}: {error.strerror or error}; check the folder's rights"
        ) from error
