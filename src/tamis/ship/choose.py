"""Which backend a student is exported for: the fastest on this machine of those that decide as it does."""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from tamis.records import Example, Scorer, Scores
from tamis.ship.backends import BACKENDS, Name, Quantize, installed
from tamis.ship.bundle import Moderator, load_bundle, place_bundle
from tamis.ship.parity import ALL, Parity, compare, require_parity

if TYPE_CHECKING:
    from tamis.network import Network

ROUNDS = 7
TIMED = 256
PARITY = "parity.json"
PRECISIONS: tuple[Quantize, ...] = ("none", "int8", "int4")
log = logging.getLogger(__name__)

Write = Callable[[Name, Quantize, Path], Path]
"""Writes a bundle for a backend and a precision to a folder and returns it."""


@dataclass(frozen=True)
class Candidate:
    """A bundle that may be the one, and how it compares with its student."""

    name: str
    folder: Path
    moderator: Moderator
    parity: Mapping[str, Parity]

    @property
    def holds(self) -> bool:
        """Whether it decides as its student in every group."""
        return all(parity.holds for parity in self.parity.values())


def candidates(backend: Name | Literal["auto"], quantize: Quantize, network: Network) -> list[tuple[Name, Quantize]]:
    """The backends and precisions that are tried; `auto` tries all that are installed and suit the network."""
    if backend != "auto":
        return [(backend, quantize)]
    wanted = PRECISIONS[: PRECISIONS.index(quantize) + 1]
    names = [cast("Name", name) for name, kind in BACKENDS.items() if installed(name) and kind.suits(network)]
    return [(name, bits) for name in names for bits in wanted if bits in BACKENDS[name].write]


def export_bundle(
    write: Write, tried: Sequence[tuple[Name, Quantize]], student: Scorer, examples: Sequence[Example], out: Path
) -> dict[str, Parity]:
    """Write bundles, load them again, and put the fastest that decides as the student in the place of `out`.

    A refused bundle never stands there. How all of them compare is left beside it in `export/parity.json`.

    Returns:
        The comparison of the chosen bundle with the student, by group.

    Raises:
        BundleError: none of them decides as the student does.
    """
    desk = out.with_name("export")
    shutil.rmtree(desk, ignore_errors=True)
    desk.mkdir(parents=True)
    said = student([example.text for example in examples])
    found = [_candidate(write, name, quantize, said, examples, desk) for name, quantize in tried]
    tables = {one.name: {group: asdict(parity) for group, parity in one.parity.items()} for one in found}
    (desk / PARITY).write_text(json.dumps(tables, ensure_ascii=False, indent=1), encoding="utf-8")
    good = [one for one in found if one.holds]
    if not good:
        require_parity(found[0].parity, found[0].name, desk / PARITY)
    measured = _measured(found, good, [example.text for example in examples[:TIMED]]) if len(found) > 1 else {}
    best = max(good, key=lambda one: measured.get(one.name, {}).get("texts_per_second", 0.0))
    place_bundle(best.moderator, best.folder, measured, out)
    for one in found:
        shutil.rmtree(one.folder, ignore_errors=True)
    return dict(best.parity)


def rates(scorers: Mapping[str, Scorer], texts: Sequence[str], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Texts a second of each scorer on the same texts, in turns, so that what else the machine does hits all alike.

    A first round warms up and is not counted.
    """
    found: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(rounds + 1):
        for name, score in scorers.items():
            started = time.perf_counter()
            score(texts)
            found[name].append(len(texts) / (time.perf_counter() - started))
    return {name: values[1:] for name, values in found.items()}


def _candidate(
    write: Write, backend: Name, quantize: Quantize, said: Sequence[Scores], examples: Sequence[Example], desk: Path
) -> Candidate:
    name = backend if quantize == "none" else f"{backend} {quantize}"
    folder = write(backend, quantize, desk / name.replace(" ", "-"))
    moderator = load_bundle(folder)
    got = moderator.score([example.text for example in examples])
    return Candidate(name, folder, moderator, compare(said, got, examples, moderator))


def _measured(
    found: Sequence[Candidate], good: Sequence[Candidate], texts: Sequence[str]
) -> dict[str, dict[str, float]]:
    """What each candidate reached; one that was refused is not timed."""
    timed = rates({one.name: one.moderator.score for one in good}, texts)
    table: dict[str, dict[str, float]] = {}
    for one in found:
        overall = one.parity[ALL]
        table[one.name] = {"flips": overall.flips, "clear_flips": overall.clear_flips, "holds": float(one.holds)}
        if one.name in timed:
            values = timed[one.name]
            speed = {"texts_per_second": statistics.median(values), "slowest": min(values), "fastest": max(values)}
            table[one.name] |= {key: round(value, 1) for key, value in speed.items()}
        log.info("export: %s: %s", one.name, table[one.name])
    return table
