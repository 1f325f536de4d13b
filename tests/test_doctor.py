from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tamis.doctor import EXTRAS, LOCAL_TEACHER, TRACKER, TRAIN, Check, checks, extras
from tamis.ship.backends import BACKENDS

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAMIS_HOME", str(tmp_path))


def by_name(found: list[Check]) -> dict[str, Check]:
    return {check.what: check for check in found}


def test_what_is_not_ok_has_a_mend() -> None:
    found = checks(installed=lambda name: False)
    missing = [check for check in found if not check.ok]
    assert {check.what for check in missing} >= {"pip", *TRAIN, *LOCAL_TEACHER, TRACKER}
    assert [check.what for check in [*missing, *checks()] if not check.ok and not check.mend] == []


def test_pip_and_the_tracker_are_looked_for_and_not_needed() -> None:
    without = by_name(checks(installed=lambda name: name not in {"pip", "tensorboard"}))
    assert without["pip"].mend.endswith("-m ensurepip")
    assert without["tensorboard"].found == "missing"
    assert not any(without[name].ok or without[name].needed for name in ("pip", "tensorboard"))
    assert by_name(checks())["pip"].ok


def test_a_package_of_training_is_needed() -> None:
    assert by_name(checks(installed=lambda name: name != "peft"))["peft"].needed


def test_each_backend_is_a_line_and_none_is_needed() -> None:
    found = by_name(checks(installed=lambda name: name != "onnxruntime"))
    assert {f"backend {name}" for name in BACKENDS} <= set(found)
    assert found["backend onnx"].found == "onnxruntime missing"
    assert found["backend onnx"].mend == "pip install 'tamis[serve]'"
    assert not found["backend onnx"].needed
    assert found["backend openvino"].ok


def test_each_extra_says_what_is_there_and_what_is_missing() -> None:
    told = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert told["all"] == [f"tamis[{','.join(EXTRAS)}]"]
    named = {extra: [re.split(r"[^\w.-]", one)[0].lower() for one in told[extra]] for extra in EXTRAS}
    assert {extra: sorted(names) for extra, names in extras().items()} == {e: sorted(n) for e, n in named.items()}
    found = by_name(checks(installed=lambda name: name not in {"fastapi", "uvicorn"}))
    assert not found["extra serve"].ok
    assert found["extra serve"].found.endswith("; missing: fastapi, uvicorn")
    assert f"openvino {importlib.metadata.version('openvino')}, " in found["extra serve"].found
    assert (found["extra serve"].mend, found["extra serve"].needed) == ("pip install 'tamis[serve]'", False)
    assert found["extra train"].ok
    assert by_name(checks(installed=lambda name: False))["extra postgres"].found == "missing: psycopg"


def test_it_runs_where_no_extra_is_installed_and_names_the_extras() -> None:
    extras = [*TRAIN, *LOCAL_TEACHER, TRACKER, "tokenizers", "onnx", "onnxruntime", "openvino"]
    bare = f"import sys; sys.modules.update(dict.fromkeys({extras})); from tamis.cli import app; app(['doctor'])"
    wide = os.environ | {"COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True, check=False, env=wide)
    assert done.returncode == 2, done.stderr
    assert "torch and transformers missing" in done.stdout
    assert "pip install 'tamis[serve]'" in done.stdout


def test_what_is_not_used_is_not_looked_for() -> None:
    assert "datasketch" not in by_name(checks())
