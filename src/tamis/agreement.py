"""How far people, or models, agree beyond what chance alone would bring."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import permutations


def cohen(pairs: Sequence[tuple[str, str]]) -> float:
    """Cohen's kappa of two raters: (p_o - p_e) / (1 - p_e).

    Cohen, A coefficient of agreement for nominal scales (1960). NaN without a pair, or where both know one answer only.

    Args:
        pairs: what the first and the second said of each item both rated.
    """
    if not pairs:
        return math.nan
    rows = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(a == b for a, b in pairs) / rows
    expected = sum(first[name] * second[name] for name in first) / rows**2
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


def krippendorff(units: Iterable[Sequence[str]]) -> float:
    """Krippendorff's alpha for categories: 1 - D_o / D_e, for any number of raters and with gaps.

    Krippendorff, Content Analysis (2004), section 11.3: a unit of m values adds 1 / (m - 1) for each ordered pair of
    them; units of one value say nothing. NaN where nothing can be compared or all values are the same.

    Args:
        units: the values each item got, in any order.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for values in units:
        for a, b in permutations(values, 2):
            pairs[a, b] += 1 / (len(values) - 1)  # type: ignore[assignment]
    totals: Counter[str] = Counter()
    for (a, _), weight in pairs.items():
        totals[a] += weight
    rows = sum(totals.values())
    expected = rows**2 - sum(weight**2 for weight in totals.values())
    if expected <= 1e-9 * rows**2:
        return math.nan
    observed = sum(weight for (a, b), weight in pairs.items() if a != b)
    return 1 - (rows - 1) * observed / expected
