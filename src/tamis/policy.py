"""The taxonomy a text is judged by: categories, severities, actions; read from YAML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tamis.errors import DataError, PolicyError
from tamis.records import Action, Example, Scores, uncertainty
from tamis.taxonomies import TAXONOMIES

Language = Literal["zh", "en"]
Texts = dict[Language, str]
TextLists = dict[Language, tuple[str, ...]]
Kind = Literal["single_label", "multi_label", "ordinal"]
Taxonomy = Literal["openai", "perspective"]

HOLDS = 0.5
"""Probability from which a category is named where several may hold."""


class Category(BaseModel):
    """One category: what it is called, what it covers and how bad it is (severity 0 to 3).

    `counterparts` are the names it has in other taxonomies, for clients that know those.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    name: Texts
    short: Texts
    severity: int = Field(ge=0, le=3)
    benign: bool = False
    definition: Texts
    positive: TextLists = {}
    negative: TextLists = {}
    counterparts: dict[Taxonomy, tuple[str, ...]] = {}

    @model_validator(mode="after")
    def _known_counterparts(self) -> Self:
        for taxonomy, names in self.counterparts.items():
            unknown = [name for name in names if name not in TAXONOMIES[taxonomy]]
            if unknown or self.benign:
                wrong = f"no {unknown[0]!r}" if unknown else "no name for what breaks no rule"
                raise ValueError(f"{taxonomy} has {wrong}; it has {', '.join(TAXONOMIES[taxonomy])}")
        return self


class Actions(BaseModel):
    """The risk at which a text is reviewed, and the one at which it is blocked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    review: float = Field(0.5, ge=0, le=1)
    block: float = Field(0.9, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.review > self.block:
            raise ValueError(f"review ({self.review}) must not be above block ({self.block})")
        return self

    def of(self, risk: float) -> Action:
        """Action at a risk in [0, 1]; a risk that is not a number is reviewed, never passed."""
        if risk >= self.block:
            return "block"
        return "pass" if risk < self.review else "review"


class Policy(BaseModel):
    """A taxonomy with its rules.

    `kind` says whether a text has one category, several, or a level: the categories of an ordinal policy are levels of
    severity, the benign one first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    languages: tuple[Language, ...] = ("zh", "en")
    kind: Kind = "single_label"
    guidance: Texts = {}
    categories: tuple[Category, ...] = Field(min_length=2)
    actions: Actions = Actions(review=0.5, block=0.9)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [category.id for category in self.categories]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"category ids must differ, {', '.join(twice)} occurs twice")
        if sum(category.benign for category in self.categories) != 1:
            raise ValueError("exactly one category must have `benign: true`")
        if self.kind == "ordinal":
            severities = [category.severity for category in self.categories]
            rising = all(low < high for low, high in pairwise(severities))
            if not (self.categories[0].benign and severities[0] == 0 and rising):
                raise ValueError(
                    "the levels of an ordinal policy go from the benign one, of severity 0, upwards, got severities"
                    f" {', '.join(map(str, severities))}: order them, each above the one before"
                )
        return self

    @property
    def ids(self) -> tuple[str, ...]:
        """Category ids in order; outputs of every model follow it."""
        return tuple(category.id for category in self.categories)

    @property
    def benign(self) -> str:
        """Id of the category that breaks no rule."""
        return next(category.id for category in self.categories if category.benign)

    @property
    def harm(self) -> tuple[float, ...]:
        """Risk of a text that is surely of each category: 0 benign, 1 harmful; of a level, its share of the worst."""
        if self.kind == "ordinal":
            worst = self.categories[-1].severity
            return tuple(category.severity / worst for category in self.categories)
        return tuple(float(not category.benign) for category in self.categories)

    @property
    def label_space(self) -> str:
        """Hash of the ordered categories and the kind; signals, models and bundles are matched by it."""
        return hashlib.sha256(json.dumps([self.kind, self.ids]).encode()).hexdigest()[:16]

    def category(self, name: str) -> Category:
        """The category with this id.

        Raises:
            PolicyError: there is none.
        """
        for category in self.categories:
            if category.id == name:
                return category
        raise PolicyError(f"policy {self.name} has no category {name!r}; it has {', '.join(self.ids)}")

    def only(self, names: Iterable[str]) -> Policy:
        """This policy with some of its categories, in its own order.

        Raises:
            PolicyError: a name it does not have, or the benign category is left out.
        """
        kept = {self.category(name).id for name in names}
        if self.benign not in kept:
            raise PolicyError(f"`only` must keep the benign category {self.benign!r}")
        return self.model_copy(update={"categories": tuple(c for c in self.categories if c.id in kept)})

    def grown_from(self, old: Policy) -> tuple[str, ...]:
        """The categories this policy adds to an older one; none where it has only been reworded.

        Raises:
            PolicyError: it lacks a category of the old one, or is of another kind, or has another benign category or
                more levels, which no model can be taught by going on.
        """
        lost = [name for name in old.ids if name not in self.ids]
        added = tuple(name for name in self.ids if name not in old.ids)
        if lost:
            raise PolicyError(
                f"policy {self.name} {self.version} has no {', '.join(lost)}, which the running model knows: an update"
                " only adds categories, so keep the old ids, or make a new model with `tamis run`"
            )
        if (self.kind, self.benign) != (old.kind, old.benign) or (self.kind == "ordinal" and self.ids != old.ids):
            raise PolicyError(
                f"policy {self.name} {self.version} is {self.kind} with {', '.join(self.ids)}, benign {self.benign},"
                f" and the running model {old.kind} with {', '.join(old.ids)}, benign {old.benign}: kind, benign"
                " category and levels stay as they are in an update, make a new model with `tamis run`"
            )
        return added

    def risk(self, probabilities: Mapping[str, float]) -> float:
        """Probability that the text breaks the policy, in [0, 1].

        Single-label: the harmful share of the mass. Multi-label: the largest harmful probability. Ordinal: the expected
        severity over the largest one.
        """
        harm = dict(zip(self.ids, self.harm, strict=True))
        harmful = [p * harm[name] for name, p in probabilities.items()]
        if self.kind == "multi_label":
            return max(harmful, default=0.0)
        total = sum(probabilities.values())
        return sum(harmful) / total if total > 0 else float("nan")

    def named(self, probabilities: Mapping[str, float]) -> tuple[str, ...]:
        """Categories an answer names: the likeliest, or where several may hold those of at least 0.5.

        Where several may and no harmful one does it is the benign one; without an answer there is none.
        """
        if not probabilities:
            return ()
        if self.kind != "multi_label":
            return (max(probabilities, key=lambda name: probabilities[name]),)
        found = tuple(name for name, p in probabilities.items() if p >= HOLDS and name != self.benign)
        return found or (self.benign,)

    def verdicts(self, example: Example) -> dict[str, bool]:
        """What people said of each category; one that nobody has judged is left out, all are where no one gave a label.

        Raises:
            DataError: a category the policy does not have, or several where it allows one.
        """
        if not example.is_labelled:
            return {}
        given = (example.label,) if example.label is not None else example.labels or ()
        for name in given:
            if name not in self.ids:
                raise DataError(
                    f"row {example.id} is labelled {name!r}, the policy has {', '.join(self.ids)}: map it in `labels`"
                )
        if self.kind != "multi_label" and len(given) > 1:
            raise DataError(f"row {example.id} has {len(given)} labels, the policy allows one: set kind: multi_label")
        judged = {name: name in given for name in self.ids if name not in example.unknown}
        if not given and {*judged, self.benign} == set(self.ids):
            judged[self.benign] = True
        return judged

    def human_risk(self, example: Example) -> float | None:
        """The risk people gave a text: its score, or what its level stands for; None where they gave neither."""
        if self.kind == "ordinal" and example.label is not None:
            return self.harm[self.ids.index(self.category(example.label).id)]
        return example.score

    def levelled(self, example: Example) -> Example:
        """The example labelled with the level nearest to its score; as it is without a score or without levels."""
        if self.kind != "ordinal" or example.score is None:
            return example
        risk = example.score
        nearest = min(zip(self.ids, self.harm, strict=True), key=lambda level: abs(level[1] - risk))
        return replace(example, label=nearest[0], score=None)

    def scores(self, probabilities: Mapping[str, float], evidence: tuple[str, ...] = ()) -> Scores:
        """The `Scores` of one text under this policy."""
        return Scores(dict(probabilities), self.risk(probabilities), uncertainty(probabilities), evidence)


def shipped() -> list[str]:
    """Names of the policies that come with the package."""
    return sorted(
        path.name.removesuffix(".yaml")
        for path in resources.files("tamis.policies").iterdir()
        if path.name.endswith(".yaml")
    )


def load_policy(name: str | Path) -> Policy:
    """Read a policy from a YAML file, or a shipped one by its name.

    Raises:
        PolicyError: no such policy, one that is not UTF-8, or one that does not hold together.
    """
    if str(name) in shipped():
        text = (resources.files("tamis.policies") / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        path = Path(name)
        if not path.is_file():
            raise PolicyError(f"no policy {name}: give a YAML file or one of {', '.join(shipped())}")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise PolicyError(f"policy {name} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    return parse_policy(text, where=str(name))


def parse_policy(text: str, where: str) -> Policy:
    """Read a policy from YAML text; `where` names it in errors.

    Raises:
        PolicyError: YAML that cannot be read or a policy that does not hold together.
    """
    try:
        return Policy.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise PolicyError(f"policy {where} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the policy"
        raise PolicyError(f"policy {where}: {place}: {first['msg']}") from error
