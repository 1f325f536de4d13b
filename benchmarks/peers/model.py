"""The ONNX model of a bundle and nothing of tamis: what the peers serve."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

BATCH = 32
WAIT_MS = 5


class Model:
    """Texts to categories, a batch at a time, padded to its longest text."""

    def __init__(self) -> None:
        folder = Path(os.environ["BUNDLE"])
        told = json.loads((folder / "bundle.json").read_text())
        self.categories = [c["id"] for c in json.loads((folder / "policy.json").read_text())["categories"]]
        self.template = told["template"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_padding()
        self.tokenizer.enable_truncation(told["max_tokens"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count() or 1
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, ["CPUExecutionProvider"])
        self.names = [one.name for one in self.session.get_inputs()]

    def __call__(self, texts: Sequence[str]) -> list[dict[str, object]]:
        """Category and scores of each text."""
        encoded = self.tokenizer.encode_batch([self.template.replace("{text}", text) for text in texts])
        ids = np.array([one.ids for one in encoded], np.int64)
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        logits = self.session.run(None, dict(zip(self.names, (ids, mask), strict=True)))[0]
        odds = np.exp(logits - logits.max(1, keepdims=True))
        rows = odds / odds.sum(1, keepdims=True)
        return [
            {"category": self.categories[row.argmax()], "scores": dict(zip(self.categories, row.tolist(), strict=True))}
            for row in rows
        ]
