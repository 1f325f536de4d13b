"""From a YAML file and `--set` to a checked recipe."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from tamis.config import RunConfig, Section, ServeConfig, UpdateConfig
from tamis.errors import ConfigError
from tamis.matrix import ExperimentConfig

C = TypeVar("C", bound=Section)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a recipe; `overrides` are `dotted.key=value` with YAML values. ~ and $VARS in values are expanded.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or a value out of range.
    """
    return parse_config(_overridden(read_tree(path), overrides), where=str(path))


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read an experiment, as `load_config` reads a recipe.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or a value out of range.
    """
    return _checked(ExperimentConfig, _overridden(read_tree(path), overrides), where=str(path))


def load_serving(path: str | Path | None, overrides: Iterable[str] = ()) -> ServeConfig:
    """Read how a service is configured, as `load_config` reads a recipe; without a file everything is as by default.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or a value out of range.
    """
    tree = read_tree(path) if path else {}
    return _checked(ServeConfig, _overridden(tree, overrides), where=str(path or "--set"))


def load_update(path: str | Path, overrides: Iterable[str] = ()) -> UpdateConfig:
    """Read the recipe of an update, as `load_config` reads that of a run.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or a value out of range.
    """
    return _checked(UpdateConfig, _overridden(read_tree(path), overrides), where=str(path))


def parse_config(tree: Any, where: str = "recipe") -> RunConfig:
    """Check a recipe given as plain mappings.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    return _checked(RunConfig, tree, where)


def variant_of(tree: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> RunConfig:
    """A recipe given as plain mappings with some dotted settings changed; `tree` stays as it is.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    fresh = copy.deepcopy(dict(tree))
    for dotted, value in settings.items():
        _put(fresh, dotted, value, where)
    return parse_config(fresh, where)


def read_tree(path: str | Path) -> dict[str, Any]:
    """The settings of a YAML file as plain mappings.

    Raises:
        ConfigError: no such file, or it holds no mapping.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise ConfigError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"recipe {path} must be a mapping such as `name: my-run`, it is {type(tree).__name__}")
    return tree


def _checked(model: type[C], tree: Any, where: str) -> C:
    try:
        return model.model_validate(_expanded(tree))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(model, error)}") from error


def _overridden(tree: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    for override in overrides:
        dotted, equals, value = override.partition("=")
        if not equals or not dotted:
            raise ConfigError(f"--set takes dotted.key=value, got {override!r}")
        _put(tree, dotted, _parsed(value, override), f"--set {override}")
    return tree


def _put(tree: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    *parents, last = dotted.split(".")
    node: Any = tree
    for part in parents:
        node = _child(node, part, where)
    if isinstance(node, list):
        node[_index(node, last, where)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"{where}: {'.'.join(parents)} holds a value, not settings")


def _parsed(value: str, override: str) -> Any:
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"--set {override}: the value is not YAML ({reason}): close or quote it") from error


def _child(node: Any, part: str, where: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, where)]
    if not isinstance(node, dict):
        raise ConfigError(f"{where}: {part} is inside a value, not inside settings")
    return node.setdefault(part, {})


def _index(node: list[Any], part: str, where: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"{where}: {part!r} must be a number from 0 to {len(node) - 1}")
    return int(part)


def _expanded(value: Any) -> Any:
    if isinstance(value, str):
        return os.path.expandvars(str(Path(value).expanduser()) if value.startswith("~") else value)
    if isinstance(value, dict):
        return {key: _expanded(item) for key, item in value.items()}
    return [_expanded(item) for item in value] if isinstance(value, list) else value


def _sentence(model: type[Section], error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"unknown setting {place!r}, {hint}"
    if first["type"] == "missing":
        return f"{place!r} is missing"
    return f"{place}: {first['msg']}, got {first['input']!r}"


def _known_keys(model: type[Section], location: tuple[int | str, ...]) -> list[str]:
    section: Any = model
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            section = annotation if isinstance(annotation, type) else annotation.__args__[0]
    return list(section.model_fields)
