"""What is shipped for operators names metrics, options and settings that exist."""

from __future__ import annotations

import json
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tamis.cli import app
from tamis.config import ServeConfig

ROOT = Path(__file__).parents[1] / "deploy"
RULES = sorted((ROOT / "prometheus").glob("*.yaml"))
METRIC = re.compile(r"\btamis_[a-z_]+")
SUFFIXES = ("_total", "_bucket", "_sum", "_count")


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    """Names of all metrics that a service and its monitor can tell."""
    from prometheus_client import REGISTRY

    from tamis.ship.service import metrics as service

    assert service.exposition()
    named = {family.name for family in REGISTRY.collect() if family.name.startswith("tamis_")}
    gauges = Path(str(import_module("tamis.ship.monitor.gauges").__file__))
    return named | set(METRIC.findall(gauges.read_text(encoding="utf-8")))


def without_suffix(name: str) -> str:
    return next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name)


def serve_options() -> set[str]:
    command = typer.main.get_command(app)
    return {name for option in command.commands["serve"].params for name in option.opts}  # type: ignore[attr-defined]


def test_the_dashboard_asks_for_metrics_there_are(metrics: set[str]) -> None:
    board = json.loads((ROOT / "grafana" / "tamis.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(board["panels"]) >= 9
    assert {without_suffix(name) for one in asked for name in METRIC.findall(one)} <= metrics
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_alerts_rest_on_metrics_there_are_and_say_what_to_do(path: Path, metrics: set[str]) -> None:
    rules = [rule for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    for rule in rules:
        assert {without_suffix(name) for name in METRIC.findall(rule["expr"])} <= metrics, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["labels"]["severity"] in ("page", "ticket")


def commands() -> list[tuple[str, list[str]]]:
    """How each of the files starts the service."""
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    parts = [
        json.loads(line.split(" ", 1)[1]) for line in docker.splitlines() if line.startswith(("ENTRYPOINT", "CMD"))
    ]
    unit = (ROOT / "systemd" / "tamis.service").read_text(encoding="utf-8")
    line = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    pods = [one for one in manifests() if one["kind"] == "Deployment"]
    (container,) = pods[0]["spec"]["template"]["spec"]["containers"]
    return [
        ("docker", [*parts[0], *parts[1]]),
        ("systemd", shlex.split(line.removeprefix("ExecStart="))),
        ("kubernetes", parts[0] + container["args"]),
    ]


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "kubernetes" / "tamis.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", ["docker", "systemd", "kubernetes"])
def test_it_is_started_with_options_there_are(name: str) -> None:
    command = dict(commands())[name]
    assert [Path(command[0]).name, command[1]] == ["tamis", "serve"]
    assert {part for part in command if part.startswith("--")} <= serve_options()


def test_the_settings_in_the_manifest_hold_and_leave_time_to_drain(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tamis.recipe import load_serving

    monkeypatch.setenv("TAMIS_STORE", "postgresql://tamis@db/tamis")
    (settings,) = (one["data"]["serve.yaml"] for one in manifests() if one["kind"] == "ConfigMap")
    path = tmp_path / "serve.yaml"
    path.write_text(settings, encoding="utf-8")
    config = load_serving(path)
    assert isinstance(config, ServeConfig)
    assert config.store == "postgresql://tamis@db/tamis"
    (pod,) = (one["spec"]["template"]["spec"] for one in manifests() if one["kind"] == "Deployment")
    assert pod["terminationGracePeriodSeconds"] > config.drain + config.timeout
