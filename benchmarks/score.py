"""Texts a second of scoring, and the latency of one text, for a student of each kind with fresh weights.

    python benchmarks/score.py --model multilingual-e5-small

Weights do not change the speed, so none are trained; the texts are those of the packaged corpus.
"""

from __future__ import annotations

import argparse

from train import corpus

from tamis.config import StudentConfig
from tamis.judge.speed import measure_speed
from tamis.learn.score import scorer_of
from tamis.learn.student import build_student, merged
from tamis.policy import load_policy


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="multilingual-e5-small")
    parser.add_argument("--rows", type=int, default=400)
    options = parser.parse_args()
    policy = load_policy("default")
    student = merged(build_student(StudentConfig(model=options.model), policy))
    texts = [example.text for example in corpus(policy, options.rows)]
    speed = measure_speed(scorer_of(student), texts, 100)
    print(
        f"{options.model}: {speed.texts_per_second:.0f} texts/s in batches; one text {speed.p50_ms:.1f} ms (p50),"
        f" {speed.p95_ms:.1f} (p95), {speed.p99_ms:.1f} (p99); {speed.peak_mb:.0f} MB"
    )


if __name__ == "__main__":
    main()
