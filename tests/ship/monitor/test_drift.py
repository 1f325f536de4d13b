"""Each statistic by hand, and what it says when nothing has changed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tamis.ship.monitor.drift import PSI_LIMIT, edges, energy_distance, mix, psi, psi_limit, rise


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


def test_energy_distance_by_hand() -> None:
    # Points 0, 2 and 1, 3: twice the mean distance between is 3, within 1 + 1: (3 - 2) / 3.
    value, _ = energy_distance(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]), times=1)
    assert value == pytest.approx(1 / 3)


def test_energy_distance_sees_a_shift_and_no_noise() -> None:
    generator = np.random.default_rng(1)
    same = [energy_distance(generator.normal(size=(60, 4)), generator.normal(size=(60, 4)), 99) for _ in range(20)]
    assert sum(value > chance for value, chance in same) <= 2
    value, chance = energy_distance(generator.normal(size=(60, 4)), generator.normal(1.0, size=(60, 4)), 99)
    assert value > chance
