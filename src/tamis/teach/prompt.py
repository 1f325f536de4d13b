"""How the teacher is asked: system text, few-shot turns and the question, in Chinese or English.

The part that is the same for every text comes first, so that a server which caches prompt prefixes computes it once.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from tamis.errors import ConfigError
from tamis.policy import Category, Language, Policy
from tamis.records import Example
from tamis.teach.shots import NO_SHOTS, Shots

Message = dict[str, str]
Style = Literal["words", "letters"]
Ask = Literal["one", "json"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_log = logging.getLogger(__name__)

TEXTS: dict[Language, dict[str, str]] = {
    "zh": {
        "role": "你是内容审核员，判断每段文本属于哪一类。",
        "categories": "类别：",
        "line": "{word}：{definition}",
        "letter": "{word}. {name}：{definition}",
        "several": "一段文本可以同时属于多个类别，请逐类分别判断。",
        "one": "只回答一个类别：{words}。",
        "json": "只回答一个 JSON 对象：键是{words}，值是文本属于该类的概率（0 到 1）。",
        "question": "文本：{text}\n类别：",
        "separator": "、",
    },
    "en": {
        "role": "You are a content moderator. Say which category each text belongs to.",
        "categories": "Categories:",
        "line": "{word}: {definition}",
        "letter": "{word}. {name}: {definition}",
        "several": "A text may belong to several categories: judge each of them by itself.",
        "one": "Answer with one category only: {words}.",
        "json": "Answer with one JSON object only: "
        "its keys are {words}, each value the probability (0 to 1) of the category.",
        "question": "Text: {text}\nCategory:",
        "separator": ", ",
    },
}


@dataclass(frozen=True)
class Prompt:
    """Renders the question about one text; `order` rotates the categories.

    Args:
        policy: what the text is judged by.
        language: of everything but the text itself.
        style: `words` answers with the category's short name, `letters` with A, B, C in listed order.
        shots: the gold examples shown before the question.
        orders: how many rotations answers are averaged over.
    """

    policy: Policy
    language: Language
    style: Style = "words"
    shots: Shots = NO_SHOTS
    orders: int = 1

    def categories(self, order: int = 0) -> tuple[Category, ...]:
        """Categories as listed in this order."""
        every = self.policy.categories
        start = order * len(every) // self.orders
        return every[start:] + every[:start]

    def options(self, order: int = 0) -> dict[str, str]:
        """What the teacher answers for each category id."""
        listed = self.categories(order)
        if self.style == "letters":
            return {category.id: LETTERS[i] for i, category in enumerate(listed)}
        return {category.id: word_of(category, self.language) for category in listed}

    def system(self, order: int = 0, ask: Ask = "one") -> str:
        """Role, guidance, definitions and the form of the answer."""
        texts, options = TEXTS[self.language], self.options(order)
        line = texts["line" if self.style == "words" else "letter"]
        parts = [texts["role"], said(self.policy.guidance, self.language), texts["categories"]]
        parts += [
            line.format(
                word=options[category.id],
                name=word_of(category, self.language),
                definition=said(category.definition, self.language),
            )
            for category in self.categories(order)
        ]
        parts.append(texts["several"] if self.policy.kind == "multi_label" else "")
        parts.append(texts[ask].format(words=texts["separator"].join(options.values())))
        return "\n".join(part for part in parts if part)

    def messages(self, example: Example, order: int = 0, ask: Ask = "one") -> list[Message]:
        """The chat messages that ask about one text."""
        options = self.options(order)
        turns = [{"role": "system", "content": self.system(order, ask)}]
        for shot in self.shots.of(example):
            turns.append({"role": "user", "content": self.question(shot.text)})
            turns.append({"role": "assistant", "content": _shown(options, self.policy.verdicts(shot), ask)})
        return [*turns, {"role": "user", "content": self.question(example.text)}]

    def question(self, text: str) -> str:
        """The turn that shows a text."""
        # Not str.format: a text may hold braces.
        return TEXTS[self.language]["question"].replace("{text}", text)

    @property
    def hash(self) -> str:
        """Hash of all that is asked but the text."""
        empty = Example("", "", "", "")
        asked = [self.messages(empty, order, ask) for order in range(self.orders) for ask in ("one", "json")]
        return hashlib.sha256(json.dumps([asked, self.shots.identity]).encode()).hexdigest()[:16]


def _shown(options: Mapping[str, str], verdicts: Mapping[str, bool], ask: Ask) -> str:
    if ask == "one":
        return next(word for name, word in options.items() if verdicts[name])
    return json.dumps({word: float(verdicts[name]) for name, word in options.items()}, ensure_ascii=False)


def said(texts: Mapping[Language, str], language: Language) -> str:
    """A text of the policy in `language`, or in the one it has."""
    return texts.get(language) or next(iter(texts.values()), "")


def word_of(category: Category, language: Language) -> str:
    """The short name that stands for a category in answers."""
    return said(category.short, language)


def choose_style(policy: Policy, language: Language, tokenize: Callable[[str], Sequence[int]] | None = None) -> Style:
    """Words where the first token tells them apart, letters otherwise (and the log says so).

    Without a tokenizer the first characters must differ (two in Latin script): then so do the first tokens.

    Raises:
        ConfigError: more categories than letters.
    """
    words = [word_of(category, language) for category in policy.categories]
    clash = _clash(words, tokenize)
    if clash is None:
        return "words"
    if len(words) > len(LETTERS):
        raise ConfigError(
            f"policy {policy.name}: the short names {clash[0]} and {clash[1]} begin alike and {len(words)} categories"
            " are too many for letters; change one `short` name"
        )
    _log.warning("the short names %s and %s begin with the same token: the teacher answers with letters", *clash)
    return "letters"


def _clash(words: Sequence[str], tokenize: Callable[[str], Sequence[int]] | None) -> tuple[str, str] | None:
    """Two words that one token cannot tell apart."""

    def start(word: str) -> object:
        if tokenize:
            return tokenize(word)[0]
        return word.casefold()[: 2 if word.isascii() else 1]

    return next(((a, b) for a, b in combinations(words, 2) if start(a) == start(b)), None)
