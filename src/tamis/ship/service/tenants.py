"""Bundles that requests ask for by name, beside the one that decides without: several tenants, or policies, at once.

A tenant is a fleet of its own with one bundle. Those over the same base share it and their batches, see `Bases`. What
an admin call changes is noted in the store, where the other workers see it, as `admin` says of bundles.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tamis.config import ServeConfig, TierConfig
from tamis.errors import BundleError, ConfigError, TamisError
from tamis.policy import Policy
from tamis.ship.cascade import Tier
from tamis.ship.service.bases import Bases
from tamis.ship.service.fleet import Fleet
from tamis.store import Store

log = logging.getLogger(__name__)
TENANT = "tenant"
"""Under this a decision's versions say whose it is."""

Wanted = Mapping[str, Sequence[str]]
"""Of each tenant the folder and the version of its bundle."""


class Tenants:
    """The tenants of one worker, by name."""

    def __init__(self, bundle: Path, config: ServeConfig, bases: Bases, salt: bytes) -> None:
        """There is none before `catch_up`.

        Args:
            bundle: what the service was started with.
            config: of the service.
            bases: shared with the fleet of the service.
            salt: chooses what is audited.
        """
        self.note = note_of(bundle, config)
        # The tiers know the policy of the service's own bundle alone.
        self._config = config.model_copy(update={"tiers": ()})
        self._bases, self._salt = bases, salt
        self._fleets: dict[str, Fleet] = {}
        self._followed: Wanted | None = None

    @property
    def fleets(self) -> Mapping[str, Fleet]:
        """Those that are there."""
        return self._fleets

    @property
    def wanted(self) -> dict[str, list[str]]:
        """Folder and version of each."""
        slots = {name: fleet.slots[0] for name, fleet in self._fleets.items()}
        return {name: [slot.folder, slot.name] for name, slot in slots.items()}

    async def add(self, name: str, folder: str | Path) -> str:
        """Load a bundle for a tenant; the one it had goes when all it accepted is answered. Returns its version.

        Raises:
            TamisError: the bundle must not be served; what the tenant had goes on.
        """
        fleet = await Fleet.start(Path(folder).absolute(), self._config, _nobody, self._salt, self._bases)
        fleet.engine.moderator.versions[TENANT] = name
        before, self._fleets[name] = self._fleets.get(name), fleet
        if before:
            await before.drain()
        return fleet.slots[0].name

    async def remove(self, name: str) -> None:
        """Take a tenant away, when all it accepted is answered.

        Raises:
            ConfigError: there is none of this name.
        """
        if name not in self._fleets:
            raise ConfigError(f"there is no tenant {name!r}: take one of {', '.join(self._fleets) or 'none'}")
        await self._fleets.pop(name).drain()

    async def change(self, store: Store, work: Callable[[], Awaitable[object]]) -> None:
        """Change this worker's tenants and note it for the others.

        Raises:
            TamisError: it cannot be done; nothing has changed.
        """
        # What was asked of another worker a moment ago comes first.
        await self.catch_up(store)
        await work()
        self._followed = self.wanted
        await asyncio.to_thread(store.set_note, self.note, self._followed)

    async def catch_up(self, store: Store) -> None:
        """Have the tenants that are noted, or before there is a note those of the settings.

        One whose bundle must not be served is said in the log; the others go on, and so does what it had.
        """
        noted: Wanted | None = await asyncio.to_thread(store.note, self.note)
        wanted = {name: [folder] for name, folder in self._config.tenants.items()} if noted is None else noted
        if wanted == self._followed:
            return
        # Once, be it possible or not: a folder that is gone would be tried each second.
        self._followed = wanted
        for name in self._fleets.keys() - wanted.keys():
            await self.remove(name)
        for name, about in wanted.items():
            try:
                await self._have(name, *about)
            except TamisError as error:
                log.error("tenant %s is not followed: %s", name, error)

    async def drain(self) -> None:
        """Answer all that was accepted."""
        for name in list(self._fleets):
            await self.remove(name)

    async def _have(self, name: str, folder: str, version: str | None = None) -> None:
        if version is not None and self.wanted.get(name) == [folder, version]:
            return
        if await self.add(name, folder) != version and version is not None:
            raise BundleError(f"{folder} no longer holds bundle {version}: add what it holds as {name}")


def note_of(bundle: Path, config: ServeConfig) -> str:
    """The key of the note of a service: one that is started with other bundles begins anew."""
    folders = {name: str(Path(folder).resolve()) for name, folder in config.tenants.items()}
    digest = hashlib.sha256(json.dumps(folders, sort_keys=True).encode()).hexdigest()[:12]
    return f"tenants {digest} of {bundle}"[-300:]


@asynccontextmanager
async def _nobody(_tiers: Sequence[TierConfig], _policy: Policy) -> AsyncIterator[Mapping[str, Tier]]:
    yield {}
