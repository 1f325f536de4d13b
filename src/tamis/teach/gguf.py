"""A GGUF file as the teacher: llama.cpp serves it on loopback in this process, the endpoint's code asks it."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tamis.config import TeacherConfig
from tamis.errors import WeightsError
from tamis.models.llama import calm, llama_cpp
from tamis.policy import Policy
from tamis.records import Example
from tamis.store import Store
from tamis.teach.endpoint import Connection, EndpointTeacher, fingerprint, prompt_of

CONTEXT = 4096
"""Tokens a request: prompt and text; a longer one fails and says so."""
EDGE = 1 << 20


class GgufServer:
    """llama.cpp with some slots; starts when its address is first asked for and lives as long as this object."""

    def __init__(self, path: Path, slots: int) -> None:
        self.path = path
        self.slots = slots
        self._server: Any = None
        self._lock = threading.Lock()

    def address(self) -> str:
        """The base URL of its chat completions.

        Raises:
            WeightsError: the file is damaged, or llama.cpp does not know the model.
        """
        with self._lock:
            if self._server is None:
                self._server = self._start()
            return f"{self._server.listening_address}/v1"

    def _start(self) -> Any:
        xllamacpp = llama_cpp("train")
        try:
            return xllamacpp.Server(parameters(xllamacpp, self.path, self.slots))
        except (RuntimeError, ValueError, OSError) as error:
            raise WeightsError(
                f"llama.cpp cannot load {self.path}: fetch it again, or give another GGUF file"
            ) from error


def parameters(xllamacpp: Any, path: Path, slots: int) -> Any:
    """Settings of the server, chosen by measurement on two cores.

    Reading prompts is bound by arithmetic on a CPU, so slots side by side gain nothing, and each would compute the
    shared prefix for itself. Requests beyond the slots wait in the server's queue, so that it is never idle.
    """
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.port = _free_port()
    params.n_parallel = slots
    params.n_ctx = CONTEXT * slots
    calm(params)
    return params


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def gguf_teacher(
    config: TeacherConfig, policy: Policy, gold: Sequence[Example], store: Store | None = None
) -> EndpointTeacher:
    """A local GGUF model as the teacher.

    Raises:
        WeightsError: the file is missing, truncated or damaged.
        ConfigError: gold that does not fit the policy.
    """
    from tamis.models import resolve
    from tamis.models.gguf import check_gguf

    path = _file(resolve(config.model), config.model)
    check_gguf(path)
    # One slot for each order, because each has a prefix of its own.
    server = GgufServer(path, config.orders)
    prompt = prompt_of(config, policy, gold)
    connection = Connection(f"llama.cpp ({path.name})", config.model, "none", server.address)
    return EndpointTeacher(config, prompt, connection, fingerprint(config, prompt, weights_hash(path)), store)


def _file(path: Path, name: str) -> Path:
    if path.is_file():
        return path
    inside = sorted(path.glob("*.gguf"))
    if len(inside) != 1:
        raise WeightsError(f"teacher.model {name}: {path} holds {len(inside)} GGUF files, name the one to use")
    return inside[0]


def weights_hash(path: Path) -> str:
    """Hash of a large file's size and both ends: enough to tell files apart, and quick."""
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    with path.open("rb") as file:
        digest.update(file.read(EDGE))
        file.seek(max(0, path.stat().st_size - EDGE))
        digest.update(file.read(EDGE))
    return digest.hexdigest()[:16]
