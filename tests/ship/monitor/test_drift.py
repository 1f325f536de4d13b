"""Each statistic by hand, and what it says when nothing has changed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tamis.ship.monitor.drift import AUC_LIMIT, PSI_LIMIT, edges, mix, psi, psi_limit, rise, told_apart


def test_psi_by_hand() -> None:
    # Bins below 0, [0, .5), [.5, 1) and from 1 on, half a row added to each: two terms of (q - p) ln(q / p).
    reference, current = np.repeat([0.0, 1.0], [100, 100]), np.repeat([0.0, 1.0], [150, 50])
    value, bins = psi(reference, current)
    first = (150.5 - 100.5) / 202 * math.log(150.5 / 100.5)
    second = (50.5 - 100.5) / 202 * math.log(50.5 / 100.5)
    assert (value, bins) == (pytest.approx(first + second), 4)


def test_psi_is_nothing_of_the_same_and_knows_values_outside() -> None:
    values = np.linspace(0, 1, 1000)
    assert psi(values, values)[0] == 0
    assert psi(values, values + 5)[0] > 1
    assert len(edges(np.zeros(50))) == 1


def test_the_limit_of_psi_is_what_chance_brings() -> None:
    generator = np.random.default_rng(0)
    # Of 150 rows the index is often over .1 although nothing changed; one in twenty passes its quantile.
    found = [psi(generator.random(150), generator.random(150)) for _ in range(400)]
    limit = psi_limit(150, 150, 10, 0.0001)
    assert limit == pytest.approx(2 / 150 * 33.72, rel=1e-3)
    assert max(value for value, _ in found) < limit
    assert psi_limit(100_000, 100_000, 10, 0.0001) == PSI_LIMIT


def test_a_mix_by_hand() -> None:
    # Rows (10, 10) and (20, 0): 15 and 5 expected in each, chi^2 = 2 * 25 / 15 + 2 * 25 / 5 = 13.33 of 40 rows.
    value, limit = mix(["a", "b"] * 10, ["a"] * 20, 0.05)
    assert value == pytest.approx(math.sqrt(13.3333 / 40), abs=1e-4)
    assert limit == pytest.approx(math.sqrt(3.8415 / 40), abs=1e-4)
    assert mix(["a"], ["a"], 0.05)[0] == 0


def test_a_rise_by_hand() -> None:
    # Pooled 30 of 200, error sqrt(.15 * .85 * .02) = .0505, one-sided quantile at .05 of 1.645.
    grown, limit = rise((10, 100), (20, 100), 0.05, 0.01)
    assert grown == pytest.approx(0.1)
    assert limit == pytest.approx(1.6449 * math.sqrt(0.15 * 0.85 * 0.02), rel=1e-4)
    assert rise((0, 10**6), (0, 10**6), 0.05, 0.01) == (0.0, 0.01)


def test_what_tells_two_clouds_apart_by_hand() -> None:
    # 40 against 60 rows: halves of 20 and 30 are tested, whose U has the variance 20 x 30 x 51 / 12.
    value, limit = told_apart(np.full((40, 1), 1.0), np.full((60, 1), 2.0), 0.05)
    assert (value, limit) == (1.0, pytest.approx(0.5 + 1.6449 * math.sqrt(51 / 12 / 600), rel=1e-4))
    assert told_apart(np.ones((40, 1)), np.ones((60, 1)), 0.05)[0] == 0.5
    generator = np.random.default_rng(0)
    assert told_apart(*generator.normal(size=(2, 20_000, 1)), 0.05)[1] == AUC_LIMIT


def test_a_part_that_is_new_tells_two_clouds_apart_and_noise_does_not() -> None:
    generator = np.random.default_rng(1)
    above = [np.greater(*told_apart(*generator.normal(size=(2, 200, 8)), 0.05)) for _ in range(100)]
    # Of 100 with probability 0.05 more than 12 come once in 1,500 times.
    assert sum(above) <= 12
    now = generator.normal(size=(1000, 8))
    now[:200] += 1.5
    assert np.greater(*told_apart(generator.normal(size=(1000, 8)), now, 0.001))
