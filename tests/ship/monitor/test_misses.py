"""The estimate of what is missed: by hand, and whether its interval keeps its promise over many months."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks.misses import covered

from tamis.policy import Policy
from tamis.ship.monitor.misses import Stratum, miss_rate

MONTHS = 100


def test_one_stratum_is_clopper_and_pearson() -> None:
    found = miss_rate([Stratum(10_000, 100, 0)])
    # Nothing seen in 100: from 0 to 1 - .025^(1/100).
    assert (found.rate, found.low, found.high) == (0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 100)))
    one = miss_rate([Stratum(10_000, 20, 1)])
    # Tabled for 1 of 20: .00127 to .24873.
    assert (one.rate, one.low, one.high) == (0.05, pytest.approx(0.00127, abs=5e-6), pytest.approx(0.24873, abs=5e-6))
    assert one.total == 500


def test_two_strata_by_hand() -> None:
    # 1 of 100 stands for 10, 2 of 100 for 180: 190 of 10,000. Rows worth 1e8 / (1e6 / 100 + 8.1e7 / 100) = 121.95.
    found = miss_rate([Stratum(1000, 100, 1), Stratum(9000, 100, 2), Stratum(5000, 0, 0)])
    assert (found.rate, found.total, found.judged) == (pytest.approx(0.019), pytest.approx(190), 200)
    again = miss_rate([Stratum(10_000, 121, 0)])
    assert found.low < found.rate < found.high < found.rate + 2 * again.high


def test_without_a_judged_text_nothing_is_known() -> None:
    found = miss_rate([Stratum(50, 0, 0)])
    assert math.isnan(found.rate)
    assert (found.low, found.high) == (0.0, 1.0)
    assert miss_rate([Stratum(10, 10, 10)]).high == 1.0


@pytest.mark.parametrize("rate", [0.0, 0.0002, 0.001, 0.005, 0.05])
@pytest.mark.parametrize("share", [0.005, 0.02])
def test_the_interval_covers_however_rare_misses_are(rate: float, share: float) -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(MONTHS):
        bad = generator.random(20_000) < rate
        seen = generator.random(len(bad)) < share
        found = miss_rate([Stratum(len(bad), int(seen.sum()), int(bad[seen].sum()))])
        covered += found.low <= bad.mean() <= found.high
    assert covered >= 90


def test_the_interval_covers_when_the_share_that_is_chosen_changes() -> None:
    generator = np.random.default_rng(8)
    covered = plain = 0
    for _ in range(MONTHS):
        strata = []
        for rate, share in ((0.001, 0.01), (0.001, 0.01), (0.02, 0.05), (0.02, 0.05)):
            bad = generator.random(8000) < rate
            seen = generator.random(len(bad)) < share
            strata.append((bad, Stratum(len(bad), int(seen.sum()), int(bad[seen].sum()))))
        truth = np.concatenate([bad for bad, _ in strata]).mean()
        found = miss_rate([one for _, one in strata])
        covered += found.low <= truth <= found.high
        pooled = miss_rate([Stratum(*(sum(getattr(s, n) for _, s in strata) for n in ("passed", "judged", "missed")))])
        plain += pooled.low <= truth <= pooled.high
    assert covered >= 90
    # What the strata are for: pooled, the interval breaks its promise.
    assert plain < 90


@pytest.mark.parametrize(("rate", "share", "repeats"), [(0.0, 0.02, 4), (0.004, 0.1, 1), (0.05, 0.1, 4)])
def test_months_of_audited_traffic_as_the_cascade_chooses_it(
    small_policy: Policy, rate: float, share: float, repeats: int
) -> None:
    held, width = covered(MONTHS, small_policy, rate, share, repeats)
    assert sum(held) >= 90
    assert 0 < width < 0.2
