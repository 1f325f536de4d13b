"""A student that an HTTP server computes: text-embeddings-inference, vLLM, or what speaks as they do.

The bundle holds the address and all that decides beside the weights. What the server answers is checked before it
counts; whatever goes wrong is a `RemoteError`, and what it left undecided is reviewed, never passed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.config import RemoteConfig
from tamis.errors import BundleError, RemoteError, need
from tamis.policy import Policy
from tamis.ship.head import HEAD, Head, write_head
from tamis.windows import Array, Ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tamis.network import Network

ADDRESS = "remote.json"
ROWS = 32
"""Windows a request, which is what text-embeddings-inference takes by default."""

Rows = Sequence[list[int]]


@dataclass(frozen=True)
class Dialect:
    """How a kind of server is asked and how its answer is read.

    `says` makes the body of a request from token ids, `hears` a row of numbers a window from the answer. Numbers are
    logits, or pooled states where `states` is set, to which the bundle's own head is applied.
    """

    path: str
    says: Callable[[Rows, RemoteBackend], dict[str, Any]]
    hears: Callable[[Any, RemoteBackend], list[list[float]]]
    states: bool = False


class RemoteBackend:
    """Asks a server for the logits, or the states, of windows.

    Args:
        config: where it is and how it is spoken to.
        policy: the categories, in whose order logits stand.
        tokenizer: turns windows back into text for servers that take no token ids.
        head: applied to states; None where the server has one.

    Raises:
        RemoteError: the key is not set, or the address is none.
    """

    def __init__(self, config: RemoteConfig, policy: Policy, tokenizer: Tokenizer, head: Head | None) -> None:
        httpx = need("httpx", "serve")
        self.config, self.policy, self.tokenizer, self.head = config, policy, tokenizer, head
        self._dialect = DIALECTS[config.speaks]
        headers = {}
        if config.api_key_env:
            if config.api_key_env not in os.environ:
                raise RemoteError(f"${config.api_key_env} is not set: export the key of {self._where}")
            headers["Authorization"] = f"Bearer {os.environ[config.api_key_env]}"
        try:
            self._client = httpx.Client(base_url=config.url, headers=headers, timeout=config.timeout)
        except httpx.InvalidURL as error:
            raise RemoteError(f"{self._where} is no address: mend export.remote.url") from error
        self._wrong = httpx.HTTPError

    def logits(self, ids: Ids, mask: Ids) -> Array:
        """As `Backend` says.

        Raises:
            RemoteError: the server cannot be reached, is too slow, refuses, or answers nothing usable.
        """
        rows = [row[held.astype(bool)].tolist() for row, held in zip(ids, mask, strict=True)]
        parts = [self._ask(rows[start : start + ROWS]) for start in range(0, len(rows), ROWS)]
        found = np.concatenate(parts)
        return self.head(found) if self.head else found

    def _ask(self, rows: Rows) -> Array:
        try:
            reply = self._client.post(self._dialect.path, json=self._dialect.says(rows, self))
        except self._wrong as error:
            # The kind alone: a message may hold the address with a password in it.
            raise RemoteError(f"{self._name} does not answer ({type(error).__name__}): see that it runs") from error
        if reply.status_code != 200:
            raise RemoteError(f"{self._name} answers {reply.status_code}: see its log")
        width = self.head.width if self.head else len(self.policy.ids)
        try:
            found = np.array(self._dialect.hears(reply.json(), self), dtype=np.float32)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise RemoteError(f"{self._name} answers nothing that can be read: check export.remote") from error
        if found.shape != (len(rows), width) or not np.isfinite(found).all():
            raise RemoteError(
                f"{self._name} answers numbers of shape {found.shape}, wanted {(len(rows), width)} and all finite:"
                " check which model it serves"
            )
        return found

    @property
    def _name(self) -> str:
        return f"the server at {self._where}{self._dialect.path}"

    @property
    def _where(self) -> str:
        """The address without a password that may be in it."""
        return self.config.url.rpartition("@")[2]


def write_remote(network: Network, config: RemoteConfig | None, folder: Path) -> None:
    """Write the address, and the head where the server answers with states.

    Raises:
        BundleError: no address is given.
    """
    if config is None:
        raise BundleError("a remote bundle needs an address: set export.remote.url")
    (folder / ADDRESS).write_text(config.model_dump_json(indent=1), encoding="utf-8")
    if DIALECTS[config.speaks].states:
        write_head(network, folder)


def open_remote(folder: Path, policy: Policy) -> RemoteBackend:
    """The backend of a bundle that holds an address.

    Raises:
        RemoteError: the key is not set.
    """
    config = RemoteConfig.model_validate_json((folder / ADDRESS).read_text(encoding="utf-8"))
    tokenizer = need("tokenizers", "serve").Tokenizer.from_file(str(folder / "tokenizer.json"))
    head = Head(folder / HEAD, policy) if DIALECTS[config.speaks].states else None
    return RemoteBackend(config, policy, tokenizer, head)


def _texts(rows: Rows, backend: RemoteBackend) -> dict[str, Any]:
    texts = backend.tokenizer.decode_batch(rows, skip_special_tokens=True)
    # Cut short, it would answer for a text that nobody wrote.
    return {"inputs": [[text] for text in texts], "raw_scores": True, "truncate": False}


def _by_label(answer: Any, backend: RemoteBackend) -> list[list[float]]:
    ids = backend.policy.ids
    named = {name: name for name in ids} | {f"LABEL_{place}": name for place, name in enumerate(ids)}
    found = [{named[one["label"]]: float(one["score"]) for one in row} for row in answer]
    return [[row[name] for name in ids] for row in found]


def _tokens(rows: Rows, backend: RemoteBackend) -> dict[str, Any]:
    return {"model": backend.config.model, "input": rows, "use_activation": False}


def _tokens_to_states(rows: Rows, backend: RemoteBackend) -> dict[str, Any]:
    return _tokens(rows, backend) | {"task": "embed", "encoding_format": "float"}


def _numbers(key: str) -> Callable[[Any, RemoteBackend], list[list[float]]]:
    def hears(answer: Any, _backend: RemoteBackend) -> list[list[float]]:
        return [one[key] for one in sorted(answer["data"], key=lambda one: one["index"])]

    return hears


DIALECTS = {
    "tei": Dialect("/predict", _texts, _by_label),
    "vllm_classify": Dialect("/classify", _tokens, _numbers("probs")),
    "vllm_pooling": Dialect("/pooling", _tokens_to_states, _numbers("data"), states=True),
}
"""By the name that `export.remote.speaks` gives them."""
