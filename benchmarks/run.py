"""All benchmarks one after another: preparation, labelling, training, scoring. `make bench` runs it.

    python benchmarks/run.py --rows 1000000

Times of shared machines vary; the ratios are what to quote. Takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

STUDENTS = ("multilingual-e5-small", "qwen2.5-coder-0.5b-instruct")


def main() -> None:
    """Run each benchmark in a process of its own, so that none inherits the memory of another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the preparation")
    options = parser.parse_args()
    here = Path(__file__).parent
    jobs = [["prepare.py", "--rows", str(options.rows)], ["label.py"]]
    jobs += [["train.py", "--model", student] for student in STUDENTS]
    jobs += [["score.py", "--model", student] for student in STUDENTS]
    for job in jobs:
        print(f"\n== {' '.join(job)}", flush=True)
        subprocess.run([sys.executable, str(here / job[0]), *job[1:]], check=True)


if __name__ == "__main__":
    main()
