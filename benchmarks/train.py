"""Tokens a second of training: tamis against the plain transformers Trainer, same model, LoRA, rows and batch size.

    python benchmarks/train.py --model multilingual-e5-small --rows 320 --rounds 3

The two take turns, so that a slow spell of the machine meets both. Tokens are the rows' own, padding not counted.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from tamis import models
from tamis.config import LoraConfig, ObjectiveConfig, SourceConfig, StudentConfig, TrainConfig
from tamis.data.rows import Row
from tamis.data.sources import read
from tamis.learn.batches import rows_of
from tamis.learn.student import _modules, build_student
from tamis.learn.train import Trainer
from tamis.policy import Policy, load_policy
from tamis.records import Example, ValidationSplit, content_id

warnings.filterwarnings("ignore")
BATCH = 32


def corpus(policy: Policy, rows: int) -> list[Example]:
    """Rows of the packaged corpus, shuffled."""
    found = [row for row in read(SourceConfig(path="demo"), policy) if isinstance(row, Row)]
    random.Random(0).shuffle(found)
    return [Example(content_id(row.text), row.text, "zh", "demo", label=row.label) for row in found[:rows]]


def ours(config: StudentConfig, policy: Policy, examples: list[Example]) -> tuple[float, int]:
    """Seconds and tokens of one epoch."""
    student = build_student(config, policy)
    rows = rows_of(examples, {}, student.encoder, policy)
    train = TrainConfig(epochs=1, batch_size=BATCH, report_to=(), evaluations=1)
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(student, rows, ValidationSplit(tuple(examples[:1])), ObjectiveConfig(), train, Path(out))
        started = time.perf_counter()
        while trainer.state.step < trainer.steps:
            trainer._step(trainer.stages[0])
        return time.perf_counter() - started, sum(trainer.lengths)


def plain(config: StudentConfig, policy: Policy, examples: list[Example], *, bf16: bool) -> tuple[float, int]:
    """The same with `transformers.Trainer` and its defaults; `bf16` switches its mixed precision on."""
    from peft import LoraConfig as Peft
    from peft import TaskType, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        TrainingArguments,
    )
    from transformers import Trainer as PlainTrainer

    folder = models.training_folder(config.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(policy.ids), dtype=torch.float32)
    base.config.pad_token_id = tokenizer.pad_token_id
    lora = Peft(
        task_type=TaskType.SEQ_CLS,
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        target_modules=_modules(base.base_model, config),
    )
    model = get_peft_model(base, lora)
    template = models.template_of(config.model)
    rows: list[dict[str, Any]] = []
    for example in examples:
        ids = tokenizer(template.format(text=example.text), truncation=True, max_length=config.max_tokens)["input_ids"]
        rows.append({"input_ids": ids, "label": policy.ids.index(example.label or policy.benign)})
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=2e-4,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = PlainTrainer(model, arguments, DataCollatorWithPadding(tokenizer), rows)
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started, sum(len(row["input_ids"]) for row in rows)


def main() -> None:
    """Take turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="multilingual-e5-small")
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    policy = load_policy("default")
    config = StudentConfig(model=options.model, lora=LoraConfig(rank=8))
    examples = corpus(policy, options.rows)
    rates: dict[str, list[float]] = {"tamis": [], "Trainer": [], "Trainer bf16": []}
    for _ in range(options.rounds):
        for name, (seconds, tokens) in (
            ("tamis", ours(config, policy, examples)),
            ("Trainer", plain(config, policy, examples, bf16=False)),
            ("Trainer bf16", plain(config, policy, examples, bf16=True)),
        ):
            rates[name].append(tokens / seconds)
    ratios = {
        name: [a / b for a, b in zip(rates["tamis"], rates[name], strict=True)] for name in ("Trainer", "Trainer bf16")
    }
    for name, values in rates.items():
        print(
            f"{options.model} {name}: {statistics.median(values):.0f} tokens/s ({min(values):.0f} to {max(values):.0f})"
        )
    for name, values in ratios.items():
        print(
            f"{options.model} tamis / {name}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        )
    print(json.dumps({"model": options.model, "rates": rates, "ratios": ratios}))


if __name__ == "__main__":
    main()
