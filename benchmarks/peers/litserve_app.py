"""`python -m peers.litserve_app 8002`: the model in LitServe with its batching."""

from __future__ import annotations

import sys
from typing import Any

import litserve

from peers.model import BATCH, WAIT_MS, Model


class Classifier(litserve.LitAPI):
    """One worker with both cores."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self.model = Model()

    def decode_request(self, request: dict[str, str]) -> str:
        """The text."""
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        """Texts as they are: the model pads them."""
        return inputs

    def predict(self, x: list[str]) -> list[dict[str, object]]:
        """A batch."""
        return self.model(x)

    def unbatch(self, output: list[dict[str, object]]) -> list[dict[str, object]]:
        """One answer a request."""
        return output

    def encode_response(self, output: dict[str, object]) -> dict[str, Any]:
        """As it is."""
        return output


if __name__ == "__main__":
    api = Classifier(max_batch_size=BATCH, batch_timeout=WAIT_MS / 1000)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        port=int(sys.argv[1]), generate_client_file=False
    )
