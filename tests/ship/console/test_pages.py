"""How pages look and whom they can be used by, in a real browser; screenshots for the docs where they are asked for."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.ship.console.conftest import SCREENSHOTS, Browser, Consoled, browsing, consoled, judge, queued

from tamis.policy import Language, Policy, parse_policy
from tamis.ship.console.users import prefer

PATHS = ("/sign-in", "/queue", "/settings", "/decisions")
LONG = "日入上千私我带你" * 40 + "averyveryveryveryverylongwordwithoutanyspace" * 8


@pytest.fixture(scope="module")
def console(
    bundles: Sequence[Path], small_policy: Policy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Consoled]:
    with consoled(bundles[0], tmp_path_factory.mktemp("pages")) as running:
        rows = [
            (LONG, "fraud", 0.97),
            ("best slots bonus, bet now", "gambling", 0.9),
            ("easy money no fee", "fraud", 0.6),
        ]
        queued(running, small_policy, rows)
        yield running


@pytest.fixture(scope="module")
def lea(console: Consoled) -> Iterator[Browser]:
    with browsing(console) as browser:
        browser.sign_in("lea")
        yield browser


def paths(browser: Browser) -> list[str]:
    """All pages, a decision among them."""
    browser.open("/decisions")
    return [*PATHS, browser.run("return document.querySelector('td a').pathname.replace('/console', '')")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(lea: Browser, scheme: str) -> None:
    lea.resize(1280)
    lea.colours(scheme)
    found = []
    for path in paths(lea):
        lea.open(path)
        found += [f"{path}: {fault}" for fault in lea.faults()]
    lea.open("/queue")
    lea.press("b", "?")
    found += lea.faults()
    assert found == []


@pytest.mark.parametrize(("width", "scale"), [(360, 1.0), (640, 2.0), (320, 4.0)])
def test_pages_fit_small_screens_and_large_zoom(lea: Browser, width: int, scale: float) -> None:
    every = paths(lea)
    lea.resize(width, 720, scale)
    for path in every:
        lea.open(path)
        assert lea.overflow() <= 0, path
    assert lea.faults() == []


def test_focus_is_seen_and_the_content_can_be_jumped_to(lea: Browser) -> None:
    lea.resize(1280)
    lea.open("/queue")
    lea.press("\ue004")
    assert lea.run("return document.activeElement.className") == "skip"
    assert lea.run("return document.activeElement.getBoundingClientRect().top >= 0")
    seen = 0
    for _ in range(12):
        lea.press("\ue004")
        seen += lea.run("return getComputedStyle(document.activeElement).outlineStyle !== 'none'")
    assert seen == 12


def test_the_theme_is_remembered(lea: Browser) -> None:
    lea.resize(1280)
    lea.colours("light")
    lea.open("/settings")
    ground = "return getComputedStyle(document.documentElement).backgroundColor"
    light = lea.run(ground)
    lea.run("document.querySelector('.to-dark').click()")
    lea.until("return document.documentElement.dataset.theme === 'dark'")
    assert lea.run(ground) != light
    lea.open("/decisions")
    assert lea.run(ground) != light
    lea.run("document.querySelector('.to-light').click()")
    lea.until("return document.documentElement.dataset.theme === 'light'")
    assert lea.run(ground) == light


@pytest.mark.skipif(not SCREENSHOTS, reason="TAMIS_SCREENSHOTS names no folder to write to")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_screenshots_for_the_docs(request: pytest.FixtureRequest, tmp_path: Path, language: Language) -> None:
    bundle = Path(os.environ.get("TAMIS_SCREENSHOTS_BUNDLE") or request.getfixturevalue("bundles")[0])
    policy = parse_policy((bundle / "policy.json").read_text(encoding="utf-8"), where=str(bundle))
    with consoled(bundle, tmp_path) as console, browsing(console, 1360, 860, language) as browser:
        with console.store() as store:
            prefer(store, "ann", language=language)
        queued(console, policy, JUDGED[language])
        with console.client("bob") as client:
            for _, category, _ in JUDGED[language]:
                judge(client, category)
        queued(console, policy, WAITING[language])
        browser.sign_in("ann")
        browser.open("/queue")
        browser.press("b")
        browser.until("return document.querySelector('.cases') && document.querySelector('#text mark')")
        picture = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        (Path(SCREENSHOTS) / f"console-queue-{language}.png").write_bytes(base64.b64decode(picture["data"]))


JUDGED: dict[Language, list[tuple[str, str, float]]] = {
    "zh": [("宝妈兼职日入三百，不收费，加我带你", "fraud", 0.93), ("新人注册就送彩金，大额无忧", "gambling", 0.9)],
    "en": [
        ("Earn 300 a day from home, no fee, message me and I will show you", "fraud", 0.93),
        ("Sign up today for a 100% first deposit bonus", "gambling", 0.9),
    ],
}
WAITING: dict[Language, list[tuple[str, str, float]]] = {
    "zh": [
        ("宝妈兼职日入五百，有手机就能做，不收费，加我带你", "fraud", 0.88),
        ("注册就送彩金，上车找我，老平台稳定出款", "gambling", 0.83),
        ("一千个真实粉丝，点赞评论都有，价格私聊", "fraud", 0.71),
        ("周末一起去爬山吗，天气预报说不下雨", "gambling", 0.52),
    ],
    "en": [
        ("Earn 500 a day from home with your phone, no fee, message me and I will show you how", "fraud", 0.88),
        ("Sign up for the first deposit bonus, slots pay instantly", "gambling", 0.83),
        ("A thousand real followers for five bucks, write me", "fraud", 0.71),
        ("Shall we go hiking on Saturday? It will not rain", "gambling", 0.52),
    ],
}
