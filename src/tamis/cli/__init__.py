"""The command line: one verb a stage, no logic. Heavy imports stay inside the commands."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tamis.cli.options import Set
from tamis.cli.running import audit_app, feedback_app, keys_app, monitor, serve, users_app
from tamis.errors import ConfigError, TamisError

if TYPE_CHECKING:
    from tamis.pipeline import Stage

app = typer.Typer(
    name="tamis",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Distil a large language model's judgement of harmful content into a small model.",
)
models_app = typer.Typer(no_args_is_help=True, help="Weights that the package index carries, for places without a hub.")
GROUPS = {"models": models_app, "audit": audit_app, "keys": keys_app, "feedback": feedback_app, "users": users_app}
for name, group in GROUPS.items():
    app.add_typer(group, name=name)
err = Console(stderr=True)

Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe, see recipes/.")]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Folder of the run, instead of the recipe's.")]


def _verb(name: str, until: Stage, about: str, example: str) -> Callable[[Path, str | None, list[str] | None], None]:
    """A command that runs a recipe up to one stage; earlier stages are reused where nothing changed."""

    def command(recipe: Recipe, out: Out = None, set_: Set = None) -> None:
        _run(recipe, until, out, set_ or [])

    command.__doc__ = f"{about}\n\nExample: `{example}`"
    app.command(name)(command)
    return command


def _run(recipe: Path, until: Stage, out: str | None, settings: list[str]) -> None:
    from tamis.recipe import load_config
    from tamis.show import announce, conclude

    config = load_config(recipe, [*settings, *([f"out={out}"] if out else [])])
    announce(config, until)
    # What trains takes seconds to import: a mistake in the recipe is told before.
    from tamis.pipeline import run

    conclude(config, run(config, until=until))


run_ = _verb(
    "run",
    "export",
    "Do everything: text to bundle; a killed run goes on where it stopped.",
    "tamis run recipes/demo.yaml",
)
ingest = _verb("ingest", "ingest", "Read, clean, de-duplicate and split the rows.", "tamis ingest recipes/demo.yaml")
label = _verb("label", "label", "Let the teacher label, and audit it.", "tamis label recipes/demo.yaml")
distill = _verb(
    "distill", "distill", "Train the student.", "tamis distill recipes/demo.yaml --set student.lora.rank=16"
)
evaluate = _verb("evaluate", "evaluate", "Measure on the test split.", "tamis evaluate recipes/demo.yaml")
report = _verb("report", "report", "Write report.html.", "tamis report recipes/demo.yaml --set report.language=zh")


@app.command()
def export(
    recipe: Recipe,
    backend: Annotated[str | None, typer.Option("--backend", metavar="NAME", help="Same as export.backend.")] = None,
    quantize: Annotated[str | None, typer.Option("--quantize", metavar="BITS", help="Same as export.quantize.")] = None,
    out: Out = None,
    set_: Set = None,
) -> None:
    """Write the bundle.

    Example: `tamis export recipes/demo.yaml --backend auto --quantize int8`
    """
    named = {"backend": backend, "quantize": quantize}
    _run(recipe, "export", out, [*(set_ or []), *(f"export.{key}={value}" for key, value in named.items() if value)])


@app.command()
def experiment(
    matrix: Annotated[Path, typer.Argument(metavar="MATRIX", help="A YAML file of variants, see recipes/matrix.yaml.")],
    out: Out = None,
    set_: Set = None,
) -> None:
    """Train many variants on the same rows and say which is better, and whether that is more than noise.

    Example: `tamis experiment recipes/matrix.yaml`
    """
    from tamis.recipe import load_experiment

    config = load_experiment(matrix, [*(set_ or []), *([f"out={out}"] if out else [])])
    from tamis.experiment import run_experiment

    run_experiment(config)


@app.command()
def moderate(
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="Texts, or `-` for one a line of standard input.")
    ],
    bundle: Annotated[Path, typer.Option("--bundle", "-b", help="Folder of the bundle.")] = Path("runs/demo/bundle"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Judge texts with a bundle.

    Example: `tamis moderate -b runs/demo/bundle "日入上千，私我带你" "What a lovely day"`
    """
    import tamis
    from tamis.show import show_decisions

    lines = [line.rstrip("\n") for line in sys.stdin] if texts == ["-"] else texts
    show_decisions(lines, tamis.load(bundle)(lines), as_json)


@app.command()
def update(recipe: Recipe, out: Out = None, set_: Set = None) -> None:
    """Make the next model from the running bundle and what people corrected; exits with 1 where it must not follow.

    Example: `tamis update recipes/update.yaml`
    """
    from tamis.recipe import load_update
    from tamis.show import announce_update, conclude_update

    config = load_update(recipe, [*(set_ or []), *([f"out={out}"] if out else [])])
    announce_update(config)
    from tamis.update import update

    conclude_update(config, update(config))


@app.command()
def promote(
    candidate: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle that is to run.")],
    to: Annotated[Path, typer.Option("--to", metavar="LINK", help="The link that services open.")],
    anyway: Annotated[bool, typer.Option("--anyway", help="Also where its update refused it.")] = False,
) -> None:
    """Let a link name another bundle, in one step.

    Example: `tamis promote runs/update/bundle --to runs/live`
    """
    from tamis.update import promote

    Console(soft_wrap=True).print(f"{to} names bundle {promote(candidate, to, anyway=anyway)}")


@app.command()
def rollback(link: Annotated[Path, typer.Argument(metavar="LINK", help="The link that services open.")]) -> None:
    """Let a link name again the bundle it named before.

    Example: `tamis rollback runs/live`
    """
    from tamis.ship.switch import roll_back

    Console(soft_wrap=True).print(f"{link} names bundle {roll_back(link)} again")


@models_app.command("list")
def models_list() -> None:
    """List the catalogue.

    Example: `tamis models list`
    """
    from tamis.models import CATALOGUE, is_fetched

    table = Table("name", "what", "MB", "licence", "fetched")
    for model in CATALOGUE.values():
        fetched = "yes" if is_fetched(model) else "no"
        table.add_row(model.name, model.about, str(model.size // 1_000_000), model.licence, fetched)
    Console().print(table)


@models_app.command("fetch")
def models_fetch(names: Annotated[list[str], typer.Argument(metavar="NAME...")]) -> None:
    """Fetch models and check their sums; goes on where it stopped.

    Example: `tamis models fetch multilingual-e5-small`
    """
    from tamis.show import fetch_with_progress

    for name in names:
        fetch_with_progress(name)


for command in (serve, monitor):
    app.command()(command)


@app.command()
def doctor() -> None:
    """Say what is installed, what this machine can do, and how to mend what is missing.

    Example: `tamis doctor`
    """
    from tamis.doctor import checks

    table = Table("", "what", "found", "mend")
    found = checks()
    for check in found:
        mark = "[green]ok[/green]" if check.ok else "[yellow]no[/yellow]"
        # What stands in brackets in a command is no markup.
        table.add_row(mark, check.what, escape(check.found), escape(check.mend))
    Console().print(table)
    if not all(check.ok for check in found if check.needed):
        raise typer.Exit(2)


def main() -> None:
    """Run the command line; what a user can mend is one sentence and exit code 2."""
    # Worker threads that spin while they wait make a shared machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    # What libraries will change one day is no news for a user.
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("tamis").setLevel(logging.INFO)
    try:
        app()
    except TamisError as error:
        _stop(str(error), error.exit_code)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _stop("no space left on the disk: make room and run the same command again, it goes on where it stopped", 2)
    except SystemExit as ended:
        # What typer makes of Ctrl-C.
        if ended.code != 130:
            raise
        _stop("stopped: run the same command again, it goes on where it stopped", 130)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "tamis":
            raise
        _stop(str(ConfigError(f"{error.name} is not installed: run `pip install 'tamis[train]'`")), 2)


def _stop(sentence: str, code: int) -> None:
    err.print("[red]tamis:[/red] ", end="")
    err.print(sentence, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
