"""Which language a text is in, by its script alone: the same answer when a row is read and when a text is judged."""

from __future__ import annotations

import re

HANZI = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
KANA = re.compile("[\u3040-\u30ff]")
LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
LETTER = re.compile(r"[^\W\d_]")
WORD_LETTERS = 4
"""Latin letters that weigh as much as one Chinese character."""


def language(text: str) -> str:
    """`zh` where Chinese characters dominate, `en` where Latin letters do, `other` else; by script alone."""
    hanzi, kana, latin = (len(script.findall(text)) for script in (HANZI, KANA, LATIN))
    others = len(LETTER.findall(text)) - hanzi - kana - latin if not text.isascii() else 0
    if kana * WORD_LETTERS > hanzi or others > hanzi + latin / WORD_LETTERS:
        return "other"
    if hanzi and hanzi * WORD_LETTERS >= latin:
        return "zh"
    return "en" if latin else "other"
