"""Functional tests: short texts made from templates, one thing tested at a time (HateCheck, Röttger et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import product
from pathlib import Path
from string import Formatter
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tamis.errors import ConfigError
from tamis.judge.update.compare import Asked
from tamis.judge.update.result import Passed
from tamis.policy import Language, Policy, TextLists, Texts
from tamis.records import Example, Scorer, content_id

SHIPPED = "functional"


class Test(BaseModel):
    """One thing that a model must get right: templates by language, all of one category."""

    __test__ = False
    model_config = ConfigDict(frozen=True, extra="forbid")

    category: str
    about: Texts
    templates: TextLists = Field(min_length=1)


class Tests(BaseModel):
    """A file of functional tests; `slots` holds what `{name}` in a template stands for."""

    __test__ = False
    model_config = ConfigDict(frozen=True, extra="forbid")

    slots: dict[str, TextLists] = {}
    tests: dict[str, Test] = Field(min_length=1)


@dataclass(frozen=True)
class Case:
    """A text, the test it belongs to and the template it was made from."""

    example: Example
    test: str
    template: int


@dataclass(frozen=True)
class Functional:
    """All cases of some files, with the tests by name."""

    tests: Mapping[str, Test]
    cases: tuple[Case, ...]

    @property
    def asked(self) -> Asked:
        """The cases as a set; those of one template stand or fall together."""
        examples = tuple(case.example for case in self.cases)
        return Asked(SHIPPED, "functional", examples, tuple(case.template for case in self.cases))


def read_tests(names: Sequence[str], policy: Policy) -> Functional:
    """Functional tests from YAML files, or shipped ones by their name; a later file may replace a test of an earlier.

    Shipped tests of categories that the policy does not have are left out.

    Raises:
        ConfigError: no such file, one that is no YAML of tests, a slot nobody fills.
        PolicyError: a test of a category that the policy does not have.
    """
    tests: dict[str, Test] = {}
    texts: dict[str, list[list[tuple[str, Language]]]] = {}
    for name in names:
        shipped, found = _read(name)
        for key, test in found.tests.items():
            if shipped and test.category not in policy.ids:
                continue
            tests[key] = test.model_copy(update={"category": policy.category(test.category).id})
            texts[key] = list(_filled(test, found.slots, f"{name}, test {key}"))
    cases, template = [], 0
    for key, made in texts.items():
        for group in made:
            cases += [Case(_example(text, lang, tests[key], policy), key, template) for text, lang in group]
            template += 1
    return Functional(tests, tuple(cases))


def passed_by(functional: Functional, old: Scorer, new: Scorer, policy: Policy) -> dict[str, Passed]:
    """How many cases of each test the two models pass."""
    texts = [case.example.text for case in functional.cases]
    told = [[policy.named(one.probabilities) for one in scorer(texts)] for scorer in (old, new)] if texts else []
    found = {}
    for name, test in functional.tests.items():
        places = [place for place, case in enumerate(functional.cases) if case.test == name]
        passed = [sum(test.category in named[place] for place in places) for named in told]
        about = {str(language): text for language, text in test.about.items()}
        found[name] = Passed(test.category, about, len(places), *passed)
    return found


def _read(name: str) -> tuple[bool, Tests]:
    """Whether a file is shipped, and what it holds."""
    path = resources.files("tamis.judge") / SHIPPED / f"{name}.yaml"
    shipped = path.is_file()
    try:
        tree: Any = yaml.safe_load((path if shipped else Path(name)).read_text(encoding="utf-8"))
        return shipped, Tests.model_validate(tree)
    except OSError as error:
        raise ConfigError(f"cannot read functional tests {name}: {error.strerror}; check `functional`") from error
    except (yaml.YAMLError, ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"functional tests {name} cannot be used: {reason}") from error


def _filled(test: Test, slots: Mapping[str, TextLists], where: str) -> Iterator[list[tuple[str, Language]]]:
    """The texts of each template, every slot filled in every way."""
    for language, templates in test.templates.items():
        for template in templates:
            names = list(dict.fromkeys(name for _, name, _, _ in Formatter().parse(template) if name))
            lacking = [name for name in names if language not in slots.get(name, {})]
            if lacking:
                raise ConfigError(
                    f"functional tests {where}: nothing fills {{{lacking[0]}}} in {language}: add it to `slots`"
                )
            ways = product(*(slots[name][language] for name in names))
            yield [(template.format(**dict(zip(names, way, strict=True))), language) for way in ways]


def _example(text: str, language: Language, test: Test, policy: Policy) -> Example:
    """A text with its category; where several may hold, nothing is said of the others."""
    example = Example(content_id(text), text, language, SHIPPED)
    if policy.kind != "multi_label":
        return replace(example, label=test.category)
    others = tuple(name for name in policy.ids if name != test.category)
    return replace(example, labels=(test.category,), unknown=others)
