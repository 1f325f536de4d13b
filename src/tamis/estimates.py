"""Figures with intervals and points of curves, as reports and pages show them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float whose NaN is null in JSON, which has no NaN."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: Number
    low: Number
    high: Number


class Point(NamedTuple):
    """A point of a curve."""

    x: float
    y: float
