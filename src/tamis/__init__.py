"""tamis distils a large language model's judgement of harmful content into a small model."""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    from pathlib import Path

    from tamis.ship.bundle import Moderator

__all__ = ["load"]
__version__ = "0.1.0"


def load(path: str | Path) -> Moderator:
    """Load a bundle; the result judges texts: `tamis.load("runs/demo/bundle")(["..."])`.

    Raises:
        BundleError: a bundle that must not be served.
    """
    from tamis.ship.bundle import load_bundle

    return load_bundle(path)
