"""How often the interval of the estimated misses holds the truth, over simulated months of audited traffic.

`python benchmarks/misses.py` prints a line a setting. A month goes the whole way of `tamis monitor`: texts come, some
again and again, a keyed hash chooses what is audited, a third of that is never read, and `missed` estimates.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np

from tamis.decisions import stamp
from tamis.feedback import Truths
from tamis.policy import Policy, load_policy
from tamis.reviews import Verdict
from tamis.ship.cascade import is_chosen
from tamis.ship.monitor import Misses
from tamis.ship.monitor.measures import missed
from tamis.ship.monitor.traffic import Traffic

START, DAYS = datetime(2026, 3, 2, tzinfo=UTC), 28
HOURS = np.array([stamp(START + timedelta(hours=hour)) for hour in range(24 * DAYS)])
TEXTS, READ = 2000, 2 / 3
RATES, SHARES, REPEATS = (0.0, 0.001, 0.005, 0.05), (0.02, 0.1), (1, 4)


def month(
    generator: np.random.Generator, policy: Policy, rate: float, share: float, repeats: int
) -> tuple[float, Misses]:
    """The true share of distinct passed texts that break the policy in one month, and what is estimated of it.

    Args:
        generator: of everything that happens.
        policy: any.
        rate: at which a text breaks it.
        share: of the texts that is audited.
        repeats: how often each text comes, at any time of the month.
    """
    salt, names = generator.bytes(16), np.array([f"{i:x}" for i in range(TEXTS)])
    chosen = np.array([is_chosen(name, salt, share) for name in names.tolist()])
    bad, read = generator.random(TEXTS) < rate, generator.random(TEXTS) < READ
    said = {flag: _verdict(policy.ids[1] if flag else policy.benign) for flag in (False, True)}
    truths = Truths({str(names[i]): said[bool(bad[i])] for i in np.flatnonzero(chosen & read)})
    places = generator.permutation(np.repeat(np.arange(TEXTS), repeats))
    return float(bad.mean()), missed(_passed(generator, names[places], chosen[places]), truths, policy)


def _passed(generator: np.random.Generator, content: np.ndarray, audited: np.ndarray) -> Traffic:
    rows = len(content)
    empty, unknown = np.full(rows, ""), np.full(rows, np.nan)
    return Traffic(
        START,
        START + timedelta(days=DAYS),
        content=content,
        time=HOURS[np.sort(generator.integers(0, len(HOURS), rows))],
        action=np.full(rows, "pass"),
        category=empty,
        language=empty,
        risk=unknown,
        uncertainty=unknown,
        probabilities={},
        length=unknown,
        evasion={},
        audited=audited,
        alone=audited,
    )


def _verdict(category: str) -> Verdict:
    return Verdict(1, "i", None, "", "audit", None, None, "ann", stamp(START), category, None, "", None)


def covered(months: int, policy: Policy, rate: float, share: float, repeats: int) -> tuple[list[bool], float]:
    """Whether the interval held the truth in each month, and its mean width."""
    generator = np.random.default_rng(11)
    found = [month(generator, policy, rate, share, repeats) for _ in range(months)]
    return [one.low <= truth <= one.high for truth, one in found], float(np.mean([m.high - m.low for _, m in found]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, default=1000)
    months, policy = parser.parse_args().months, load_policy("default")
    print(f"| true rate | audited | each text comes | held in 100 months | in {months:,} | mean width |")
    print("|---|---|---|---|---|---|")
    for rate, share, repeats in product(RATES, SHARES, REPEATS):
        held, width = covered(months, policy, rate, share, repeats)
        setting, among = f"{100 * rate:g} % | {100 * share:g} %", f"{sum(held[:100])} | {100 * np.mean(held):.1f} %"
        print(f"| {setting} | {repeats} × | {among} | {100 * width:.2f} points |", flush=True)


if __name__ == "__main__":
    main()
