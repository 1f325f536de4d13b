"""Which parts of a text speak for its risk: what each takes along when it is left out, and what it brings by itself.

Of the contributions whose mean over all orders is the Shapley value, those of the last and of the first in the order:
Lundberg and Lee, A unified approach to interpreting model predictions (2017). The last alone, occlusion, sees nothing
where several parts would each do. It says what this model reacts to, not why a text is harmful.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tamis.records import Scores

LONGEST = 2000
"""Characters up to which a text is taken apart."""

PARTS = 20
"""Parts at most; a text is scored twice for each."""

LEAST = 0.5
"""Log-odds of the risk that a part must be worth to be marked at all."""

MARKS = (0.7, 0.4, 0.2)
"""Share of the heaviest part's weight from which a part gets the mark 3, 2, 1."""

TOKEN = re.compile(r"(?:[\u3400-\u9fff]{1,2}|[^\W\u3400-\u9fff]+|[^\w\s]+|)\s*", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """A part of a text; `mark` is 0 where it says nothing, up to 3 where it says most."""

    text: str
    mark: int


def evidence(text: str, score: Callable[[Sequence[str]], Sequence[Scores]]) -> list[Part]:
    """The text in parts, in its order; none is marked where the text is too long or there is nothing to find."""
    cut = parts(text)
    if len(text) > LONGEST or len(cut) < 2:
        return [Part(text, 0)]
    left_out = ["".join(cut[:place] + cut[place + 1 :]) for place in range(len(cut))]
    whole, *others = (_log_odds(scores.risk) for scores in score([text, *left_out, *cut]))
    found = marks(weights(whole, others[: len(cut)], others[len(cut) :]))
    return [Part(part, mark) for part, mark in zip(cut, found, strict=True)]


def parts(text: str) -> list[str]:
    """A text cut into at most 20 parts at words, and pairs of Chinese characters; together they are the text."""
    tokens = [token for token in TOKEN.findall(text) if token]
    size = math.ceil(len(tokens) / PARTS) or 1
    return ["".join(tokens[start : start + size]) for start in range(0, len(tokens), size)]


def weights(whole: float, without: Sequence[float], alone: Sequence[float]) -> list[float]:
    """What each part is worth in log-odds of the risk, from those of the text, of it without each part, and of each.

    What a part brings by itself is counted from the part that brings least.
    """
    least = min(alone)
    return [(whole - rest + own - least) / 2 for rest, own in zip(without, alone, strict=True)]


def marks(worth: Sequence[float]) -> list[int]:
    """Marks of parts by their weights; NaN is no weight."""
    most = max((weight for weight in worth if weight >= LEAST), default=math.inf)
    return [sum(weight >= share * most for share in MARKS) if weight >= LEAST else 0 for weight in worth]


def _log_odds(risk: float) -> float:
    bounded = min(max(risk, 1e-6), 1 - 1e-6)
    return math.log(bounded / (1 - bounded))
