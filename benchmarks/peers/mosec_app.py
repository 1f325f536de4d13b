"""`python -m peers.mosec_app --port 8001`: the model in mosec, which batches in Rust before one Python worker."""

from __future__ import annotations

from mosec import Server, Worker

from peers.model import BATCH, WAIT_MS, Model


class Classifier(Worker):
    """One worker with both cores."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def forward(self, data: list[dict[str, str]]) -> list[dict[str, object]]:
        """A batch of requests."""
        return self.model([one["text"] for one in data])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=1, max_batch_size=BATCH, max_wait_time=WAIT_MS)
    server.run()
