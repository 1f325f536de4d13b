"""A real server with people, decisions and items to review, and a real browser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.ship.service.conftest import Running, bundles, served

from tamis.decisions import DecisionLog
from tamis.policy import Policy
from tamis.records import Decision, Scores, content_id
from tamis.ship.console.users import add_user
from tamis.store import Store

__all__ = ["bundles"]

LOG_DAYS = 30
PEOPLE = {"ann": "reviewer", "bob": "reviewer", "lea": "lead", "adam": "admin"}


@dataclass(frozen=True)
class Consoled:
    """A server, and the passwords of those who may sign in."""

    running: Running
    passwords: dict[str, str]

    @property
    def url(self) -> str:
        return f"{self.running.url}/console"


def scores_of(policy: Policy, category: str, risk: float) -> Scores:
    """Scores that name a category with a risk, the rest spread evenly."""
    others = [name for name in policy.ids if name not in (category, policy.benign)]
    sure = 0.9 * risk
    spread = {name: (risk - sure) / max(1, len(others)) for name in others}
    return policy.scores({policy.benign: 1 - risk, category: sure} | spread)


def decided(store: Store, policy: Policy, rows: Sequence[tuple[str, str, float]], action: str = "review") -> list[str]:
    """Log decisions about texts, each with a category and a risk; returns their ids."""
    versions = {"policy": f"{policy.name} {policy.version}", "model": "made", "tamis": "0"}
    with DecisionLog(store, LOG_DAYS) as log:
        waiting = []
        for place, (text, category, risk) in enumerate(rows):
            scores = scores_of(policy, category, risk)
            decision = Decision(
                content_id(text), action, category, scores, versions, ("student",), ("risk calls for review",), 4.2
            )
            waiting.append(log.add(decision, text, f"{place} {text}"[:200].replace("\n", " ")))
        return [one.result(30).id for one in waiting]


@contextmanager
def consoled(bundle: Path, folder: Path, **settings: object) -> Iterator[Consoled]:
    """The real command with people who may sign in."""
    folder.mkdir(parents=True, exist_ok=True)
    with Store.open(folder / "s.db") as store:
        passwords = {name: add_user(store, name, role) for name, role in PEOPLE.items()}
    with served(bundle, folder, settings={"keep_days": LOG_DAYS} | settings) as running:
        yield Consoled(running, passwords)
