"""`tamis serve`: one process, or several that share a port."""

from __future__ import annotations

import functools
import ipaddress
import logging
import os
import socket
import tempfile
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from tamis.config import ServeConfig
from tamis.errors import ConfigError
from tamis.ship.bundle import check_servable
from tamis.ship.service import metrics, traces
from tamis.ship.service.app import Settings, audit_salt, create_app
from tamis.ship.service.fleet import StoredTeachers
from tamis.ship.service.keys import list_keys
from tamis.ship.service.tenants import note_of
from tamis.store import Store

BACKLOG = 2048
STARTS = 120
"""Seconds in which a worker must be there; with uvicorn's own 5 a busy machine would kill each before it has begun."""

log = logging.getLogger(__name__)


class _Workers(Multiprocess):
    """uvicorn's workers, whose parent holds the port no longer than they do."""

    def terminate_all(self) -> None:
        super().terminate_all()
        # A connection that only the parent holds would never be answered.
        for listening in self.sockets:
            listening.close()


def serve(bundle: Path, config: ServeConfig, teachers: StoredTeachers, host: str, port: int, workers: int) -> None:
    """Serve a bundle until the process is told to end.

    Raises:
        TamisError: it cannot be served.
    """
    check_servable(bundle)
    traces.check()
    if not config.require_key and not _loopback(host):
        raise ConfigError(f"without keys only a loopback address is served, not {host}: leave require_key true")
    with Store.open(config.store) as store:
        if store.note(note_of(bundle.resolve(), config)) is None:
            for folder in config.tenants.values():
                check_servable(Path(folder))
        # Before the workers, so that they do not each make one.
        audit_salt(store)
        if config.require_key and not any(key.revoked is None for key in list_keys(store)):
            log.warning("nobody has a key yet: make one with `tamis keys add NAME`, with the same --store")
    with _listening(host, port) as listening, tempfile.TemporaryDirectory(prefix="tamis-metrics-") as folder:
        log.info("serving %s at http://%s:%d", bundle, host, listening.getsockname()[1])
        app = functools.partial(create_app, Settings(bundle.resolve(), config, teachers, workers, listening))
        # Its access log would hold the keys that Perspective's clients send in the address.
        settings = uvicorn.Config(
            app,
            workers=workers,
            factory=True,
            access_log=False,
            log_level="warning",
            server_header=False,
            ws="none",
            timeout_worker_healthcheck=STARTS,
        )
        if workers == 1:
            uvicorn.Server(settings).run([listening])
        else:
            os.environ[metrics.FOLDER] = folder
            _Workers(settings, [listening]).run()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {host}:{port} ({error}): choose another --host or --port") from error


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
