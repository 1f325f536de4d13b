"""A real server with people, decisions and items to review, and a real Chromium."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.ship.service.conftest import Running, bundles, served

from tamis import reviews
from tamis.decisions import DecisionLog
from tamis.policy import Policy
from tamis.records import Decision, Scores, content_id
from tamis.ship.console.users import add_user
from tamis.store import Store

__all__ = ["bundles"]

LOG_DAYS = 30
PEOPLE = {"ann": "reviewer", "bob": "reviewer", "lea": "lead", "adam": "admin"}
SERIOUS = ("serious", "critical")


@dataclass(frozen=True)
class Consoled:
    """A server, and the passwords of those who may sign in."""

    running: Running
    passwords: dict[str, str]

    @property
    def url(self) -> str:
        return f"{self.running.url}/console"

    @contextmanager
    def store(self) -> Iterator[Store]:
        with Store.open(self.running.store) as opened:
            yield opened

    @contextmanager
    def client(self, name: str | None = None) -> Iterator[httpx.Client]:
        """A browser without a script, signed in where a name is given."""
        with httpx.Client(base_url=self.url, timeout=60, follow_redirects=True) as client:
            if name:
                answer = client.post("/sign-in", data={"name": name, "password": self.passwords[name]})
                assert answer.status_code == 200, answer.text
            yield client


def scores_of(policy: Policy, category: str, risk: float) -> Scores:
    """Scores that name a category with a risk, the rest spread evenly."""
    others = [name for name in policy.ids if name not in (category, policy.benign)]
    spread = {name: 0.1 * risk / max(1, len(others)) for name in others}
    return policy.scores({policy.benign: 1 - risk, category: 0.9 * risk} | spread)


def decided(
    store: Store,
    policy: Policy,
    rows: Sequence[tuple[str, str, float]],
    action: str = "review",
    reasons: Sequence[str] = ("risk calls for review",),
) -> list[str]:
    """Log decisions about texts, each with a category and a risk; returns their ids."""
    versions = {"policy": f"{policy.name} {policy.version}", "model": "made", "tamis": "0"}
    with DecisionLog(store, LOG_DAYS) as log:
        waiting = []
        for text, category, risk in rows:
            scores = scores_of(policy, category, risk)
            decision = Decision(content_id(text), action, category, scores, versions, ("student",), tuple(reasons), 4.2)
            waiting.append(log.add(decision, text, content_id(text)))
        return [one.result(60).id for one in waiting]


def queued(
    console: Consoled, policy: Policy, rows: Sequence[tuple[str, str, float]], action: str = "review"
) -> list[str]:
    """Log decisions and queue them; returns their ids."""
    with console.store() as store:
        ids = decided(store, policy, rows, action)
        reviews.fill(store)
    return ids


def judge(client: httpx.Client, verdict: str, reason: str = "") -> None:
    """Say something of the item that comes first, without a browser."""
    page = client.get("/queue").text
    item = re.search(r"/console/queue/(\w{32})/verdict", page)
    token = re.search(r'name="csrf" value="([\w-]+)"', page)
    assert item
    assert token
    answer = client.post(f"/queue/{item[1]}/verdict", data={"csrf": token[1], "verdict": verdict, "reason": reason})
    assert answer.status_code == 200
    assert re.search("Saved|已保存", answer.text)


@contextmanager
def consoled(bundle: Path, folder: Path, **settings: object) -> Iterator[Consoled]:
    """The real command with people who may sign in."""
    folder.mkdir(parents=True, exist_ok=True)
    with Store.open(folder / "s.db") as store:
        passwords = {name: add_user(store, name, role) for name, role in PEOPLE.items()}
    with served(bundle, folder, settings={"keep_days": LOG_DAYS} | settings) as running:
        yield Consoled(running, passwords)


@dataclass(frozen=True)
class Browser:
    """A Chromium with what tests do in it."""

    driver: Any
    console: Consoled

    def open(self, path: str) -> None:
        self.driver.get(self.console.url + path)

    def sign_in(self, name: str) -> None:
        """With the keyboard alone: the name's field has the focus."""
        self.open("/sign-in?language=en")
        self.press(name, TAB, self.console.passwords[name], ENTER)
        self.until("return !!document.querySelector('.account')")

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def until(self, script: str, *values: object) -> Any:
        """What a script returns, once that is something."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 60, poll_frequency=0.02).until(
            lambda driver: driver.execute_script(script, *values)
        )

    def run(self, script: str, *values: object) -> Any:
        return self.driver.execute_script(script, *values)

    @property
    def item(self) -> str | None:
        """The id of the item before the reviewer."""
        return self.run(
            "return (document.querySelector('form[action$=\"/verdict\"]')?.action.split('/').at(-2)) || null"
        )

    @property
    def text(self) -> str:
        return self.run("return document.getElementById('text').textContent")

    def act(self, *keys: str) -> None:
        """Press keys of which the last changes the page, and wait until it has."""
        self.run("document.getElementById('main').firstElementChild.dataset.old = '1'")
        self.press(*keys)
        self.until("return !document.querySelector('[data-old]') && !document.querySelector('[aria-busy]')")

    def resize(self, width: int, height: int = 800, scale: float = 1.0) -> None:
        """A screen of so many CSS pixels; at a zoom of 200 % one of 1280 has 640, each two wide."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def colours(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def overflow(self) -> int:
        """CSS pixels by which the page is wider than the screen."""
        return self.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def faults(self) -> list[str]:
        """Serious faults of accessibility that axe-core finds, each with its first place."""
        self.until("return ![...document.querySelectorAll('[data-src]')].some((one) => one.textContent.trim() === '…')")
        self.run(_axe())
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1]; axe.run(document).then((r) => done(r.violations))"
        )
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary']}"
            for one in found
            if one["impact"] in SERIOUS
        ]


@contextmanager
def browsing(console: Consoled, width: int = 1280, height: int = 900, language: str = "en") -> Iterator[Browser]:
    """A Chromium of its own; skips where there is none."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = chromium
    for option in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars", f"lang={language}"):
        options.add_argument(f"--{option}")
    opened = Chrome(options=options, service=ChromeService(driver))
    try:
        browser = Browser(opened, console)
        browser.resize(width, height)
        yield browser
    finally:
        opened.quit()


@cache
def _axe() -> str:
    """axe-core's script, from a package that carries it; its Python part needs another browser driver."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core is not installed: pip install --no-deps axe-playwright-python")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


TAB, ENTER, ESCAPE = "\ue004", "\ue007", "\ue00c"
"""Keys as WebDriver calls them."""

SCREENSHOTS = os.environ.get("TAMIS_SCREENSHOTS", "")
"""Folder that the screenshots of the docs are written to; without it none are taken."""
