"""Calibration error and reliability by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tamis.calibration import bin_of, expected_calibration_error, reliability


def test_calibration_error_by_hand() -> None:
    # Bins of 0.2: two rows at .9, one right (gap .4); one row at .5, right (gap .5): 2/3 * .4 + 1/3 * .5.
    confidence, correct = np.array([0.9, 0.9, 0.5]), np.array([True, False, True])
    found = expected_calibration_error(confidence, correct, np.ones((1, 3)), bins=5)
    assert found == pytest.approx([2 / 3 * 0.4 + 1 / 3 * 0.5])


def test_reliability_by_hand() -> None:
    found = reliability(np.array([0.9, 1.0, 0.5]), np.array([True, False, True]), bins=5)
    assert [tuple(one) for one in found] == [(0.5, 1.0, 1), (pytest.approx(0.95), 0.5, 2)]


def test_a_bin_holds_its_upper_edge() -> None:
    assert bin_of(np.array([0.0, 0.2, 0.21, 1.0]), bins=5).tolist() == [0, 0, 1, 4]
