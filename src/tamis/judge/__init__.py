"""Measuring: metrics, baselines, calibration, report."""
