"""How a process opens its bundles: those for `adapter` over the same base share it, and the batches it computes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, cast

from tamis.config import BatchConfig
from tamis.policy import Policy
from tamis.ship.backends import Backend, kind_of, lanes_of
from tamis.ship.bundle import load_bundle
from tamis.ship.service.engine import Engine, Line

if TYPE_CHECKING:
    from tamis.network import Pooling
    from tamis.ship.adapters import Adapters, Seat


@dataclass(eq=False)
class _Base:
    """A base, the line that computes with it, and how many bundles have a seat over it."""

    adapters: Adapters
    line: Line
    seats: int = 0


class Bases:
    """The bases of a process; each is there as long as a bundle over it is."""

    def __init__(self, config: BatchConfig) -> None:
        self._config = config
        self._held: list[_Base] = []
        self._lock = Lock()

    async def open(self, folder: Path) -> Engine:
        """The engine of a bundle that is checked, loaded and warm.

        Raises:
            BundleError: it must not be served.
            WeightsError: its base cannot be had.
            MissingExtraError: the packages of its backend are not installed.
        """
        moderator = await asyncio.to_thread(load_bundle, folder, self._opened)
        base = next(
            (one for one in tuple(self._held) if one.adapters is getattr(moderator.backend, "over", None)), None
        )
        if base is None:
            engine = Engine(moderator, Line(self._config, lanes=lanes_of(moderator.backend)))
        else:
            engine = Engine(moderator, base.line, partial(self._leave, base, cast("Seat", moderator.backend)))
        try:
            await asyncio.to_thread(engine.warm)
        except BaseException:
            await engine.close()
            raise
        return engine

    def _opened(self, name: str, folder: Path, pooling: Pooling, policy: Policy, max_tokens: int) -> Backend:
        """As `Open` says."""
        kind = kind_of(name, folder)
        return (
            self._seat(folder, pooling, policy) if name == "adapter" else kind.open(folder, pooling, policy, max_tokens)
        )

    def _seat(self, folder: Path, pooling: Pooling, policy: Policy) -> Seat:
        from tamis.ship.adapters import Adapters, base_of

        wanted = base_of(folder)
        with self._lock:
            known = next((one for one in self._held if one.adapters.sum == wanted.sha256), None)
            adapters = known.adapters if known else Adapters(wanted.model)
            seat = adapters.seat(folder, pooling, policy)
            if known is None:
                self._held.append(known := _Base(adapters, Line(self._config, adapters.logits)))
            known.seats += 1
            return seat

    def _leave(self, base: _Base, seat: Seat) -> None:
        """Free a seat none of whose texts wait any more, and the base with the last one."""
        base.line.between(partial(base.adapters.leave, seat))
        with self._lock:
            base.seats -= 1
            if base.seats:
                return
            self._held.remove(base)
        base.line.end()
