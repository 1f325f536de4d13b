"""What a bundle is held to wherever it is served."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SERVES = """
import sys
import tamis
from tamis.cli import app
decisions = tamis.load(sys.argv[1])(["今天天气很好", "注册就送彩金"])
assert [d.category != "" for d in decisions] == [True, True]
app(["moderate", "-b", sys.argv[1], "--json", "今天天气很好"], standalone_mode=False)
heavy = {"torch", "transformers", "sklearn", "scipy", "sqlalchemy"} & set(sys.modules)
assert not heavy, heavy
"""


def serves_without_torch(bundle: Path) -> None:
    """Judge with a bundle in a fresh process, which must import neither torch nor what comes with it."""
    done = subprocess.run([sys.executable, "-c", SERVES, str(bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"probabilities"' in done.stdout
