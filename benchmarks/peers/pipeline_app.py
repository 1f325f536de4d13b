"""`python -m peers.pipeline_app 8003`: what many start with, a transformers pipeline in FastAPI."""

from __future__ import annotations

import os
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

app = FastAPI()
classify = pipeline("text-classification", model=os.environ["MODEL"], device="cpu", top_k=None)


class Request(BaseModel):
    """One text."""

    text: str


@app.post("/predict")
def predict(request: Request) -> list[dict[str, object]]:
    """Its scores."""
    return list(classify([request.text])[0])


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
