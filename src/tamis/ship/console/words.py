"""What the pages say in one language: texts/*.yaml, one file a page, and numbers and times as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, get_args

import yaml

from tamis.policy import Language

LANGUAGES: tuple[Language, ...] = get_args(Language)


@dataclass(frozen=True)
class Words:
    """Looks up a string and fills it in; a key that is missing is a bug and raises KeyError."""

    language: Language
    texts: Mapping[str, str]

    def __call__(self, key: str, **values: Any) -> str:
        """The string of `key` with `values` filled in."""
        return self.texts[key].format(**values) if values else self.texts[key]

    def known(self, prefix: str, name: str) -> str:
        """The string of `prefix_name`, or the name itself for names that users choose."""
        return self.texts.get(f"{prefix}_{name}", name)

    def percent(self, share: float | None, digits: int = 0) -> str:
        """A share as people read it; a dash where it is no number."""
        return "–" if share is None or math.isnan(share) else f"{share:.{digits}%}"

    def number(self, value: float | None, digits: int = 0) -> str:
        """A number with thousands set apart; a dash where it is none."""
        return "–" if value is None or math.isnan(value) else f"{value:,.{digits}f}"

    def span(self, seconds: float) -> str:
        """A time span in its largest unit."""
        for unit, length in UNITS.items():
            if seconds >= length:
                return self(f"span_{unit}", n=int(seconds // length))
        return self("span_now")

    def when(self, time: str) -> str:
        """A time of the store to the minute, on the clock of the server."""
        return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M}"

    def ago(self, time: str) -> str:
        """How long ago a time of the store was."""
        return self.span((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())


def load_words(language: Language) -> Words:
    """The strings of a language."""
    return Words(language, _texts()[language])


def best(accepted: str) -> Language:
    """The language of an `Accept-Language` header that there is, English where there is none of them (RFC 9110)."""
    wanted = []
    for part in accepted.lower().split(","):
        name, _, weight = part.strip().partition(";q=")
        try:
            wanted.append((-float(weight or 1), name.partition("-")[0]))
        except ValueError:
            continue
    found = [name for weight, name in sorted(wanted, key=lambda one: one[0]) if name in LANGUAGES and weight < 0]
    return next((one for one in LANGUAGES if found and one == found[0]), "en")


@cache
def _texts() -> dict[str, dict[str, str]]:
    merged: dict[str, dict[str, str]] = {language: {} for language in LANGUAGES}
    for path in sorted((resources.files("tamis.ship.console") / "texts").iterdir(), key=lambda one: one.name):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        for language in LANGUAGES:
            merged[language] |= tree[language]
    return merged


UNITS = {"days": 86_400, "hours": 3_600, "minutes": 60}
"""Seconds of the units of a time span, the largest first."""
