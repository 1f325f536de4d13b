"""Pages of figures in a real Chromium: drag a threshold, undo in bulk, decide an appeal, promote and roll back."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.ship.console.conftest import SCREENSHOTS, Browser, Consoled, browsing, consoled, decided, queued, scores_of

from tamis import reviews
from tamis.decisions import DecisionLog
from tamis.policy import Language, Policy
from tamis.records import AUDIT, Decision, Example, content_id
from tamis.reviews import Judgement, Wanted
from tamis.ship.bundle import check_manifest
from tamis.ship.console.hours import fold
from tamis.ship.console.users import prefer
from tamis.ship.monitor import look
from tamis.store import Store

PATHS = ("/dashboard", "/quality", "/bulk?low=50", "/thresholds", "/thresholds/diff?review.risk.any=0.3", "/models")
CRUEL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def week(store: Store, policy: Policy) -> None:
    """Six days of traffic of two models, the second from the fourth day on."""
    for day in range(6):
        at = datetime.now(UTC) - timedelta(days=6 - day)
        versions = {"policy": f"{policy.name} {policy.version}", "model": "june" if day < 3 else "july", "tamis": "0"}
        with DecisionLog(store, now=lambda at=at: at) as log:  # type: ignore[misc]
            for i in range(60 + 15 * day):
                action = ("pass", "pass", "pass", "review", "block")[(7 * i + day) % 5]
                risk = {"pass": 0.1, "review": 0.6, "block": 0.95}[action] + i % 5 / 100
                scores = scores_of(policy, policy.ids[1 + i % 2], risk)
                category = policy.benign if action == "pass" else policy.ids[1 + i % 2]
                text, took = f"day {day} {i}", 3 + i % 9
                said = Decision(content_id(text), action, category, scores, versions, ("student",), (), took)  # type: ignore[arg-type]
                log.add(said, text, text)


def judge_gold(store: Store, policy: Policy) -> None:
    """Three people judge the same gold, each with other mistakes."""
    examples = [Example(content_id(f"gold {i}"), f"gold {i}", "en", "t", label=policy.ids[i % 3]) for i in range(12)]
    reviews.add_gold(store, examples)
    for skill, name in enumerate(("ann", "bob", "lea"), 2):
        for place in range(len(examples)):
            item = reviews.next_item(store, name, Wanted(cause="gold"))
            assert item is not None
            verdict = item.truth if place % (2 * skill) else policy.benign
            reviews.judge(store, [item.id], Judgement(name, str(verdict)))


def fill(console: Consoled, policy: Policy) -> None:
    """Traffic, reviews by two people, disputes, gold and an appeal."""
    harmful = policy.ids[1]
    with console.store() as store:
        week(store, policy)
        judge_gold(store, policy)
    rows = [(f"{CRUEL} 大额返利 wave {i}", harmful, 0.5 + i / 100) for i in range(30)]
    ids = queued(console, policy, rows)
    with console.store() as store:
        decided(store, policy, [(f"calm {i}", harmful, 0.1 + i / 200) for i in range(20)], "pass", [AUDIT])
        reviews.fill(store)
        waiting = reviews.listing(store, Wanted(cause="review"), 500)
        mine = [one for one in waiting if one.decision in ids][:15]
        reviews.judge(store, [one.id for one in mine], Judgement("ann", harmful), second_share=1.0)
        for place, one in enumerate(reviews.listing(store, Wanted(cause="second"), 500)):
            reviews.judge(store, [one.id], Judgement("bob", harmful if place % 3 else policy.benign))
        for place, one in enumerate(reviews.listing(store, Wanted(cause="audit"), 500)):
            reviews.judge(store, [one.id], Judgement("ann", policy.benign if place % 5 else harmful))
        reviews.appeal(store, ids[0])
        fold(store)
        look(store, policy, 7, datetime.now(UTC) + timedelta(seconds=1))


@pytest.fixture(scope="module")
def console(
    bundles: Sequence[Path], small_policy: Policy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Consoled]:
    # A copy: new thresholds are saved beside it.
    folder = tmp_path_factory.mktemp("figures")
    with consoled(shutil.copytree(bundles[0], folder / "one"), folder) as running:
        fill(running, small_policy)
        yield running


@pytest.fixture(scope="module")
def adam(console: Consoled) -> Iterator[Browser]:
    with browsing(console) as browser:
        browser.sign_in("adam")
        yield browser


def press(browser: Browser, selector: str) -> None:
    """Click, and wait until the page has changed."""
    browser.run("document.getElementById('main').firstElementChild.dataset.old = '1'")
    browser.run("document.querySelector(arguments[0]).click()", selector)
    browser.until("return document.getElementById('main') && !document.querySelector('[data-old], [aria-busy]')")


def fill_in(browser: Browser, selector: str, value: str) -> None:
    browser.run("document.querySelector(arguments[0]).value = arguments[1]", selector, value)


def live(browser: Browser) -> str:
    return browser.run("return document.getElementById('live').textContent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(adam: Browser, scheme: str) -> None:
    adam.resize(1280)
    adam.colours(scheme)
    found = []
    for path in PATHS:
        adam.open(path)
        adam.run("for (const one of document.querySelectorAll('details')) one.open = true")
        found += [f"{path}: {fault}" for fault in adam.faults()]
    assert found == []


@pytest.mark.parametrize(("width", "scale"), [(360, 1.0), (640, 2.0)])
def test_pages_fit_small_screens_and_large_zoom(adam: Browser, width: int, scale: float) -> None:
    adam.resize(width, 720, scale)
    for path in PATHS:
        adam.open(path)
        adam.run("for (const one of document.querySelectorAll('details')) one.open = true")
        assert adam.overflow() <= 0, path
    adam.resize(1280)


def test_script_in_a_moderated_text_never_runs(adam: Browser) -> None:
    seen = 0
    for path in PATHS:
        adam.open(path)
        adam.run("for (const one of document.querySelectorAll('details')) one.open = true")
        seen += adam.run("return document.querySelector('main').textContent.includes('<script>')")
        assert adam.run("return document.title") != "owned"
        assert adam.run("return document.querySelectorAll('main script, main img').length") == 0
    assert seen >= 2


def test_a_threshold_is_dragged_and_the_figures_follow(adam: Browser) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    adam.open("/thresholds")
    figures = "return [...document.querySelectorAll('#figures .figure strong')].map((one) => one.textContent)"
    before = adam.run(figures)
    slider = adam.driver.find_element(By.CSS_SELECTOR, '[data-slides="review.risk.any"]')
    assert slider.is_displayed()
    ActionChains(adam.driver).click_and_hold(slider).move_by_offset(-slider.size["width"] // 3, 0).release().perform()
    adam.until("return document.getElementById('figures').dataset.shown === 'review.risk.any'")
    after = adam.run(figures)
    assert after != before
    value = float(adam.run("return document.getElementById('review.risk.any').value"))
    assert value < 0.5
    # With the keyboard alone it moves by a step.
    adam.run("delete document.getElementById('figures').dataset.shown; arguments[0].focus()", slider)
    adam.press("\ue014")
    adam.until("return document.getElementById('figures').dataset.shown")
    assert float(adam.run("return document.getElementById('review.risk.any').value")) == pytest.approx(value + 0.005)


def test_thresholds_are_saved_after_a_diff_and_wait_for_an_admin(adam: Browser, console: Consoled) -> None:
    adam.open("/thresholds")
    fill_in(adam, '[name="review.risk.any"]', "0.35")
    press(adam, "form[data-figures] button.primary")
    assert "0.35" in adam.run("return document.querySelector('main').textContent")
    version = adam.run("return document.querySelector('[name=version]').value")
    fill_in(adam, "[name=reason]", "more to read")
    press(adam, "form[action$='/save'] button")
    assert version in live(adam)
    assert adam.run("return document.querySelectorAll('.badge').length") >= 2


def test_bulk_is_previewed_done_and_undone(adam: Browser, console: Consoled) -> None:
    adam.open("/bulk")
    fill_in(adam, "[name=low]", "50")
    press(adam, "form[method=get] button")
    told = adam.run("return document.querySelector('#meant').textContent")
    number = int(re.sub(r"\D", "", told))
    assert number > 0
    fill_in(adam, "[name=reason]", "one wave")
    press(adam, "main form[method=post] button.danger")
    assert live(adam).startswith(f"{number} items are judged")
    with console.store() as store:
        assert sum(one.batch is not None for one in reviews.verdicts(store)) == number
    press(adam, "form[action$='/undo'] button")
    assert live(adam).startswith(f"{number} verdicts are taken back")
    with console.store() as store:
        assert not any(one.batch for one in reviews.verdicts(store))


def test_an_appeal_is_overturned(adam: Browser, console: Consoled, small_policy: Policy) -> None:
    adam.open("/quality")
    fill_in(adam, "form[action*='/appeals/'] [name=reason]", "a quotation")
    press(adam, "form[action*='/appeals/'] [value=overturn]")
    assert live(adam) == "Overturned."
    with console.store() as store:
        (found,) = [one for one in reviews.verdicts(store) if one.outcome]
    assert (found.verdict, found.reviewer, found.reason) == (small_policy.benign, "adam", "a quotation")


def shadow(browser: Browser, console: Consoled, folder: Path) -> None:
    """Load a bundle, let it judge a hundred texts in shadow, and wait until the page says how."""
    browser.open("/models")
    fill_in(browser, "[name=folder]", str(folder))
    press(browser, "form[action$='/load'] button")
    press(browser, f"form[action$='/{check_manifest(folder)}/shadow'] button")
    with console.running.client as client:
        for i in range(5):
            texts = [f"shadowed {i} {j}" for j in range(20)]
            assert client.post("/v1/moderations", json={"input": texts}).status_code == 200
    for _ in range(60):
        browser.open("/models")
        if browser.run("return document.querySelector('.figures strong')?.textContent") not in (None, "0"):
            break


def test_a_bundle_is_loaded_shadowed_promoted_and_rolled_back(
    adam: Browser, console: Consoled, bundles: Sequence[Path]
) -> None:
    one, two = map(check_manifest, bundles)
    shadow(adam, console, bundles[1])
    assert adam.run("return document.querySelector('svg[role=img]') !== null")
    fill_in(adam, f"form[action$='/{two}/canary'] [name=percent]", "12.5")
    press(adam, f"form[action$='/{two}/canary'] button")
    assert live(adam).startswith("The canary has changed")
    assert "canary 12.5%" in adam.run("return document.querySelectorAll('.badge')[1].textContent")
    press(adam, f"form[action$='/{two}/promote'] button")
    assert live(adam).startswith("Promoted")
    first = "return document.querySelector('.entries code').textContent"
    assert adam.run(first) == two
    press(adam, "form[action$='/rollback'] button")
    assert live(adam).startswith("Rolled back")
    assert adam.run(first) == one


@pytest.mark.skipif(not SCREENSHOTS, reason="TAMIS_SCREENSHOTS names no folder to write to")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_screenshots_for_the_docs(console: Consoled, bundles: Sequence[Path], language: Language) -> None:
    with browsing(console, 1360, 860, language) as browser:
        with console.store() as store:
            prefer(store, "adam", language=language)
        browser.sign_in("adam")
        shadow(browser, console, bundles[1])
        for path in ("dashboard", "quality", "bulk?low=65", "thresholds", "models"):
            browser.open(f"/{path}")
            picture = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
            name = f"console-{path.partition('?')[0]}-{language}.png"
            (Path(SCREENSHOTS) / name).write_bytes(base64.b64decode(picture["data"]))
