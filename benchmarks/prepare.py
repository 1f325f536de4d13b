"""How fast, and in how much memory, rows become splits: `python benchmarks/prepare.py --rows 1000000`."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

from tamis.data import prepare_splits
from tamis.policy import load_policy
from tamis.recipe import parse_config

LENGTH = 30
NEAR = 0.1
GOLD = 0.2


def main() -> None:
    """Write rows, prepare them in a child process and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _prepare(options.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        _write(rows, options.rows, random.Random(options.seed))
        started = time.perf_counter()
        subprocess.run([sys.executable, __file__, "--child", str(rows)], check=True)
        seconds = time.perf_counter() - started
        counts = json.loads((Path(folder) / "out" / "data_card.json").read_text(encoding="utf-8"))["counts"]
    # On Linux the peak is told in KiB.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{options.rows:,} rows, {seconds:.1f} s, {options.rows / seconds:,.0f} rows/s, peak {peak:,.0f} MiB")
    print(f"{os.cpu_count()} cores; {counts}")


def _prepare(rows: Path) -> None:
    config = parse_config({"data": {"sources": [{"path": str(rows)}]}})
    prepare_splits(config, load_policy("default"), rows.parent / "out")


def _write(path: Path, count: int, random_source: random.Random) -> None:
    pieces = _pieces(random_source)
    labels = load_policy("default").ids
    last = [_text(pieces, random_source)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            near = random_source.random() < NEAR
            text = _changed(random_source.choice(last), random_source) if near else _text(pieces, random_source)
            last = [*last[-999:], text] if not near else last
            row = {"text": text}
            if random_source.random() < GOLD:
                row["label"] = random_source.choice(labels)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _pieces(random_source: random.Random) -> list[str]:
    """Runs of two to four letters of the packaged demo, as language has them, or random ones where there is none."""
    demo = resources.files("tamis.data") / "demo"
    lines = [
        json.loads(line)["text"]
        for path in demo.iterdir()
        if path.name.endswith(".jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    if not lines:
        hanzi = [chr(code) for code in range(0x4E00, 0x5A00)]
        lines = ["".join(random_source.choices(hanzi, k=LENGTH)) for _ in range(1000)]
    joined = "".join(lines)
    starts = [random_source.randrange(len(joined)) for _ in range(20_000)]
    return [joined[start : start + random_source.randint(2, 4)] for start in starts]


def _text(pieces: list[str], random_source: random.Random) -> str:
    length = random_source.randint(LENGTH - 15, LENGTH + 15)
    return "".join(random_source.choices(pieces, k=LENGTH))[:length]


def _changed(text: str, random_source: random.Random) -> str:
    """A copy with one letter more, in front, at the end or in the middle."""
    place = random_source.choice([0, len(text), random_source.randrange(len(text) + 1)])
    return text[:place] + random_source.choice("的了aXy9!") + text[place:]


if __name__ == "__main__":
    main()
