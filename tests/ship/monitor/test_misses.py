"""The estimate of what is missed: by hand, and whether its interval keeps its promise over many months."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from tests.ship.monitor.conftest import verdict

from tamis.feedback import Truths
from tamis.policy import Policy
from tamis.ship.cascade import is_chosen
from tamis.ship.monitor.measures import missed
from tamis.ship.monitor.misses import Stratum, miss_rate
from tamis.ship.monitor.traffic import Traffic

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


def test_months_of_audited_traffic_as_the_cascade_chooses_it(
    make_traffic: Callable[..., Traffic], small_policy: Policy
) -> None:
    """Texts come again and again, chosen by the keyed hash; a third of the audit is never judged."""
    generator = np.random.default_rng(9)
    covered = 0
    for month in range(MONTHS):
        rows = 4000
        content = np.array([f"{month}-{i}" for i in generator.zipf(1.7, rows) % 3000])
        salt = generator.bytes(16)
        kept = {name: is_chosen(name, salt, 0.05) for name in set(content.tolist())}
        bad = {name: generator.random() < 0.004 for name in kept}
        side = make_traffic(
            rows, month, 28, content=content, action=np.full(rows, "pass"), audited=np.array([kept[c] for c in content])
        )
        judged = [name for name in kept if kept[name] and generator.random() < 2 / 3]
        truths = Truths({name: verdict(name, "fraud" if bad[name] else "normal") for name in judged})
        found = missed(side, truths, small_policy)
        # A text counts once a week.
        weekly = [bad[name] for week in side.weeks() for name in set(week.content.tolist())]
        covered += found.low <= np.mean(weekly) <= found.high
    assert covered >= 90
