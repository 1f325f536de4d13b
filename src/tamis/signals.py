"""What is counted of a text for the decision log: its length, its language and the marks of evasion, never the text."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tamis.languages import HANZI, LATIN, LETTER, language

EVASIONS = ("invisible", "mixed", "styled", "interleaved", "rare")
"""Names of the counts that are marks of evasion."""

INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\u3164\ufeff\uffa0"
    "\U000e0000-\U000e007f]"
    # Between pictures the joiner makes one picture of two.
    "|(?<![\U0001f000-\U0001faff\u2600-\u27bf\ufe0f])\u200d"
)
STYLED = re.compile("[\uff21-\uff3a\uff41-\uff5a\u2460-\u24ff\U0001d400-\U0001d7ff\U0001f100-\U0001f1e5]")
CYRILLIC_OR_GREEK = re.compile("[\u0370-\u03ff\u0400-\u052f]")
WORD = re.compile(r"[^\W\d_]+")
# Commas, stops and brackets between single characters are a list, not a disguise.
SYMBOL = r"[^\w\s、，,；;。：:（）()《》“”\"'’?？!！-]"
INTERLEAVED = re.compile(
    rf"(?:[\u3400-\u9fff](?:{SYMBOL}|[ _])){{2,}}[\u3400-\u9fff]"
    rf"|(?<![^\W_])[A-Za-z](?:(?:{SYMBOL}|[ _])[A-Za-z]){{3,}}(?![^\W_])"
)


def text_signals(text: str) -> dict[str, Any]:
    """Counts of a text that is about to be logged; its words cannot be told from them.

    Returns:
        `length` in characters, `language`, and five counts. `invisible`: characters that show nothing, such as the
        zero-width space. `mixed`: words of Latin and Cyrillic or Greek letters at once. `styled`: full-width,
        circled and mathematical letters. `interleaved`: runs of single characters kept apart by symbols or spaces.
        `rare`: letters outside Latin and GB 2312, the 6,763 characters of everyday Chinese.
    """
    counted: dict[str, Any] = {"length": len(text), "language": language(text)}
    words = [] if text.isascii() else WORD.findall(text)
    return counted | {
        "invisible": len(INVISIBLE.findall(text)),
        "mixed": sum(bool(LATIN.search(word) and CYRILLIC_OR_GREEK.search(word)) for word in words),
        "styled": len(STYLED.findall(text)),
        "interleaved": len(INTERLEAVED.findall(text)),
        "rare": sum(letter not in _everyday() for word in words for letter in LETTER.findall(word)),
    }


@cache
def _everyday() -> frozenset[str]:
    """Latin letters and the Chinese characters of GB 2312."""
    rows = (bytes((high, low)) for high in range(0xB0, 0xF8) for low in range(0xA1, 0xFF))
    hanzi = "".join(pair.decode("gb2312", "ignore") for pair in rows)
    return frozenset(HANZI.findall(hanzi)) | {chr(code) for code in range(0x250) if LATIN.match(chr(code))}
