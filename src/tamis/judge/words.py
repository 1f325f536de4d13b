"""The report's strings in one language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from tamis.policy import Language


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

    def model(self, name: str) -> str:
        """What a model is called; `svm_teacher` is `linear model (teacher's labels)`."""
        first, _, rest = name.partition("_")
        known = self.texts.get(f"name_{first}")
        if known is None:
            return name
        return self("labels", name=known, labels=self.known("labels", rest)) if rest else known

    def category(self, names: Mapping[str, Mapping[str, str]], category: str) -> str:
        """A category's short name in this language."""
        return names.get(category, {}).get(self.language, category)


def load_words(language: Language) -> Words:
    """The strings of a language, from texts.yaml."""
    tree = yaml.safe_load((resources.files("tamis.judge") / "texts.yaml").read_text(encoding="utf-8"))
    return Words(language, tree[language])
