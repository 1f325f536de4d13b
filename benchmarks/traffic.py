"""Weeks of traffic made of labelled rows: what comes when, and how some of it is disguised."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

from rows import Row

from tamis.records import content_id
from tamis.signals import EVASIONS, text_signals

WEEKS = ("pinned", "calm", "new category", "evasion", "pinned again", "calm again")
CHANGED, DISGUISED = 2, 3
"""The week from which the new category comes, and that of the evasion wave."""

DISGUISED_SHARE, RARE = 0.3, 80
"""Of the harmful texts of that week; and the gold rows that a rare class gets although it has fewer by chance."""

HANZI_RUN, LETTERS = re.compile("[\u4e00-\u9fff]{3,}"), "abcdefghijklmnopqrstuvwxyz"
STYLED = {ord(a): ord(a) + 0xFEE0 for a in LETTERS + LETTERS.upper()} | {ord(str(n)): 0x245F + n for n in range(1, 10)}


@dataclass(frozen=True)
class Text:
    """One text of the traffic and what it truly is."""

    text: str
    label: str
    disguised: bool = False

    @property
    def id(self) -> str:
        """Its content id."""
        return content_id(self.text)


def divided(rows: Sequence[Row], new: str, count: int) -> tuple[list[Row], list[Row]]:
    """Gold of the old categories, about `count` rows as they come, and all other rows."""
    old = [row for row in rows if row["label"] != new]
    wanted = {name: max(seen, RARE) for name, seen in Counter(row["label"] for row in old[:count]).items()}
    gold: list[Row] = []
    rest: list[Row] = []
    for row in rows:
        taken = wanted.get(row["label"], 0) > 0
        (gold if taken else rest).append(row)
        if taken:
            wanted[row["label"]] -= 1
    return gold, rest


def weeks_of(rows: Sequence[Row], new: str, benign: str, size: int, share: float, seed: int) -> list[list[Text]]:
    """Six weeks of `size` texts, each text once; see `WEEKS`.

    Args:
        rows: what is drawn from.
        new: the category that comes in the third week.
        benign: the category of harmless texts, which nobody disguises.
        size: texts of a week.
        share: of the new category in its first week; what is left of it is spread evenly over the weeks that follow.
        seed: of the draw.
    """
    generator = random.Random(seed)
    texts = [Text(row["text"], row["label"]) for row in rows]
    generator.shuffle(texts)
    fresh, old = ([text for text in texts if (text.label == new) is is_new] for is_new in (True, False))
    first = min(round(share * size), len(fresh))
    later = min(first, (len(fresh) - first) // (len(WEEKS) - DISGUISED))
    weeks = []
    for number in range(len(WEEKS)):
        count = 0 if number < CHANGED else first if number == CHANGED else later
        week = [fresh.pop() for _ in range(count)] + old[: size - count]
        old = old[size - count :]
        if len(week) < size:
            raise SystemExit(f"the rows end in week {number}: give --rows-a-week under {size}, or more --train rows")
        generator.shuffle(week)
        weeks.append(disguised(week, benign, generator) if number == DISGUISED else week)
    return weeks


def disguised(week: Sequence[Text], benign: str, generator: random.Random) -> list[Text]:
    """The week with a share of its harmful texts written so as not to be found."""
    harmful = [place for place, text in enumerate(week) if text.label != benign]
    chosen, found, turns = generator.sample(harmful, round(DISGUISED_SHARE * len(harmful))), list(week), cycle(range(3))
    for place in chosen:
        text = disguise(week[place].text, next(turns))
        found[place] = Text(text, week[place].label, text != week[place].text)
    return found


def disguise(text: str, turn: int) -> str:
    """The text in the first way, from the given one on, that leaves a mark of its own; as it is where none does."""
    before = _marks(text)
    ways = [WAYS[(turn + n) % len(WAYS)](text) for n in range(len(WAYS))]
    return next((way for way in ways if _marks(way) - before), text)


def _marks(text: str) -> set[str]:
    counted = text_signals(text)
    return {name for name in EVASIONS if counted[name]}


WAYS: Sequence[Callable[[str], str]] = (
    lambda text: "\u200b".join(text),
    lambda text: HANZI_RUN.sub(lambda run: "*".join(run.group()), text),
    lambda text: text.translate(STYLED),
)
"""Zero-width spaces, characters kept apart, and full-width letters with circled digits."""
