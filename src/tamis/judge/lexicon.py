"""Lists of terms that speak for a harmful category: mined from labels or read from a file, found in one pass."""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ahocorasick
import numpy as np

from tamis.errors import ConfigError
from tamis.policy import Policy
from tamis.records import Scorer, Scores

Lexicon = Mapping[str, Mapping[str, float]]
"""By harmful category, the terms that speak for it and their weights, which are log-odds above 0."""

LARGEST = 300
FEWEST_TEXTS = 2
SMOOTHING = 0.5
BENIGN_WEIGHT = 2.0
DEFAULT_WEIGHT = 4.0
LATIN = frozenset(f"{string.ascii_lowercase}{string.digits}'")
WORD = re.compile(r"[a-z0-9']+|[\u3400-\u9fff]+")


def read_lexicon(path: str | Path, policy: Policy) -> Lexicon:
    """Read a file of `term<TAB>category` or `term<TAB>category<TAB>weight` lines in UTF-8.

    Empty lines and those that start with `#` say nothing. A term without a weight has 4, so that alone it is enough.
    Of a term and category that come twice, spelt alike after NFKC and lower-casing, the larger weight holds.

    Raises:
        ConfigError: a file that cannot be read or has no term, or a line that is no term, harmful category and weight.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"cannot read lexicon {path}: {error.strerror}; check evaluate.lexicon") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"lexicon {path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    lexicon: dict[str, dict[str, float]] = {name: {} for name in _harmful(policy)}
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            term, name, weight = _entry(line, lexicon, f"lexicon {path}, line {number}")
            lexicon[name][term] = max(weight, lexicon[name].get(term, 0.0))
    if not any(lexicon.values()):
        raise ConfigError(f"lexicon {path} has no term: give it lines of a term, a tab and a category")
    return lexicon


def _entry(line: str, known: Lexicon, where: str) -> tuple[str, str, float]:
    cells = [cell.strip() for cell in line.split("\t")]
    if len(cells) not in (2, 3):
        raise ConfigError(
            f"{where}: wanted a term, a category and perhaps a weight between tabs, got {len(cells)} cells"
        )
    term, name = normal(cells[0]), cells[1]
    if not term:
        raise ConfigError(f"{where}: there is no term before the tab, add one or remove the line")
    if name not in known:
        raise ConfigError(f"{where}: {name!r} is no harmful category of the policy, it has {', '.join(known)}")
    return term, name, _weight(cells[2], where) if len(cells) == 3 else DEFAULT_WEIGHT


def _weight(cell: str, where: str) -> float:
    try:
        weight = float(cell)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise ConfigError(f"{where}: the weight is {cell!r}, wanted a number above 0")
    return weight


def mined(rows: Sequence[tuple[str, Mapping[str, bool]]], policy: Policy) -> Lexicon:
    """The lexicon that labelled texts give: words, and 2 to 4 characters of Chinese, that speak for one category.

    A category keeps the 300 terms whose smoothed log-odds against all other texts are the most standard deviations
    above 0 (Monroe, Colaresi and Quinn, 2008, with a flat prior).

    Args:
        rows: texts, and of each category that has been judged whether it holds.
        policy: the categories.
    """
    found = [(terms(text), judged) for text, judged in rows]
    return {
        name: _telling([(words, judged[name]) for words, judged in found if name in judged])
        for name in _harmful(policy)
    }


def _telling(rows: Sequence[tuple[set[str], bool]]) -> dict[str, float]:
    inside = Counter(term for found, holds in rows if holds for term in found)
    outside = Counter(term for found, holds in rows if not holds for term in found)
    size = sum(holds for _, holds in rows)
    weights = {}
    for term, count in inside.items():
        if count >= FEWEST_TEXTS:
            odds = _odds(count, size) - _odds(outside[term], len(rows) - size)
            deviation = np.sqrt(1 / (count + SMOOTHING) + 1 / (outside[term] + SMOOTHING))
            weights[term] = (odds / deviation, odds)
    best = sorted(weights.items(), key=lambda item: (-item[1][0], item[0]))[:LARGEST]
    return {term: float(odds) for term, (_, odds) in best if odds > 0}


def _odds(count: int, size: int) -> float:
    return float(np.log((count + SMOOTHING) / (size - count + SMOOTHING)))


def terms(text: str) -> set[str]:
    """Words of Latin letters, digits and apostrophes, and all runs of 2 to 4 Chinese characters, of a text."""
    found: set[str] = set()
    for run in WORD.findall(normal(text)):
        if run[0] in LATIN:
            found.add(run)
        else:
            found.update(run[i : i + n] for n in (2, 3, 4) for i in range(len(run) - n + 1))
    return found


def normal(text: str) -> str:
    """A text as terms are mined from it and found in it: NFKC, lower case, one space where there is white space."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def lexicon_scorer(lexicon: Lexicon, policy: Policy) -> Scorer:
    """A scorer by the summed weight w of the terms in a text, which are its evidence; without any it is benign.

    Single-label: a harmful category has a mass of e^w - 1, the benign one of e^2. Multi-label: the probability of a
    harmful category is 1 - e^(-w/2).
    """
    find = finder({term for words in lexicon.values() for term in words})
    return lambda texts: [_scores(find(normal(text)), lexicon, policy) for text in texts]


def finder(wanted: set[str]) -> Callable[[str], set[str]]:
    """A function from a normal text to the wanted terms in it, in one pass (Aho and Corasick, 1975).

    A term that begins or ends with a Latin letter, digit or apostrophe begins or ends a word there; others may stand
    anywhere.
    """
    if not wanted:  # an automaton of no term cannot be asked
        return lambda text: set()
    automaton = ahocorasick.Automaton()
    for term in wanted:
        automaton.add_word(term, term)
    automaton.make_automaton()

    def find(text: str) -> set[str]:
        spans = ((term, end + 1 - len(term), end + 1) for end, term in automaton.iter(text))
        return {term for term, start, end in spans if not (_in_word(text, start) or _in_word(text, end))}

    return find


def _in_word(text: str, place: int) -> bool:
    """Whether the gap before this character is inside a word."""
    return 0 < place < len(text) and text[place - 1] in LATIN and text[place] in LATIN


def _scores(found: set[str], lexicon: Lexicon, policy: Policy) -> Scores:
    evidence = tuple(sorted(found))
    weight = {name: sum(words.get(term, 0.0) for term in evidence) for name, words in lexicon.items()}
    if policy.kind == "multi_label":
        likely = {name: 1 - float(np.exp(-w / BENIGN_WEIGHT)) for name, w in weight.items()}
        likely[policy.benign] = 1 - max(likely.values(), default=0.0)
    else:
        # expm1 gives a category without a match nothing, so a text without any match is benign for certain.
        mass = {name: float(np.expm1(min(w, 50.0))) for name, w in weight.items()}
        mass[policy.benign] = float(np.exp(BENIGN_WEIGHT))
        likely = {name: m / sum(mass.values()) for name, m in mass.items()}
    return policy.scores({name: likely[name] for name in policy.ids}, evidence)


def _harmful(policy: Policy) -> tuple[str, ...]:
    return tuple(name for name in policy.ids if name != policy.benign)
