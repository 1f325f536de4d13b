"""What is installed, what the machine can do, what is missing and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from tamis.machine import cores
from tamis.models import CATALOGUE, home, is_fetched
from tamis.ship.backends import BACKENDS

TRAIN = ("torch", "transformers", "peft", "accelerate", "datasets", "sklearn", "sqlalchemy", "openai")
LOCAL_TEACHER = ("xllamacpp", "gguf")
TRACKER = "tensorboard"
EXTRAS = ("train", "serve", "postgres", "traces")
Installed = Callable[[str], bool]


@dataclass(frozen=True)
class Check:
    """One finding; `needed` is whether training cannot do without it."""

    what: str
    ok: bool
    found: str
    mend: str = ""
    needed: bool = True


def is_installed(module: str) -> bool:
    """Whether this interpreter finds a module."""
    return importlib.util.find_spec(module) is not None


def checks(installed: Installed = is_installed) -> list[Check]:
    """Everything worth knowing before a run; `installed` says whether a module is there."""
    return [
        *_python(installed),
        *_packages(installed),
        *_extras(installed),
        *_backends(installed),
        *_machine(installed),
        *_weights(),
    ]


def _python(installed: Installed) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")
    there = installed("pip")
    # `tamis models fetch` runs it; a virtual environment may have none.
    mend = "" if there else f"{sys.executable} -m ensurepip"
    yield Check("pip", there, _version("pip") if there else "missing", mend, needed=False)


def _packages(installed: Installed) -> Iterator[Check]:
    for name in (*TRAIN, *LOCAL_TEACHER, TRACKER):
        there = installed(name)
        mend = "" if there else "pip install 'tamis[train]'"
        yield Check(name, there, _version(name) if there else "missing", mend, needed=name in TRAIN)


def extras() -> dict[str, list[str]]:
    """The packages of each of `EXTRAS`, as the installed tamis names them."""
    found: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("tamis") or ():
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"""extra == ['"](\w+)['"]""", requirement)
        if name and extra:
            found.setdefault(extra[1], []).append(name[0])
    return {extra: names for extra, names in found.items() if extra in EXTRAS}


def _extras(installed: Installed) -> Iterator[Check]:
    modules: dict[str, list[str]] = {}
    for module, packages in _distributions().items():
        for package in packages:
            modules.setdefault(_plain(package), []).append(module)
    for extra, names in extras().items():
        missing = [name for name in names if not any(map(installed, modules.get(_plain(name), ())))]
        there = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names if name not in missing)
        found = "; ".join(filter(None, [there, f"missing: {', '.join(missing)}" if missing else ""]))
        mend = f"pip install 'tamis[{extra}]'" if missing else ""
        yield Check(f"extra {extra}", not missing, found, mend, needed=False)


def _backends(installed: Installed) -> Iterator[Check]:
    for name, kind in BACKENDS.items():
        missing = [package for package in kind.needs if not installed(package)]
        found = f"{' and '.join(missing)} missing" if missing else f"{kind.needs[-1]} {_version(kind.needs[-1])}"
        mend = f"pip install 'tamis[{kind.extra}]'" if missing else ""
        yield Check(f"backend {name}", not missing, found, mend, needed=False)


def _version(module: str) -> str:
    names = _distributions().get(module, [module])
    return importlib.metadata.version(names[0])


def _plain(package: str) -> str:
    """A package's name as indexes compare it: https://peps.python.org/pep-0503/."""
    return re.sub(r"[-_.]+", "-", package).lower()


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Packages by module; finding them reads every package there is."""
    return importlib.metadata.packages_distributions()


def _machine(installed: Installed) -> Iterator[Check]:
    yield Check("processors", True, str(cores()))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield Check(
        "memory", memory > 6, f"{memory:.0f} GB", "the 0.5 B student wants 6 GB; use multilingual-e5-small", False
    )
    home().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home()).free / 1e9
    yield Check("disk for weights", free > 5, f"{free:.0f} GB free in {home()}", "point TAMIS_HOME at a larger disk")
    if installed("torch"):
        yield from _accelerators()


def _accelerators() -> Iterator[Check]:
    import torch

    from tamis.network import bfloat16_is_fast

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    yield Check("GPU", gpu != "none", gpu, "not needed; the processor does", needed=False)
    fast = bfloat16_is_fast()
    yield Check("bfloat16", fast, "fast" if fast else "emulated", "float32 is used instead", needed=False)


def _weights() -> Iterator[Check]:
    for model in CATALOGUE.values():
        there = is_fetched(model)
        mend = "" if there else f"tamis models fetch {model.name}"
        yield Check(model.name, there, "fetched" if there else "not fetched", mend, needed=False)
