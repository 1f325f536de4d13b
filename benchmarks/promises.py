"""Whether promised recalls and false positive rates hold on fresh texts, and whether probabilities mean what they say.

    python benchmarks/promises.py runs/gold/bundle --rows dev.jsonl.gz test.jsonl.gz --fit 600 --recall 0.9

The bundle judges all labelled rows once; it must have learnt from none of them. Then, again and again, some are drawn
to fit its calibration and its thresholds on, as a run does, and each promise is read on all the others. Where these are
few, a promise that is kept in truth can look broken, so the share that is printed is a lower one. The calibration error
is that of the bundle as it is served, on the rows of the last file.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tamis.config import SourceConfig, TargetConfig, ThresholdsConfig
from tamis.data import read
from tamis.data.rows import Row
from tamis.deciding import Promise, decide
from tamis.errors import DataError
from tamis.judge.judged import category_figures, judge
from tamis.judge.thresholds import fit
from tamis.languages import language
from tamis.policy import Policy
from tamis.records import Action, CalibrationSplit, Example, Scores, content_id
from tamis.ship.bundle import load_bundle


def labelled(path: Path, policy: Policy) -> list[Example]:
    """The labelled rows of a file."""
    rows = [row for row in read(SourceConfig(path=str(path)), policy) if isinstance(row, Row) and row.label]
    return [Example(content_id(row.text), row.text, language(row.text), path.name, label=row.label) for row in rows]


def held(promise: Promise, rows: Sequence[Example], actions: Sequence[Action]) -> bool:
    """Whether a promise is kept on some rows."""
    own = [action for row, action in zip(rows, actions, strict=True) if row.label == promise.category]
    if promise.figure == "recall":
        return sum(action != "pass" for action in own) >= promise.value * len(own)
    return sum(action == "block" for action in own) <= promise.value * len(own)


def resampled(
    rows: Sequence[Example], told: Mapping[str, Scores], policy: Policy, config: ThresholdsConfig, size: int, times: int
) -> dict[str, list[bool]]:
    """By promise, whether it was kept each time."""
    kept: dict[str, list[bool]] = defaultdict(list)
    generator = np.random.default_rng(0)
    for _ in range(times):
        order = generator.permutation(len(rows))
        drawn, fresh = ([rows[i] for i in part] for part in (order[:size], order[size:]))
        split = CalibrationSplit(tuple(drawn))
        try:
            calibration, thresholds = fit(lambda texts: [told[text] for text in texts], split, policy, config)
        except DataError:
            kept["refused: too few labels"].append(True)
            continue
        meant = calibration.apply([told[row.text] for row in fresh], policy)
        pairs = zip(fresh, meant, strict=True)
        actions = [decide(scores, row.lang, thresholds, policy)[0] for row, scores in pairs]
        for promise in thresholds.promises:
            kept[f"{promise.figure} of {promise.category}"].append(held(promise, fresh, actions))
    return kept


def main() -> None:
    """Judge once, draw often, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="labelled files")
    parser.add_argument("--fit", type=int, default=600, help="rows that calibration and thresholds are fitted on")
    parser.add_argument("--recall", type=float, default=0.9)
    parser.add_argument("--false-positive-rate", type=float, default=0.1)
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    moderator = load_bundle(options.bundle)
    policy, files = moderator.policy, [labelled(path, moderator.policy) for path in options.rows]
    last = files[-1]
    served = judge(last, moderator.score([row.text for row in last]), policy)
    figures = category_figures(served, np.ones((1, len(last))))
    print(f"{len(last)} rows: macro-F1 {figures['macro_f1'][0]:.3f}, calibration error {figures['ece'][0]:.3f}")
    rows = [row for file in files for row in file]
    texts = [row.text for row in rows]
    told = dict(zip(texts, moderator.uncalibrated.score(texts), strict=True))
    target = TargetConfig(recall=options.recall, false_positive_rate=options.false_positive_rate)
    config = ThresholdsConfig(method="target", target=target)
    for name, times in resampled(rows, told, policy, config, options.fit, options.resamples).items():
        print(f"{name}: {np.mean(times):.3f} of {len(times)}")


if __name__ == "__main__":
    main()
