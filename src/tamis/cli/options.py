"""Options that commands of several modules take."""

from __future__ import annotations

from typing import Annotated

import typer

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, dotted; repeatable.")
]
