"""From what a teacher answered to probabilities over the policy's categories; pure functions."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tamis.policy import Policy

UNUSABLE_LOGPROB = -9000.0
"""Some endpoints fill in -9999 for what they do not know."""

TokenLogprobs = Iterable[tuple[str, float]]


def category_of(piece: str, options: Mapping[str, str]) -> str | None:
    """The one category whose answer begins with this token; None for none or several.

    The first step of a trie over the answers: where their first tokens differ it is the last step too.
    """
    piece = piece.strip()
    if not piece:
        return None
    letters = all(len(word) == 1 and word.isascii() for word in options.values())
    # A lower-case "a" is a word of its own, not the letter of an option.
    fold = (lambda word: word) if letters else str.casefold
    matching = [name for name, word in options.items() if fold(word).startswith(fold(piece))]
    return matching[0] if len(matching) == 1 else None


def from_logprobs(tokens: TokenLogprobs, options: Mapping[str, str]) -> dict[str, float]:
    """Probability mass of each category among the returned tokens, not normalised; empty when there is none."""
    mass = dict.fromkeys(options, 0.0)
    for piece, logprob in tokens:
        name = category_of(piece, options)
        if name is not None and logprob > UNUSABLE_LOGPROB:
            mass[name] += math.exp(min(logprob, 0.0))
    return mass if sum(mass.values()) > 0 else {}


def logprobs_are_usable(tokens: TokenLogprobs) -> bool:
    """Whether log-probabilities tell anything: not absent, and not only 0 and -9999."""
    return any(UNUSABLE_LOGPROB < logprob < 0 for _, logprob in tokens)


def parse_choice(answer: str, options: Mapping[str, str], policy: Policy) -> str | None:
    """The category an answer in words names; None when it names none, or says more than a name."""
    # A reasoning model may put its thoughts before the answer.
    said = answer.rsplit("</think>", 1)[-1].strip().strip("。.!！\"'“”「」*` ").casefold()
    if not said:
        return None
    for category in policy.categories:
        names = {options[category.id], category.id, *category.short.values(), *category.name.values()}
        if said in {name.casefold() for name in names}:
            return category.id
    return None


def from_votes(answers: Sequence[str], options: Mapping[str, str], policy: Policy) -> dict[str, float]:
    """Share of the answers that name each category; what named none is missing mass; empty when all named none."""
    counts = Counter(name for answer in answers if (name := parse_choice(answer, options, policy)))
    return {name: counts[name] / len(answers) for name in options} if counts else {}


def from_json(answer: str, options: Mapping[str, str], policy: Policy) -> dict[str, float]:
    """Verbalised probabilities, strictly: one JSON object, known keys, numbers in [0, 1]; empty when it is not.

    Answers over categories of which one holds are divided by their sum if it is more than 1; a sum of 0 says nothing.
    Where several may hold, one that is left out has not been judged, which makes the answer none.
    """
    body = answer.rsplit("</think>", 1)[-1].strip()
    if body.startswith("```"):
        body = body.strip("`").removeprefix("json").strip()
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    by_name = {word: name for name, word in options.items()} | {name: name for name in options}
    if not isinstance(found, dict) or not found or not set(found) <= set(by_name):
        return {}
    if not all(_is_probability(value) for value in found.values()):
        return {}
    told = {by_name[key]: float(value) for key, value in found.items()}
    mass = dict.fromkeys(options, 0.0) | told
    total = sum(mass.values())
    if total <= 0:
        return {}
    if policy.kind == "multi_label":
        return mass if len(told) == len(options) else {}
    return mass if total <= 1 else {name: p / total for name, p in mass.items()}


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def likeliest(probabilities: Mapping[str, float], nothing: str = "") -> str:
    """The category of the largest probability, the first of equals; `nothing` where there is none."""
    return max(probabilities, key=lambda name: probabilities[name], default=nothing)


def average(answers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of answers over the same categories, such as those of several category orders."""
    return {name: sum(answer[name] for answer in answers) / len(answers) for name in answers[0]}
