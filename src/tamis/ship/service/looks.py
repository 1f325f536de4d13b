"""The service's own looks at its traffic, now and then, one for all workers and machines of a store."""

from __future__ import annotations

import asyncio
import logging

from tamis.errors import TamisError
from tamis.ship.monitor.look import last_look, take_turn
from tamis.ship.service.answers import Service

log = logging.getLogger(__name__)
CHECK = 60.0
"""Seconds after which a worker knows, at most, what another one's look found."""


async def keep_looking(service: Service) -> None:
    """Have the traffic looked at when that is due, and know what the last look found.

    What goes wrong is said and tried again; until then the metrics show the last look with its time.
    """
    every = service.config.monitor.every
    while True:
        try:
            if every is not None and await asyncio.to_thread(take_turn, service.store, every):
                service.looking.begin(service.fleet.policy)
            service.look = await asyncio.to_thread(last_look, service.store)
        except TamisError as error:
            log.warning("%s", error)
        await asyncio.sleep(min(CHECK, every or CHECK))
