"""A reviewer at work in a real browser, at a real server."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from tests.ship.console.conftest import ESCAPE, Browser, Consoled, browsing, consoled, judge, queued

from tamis import reviews
from tamis.decisions import decisions_table
from tamis.policy import Policy
from tamis.records import Example, content_id
from tamis.reviews.tables import items_table, skips_table, verdicts_table
from tamis.ship.console.users import users_table
from tamis.store import notes_table

TRUTH = ("normal", "gambling", "fraud")


@pytest.fixture(scope="module")
def served(bundles: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consoled]:
    with consoled(bundles[0], tmp_path_factory.mktemp("queue"), console={"second_share": 0.0}) as running:
        yield running


@pytest.fixture
def console(served: Consoled) -> Iterator[Consoled]:
    """The server with nothing to review yet."""
    yield served
    with served.store() as store, store.begin() as connection:
        for table in (items_table, verdicts_table, skips_table, decisions_table, notes_table):
            connection.execute(delete(table))
        connection.execute(update(users_table).values(blur=True))


@pytest.fixture
def ann(console: Consoled) -> Iterator[Browser]:
    with browsing(console) as browser:
        browser.sign_in("ann")
        yield browser


def texts(number: int) -> list[tuple[str, str, float]]:
    """Texts that say themselves what they are."""
    return [
        (f"{TRUTH[place % 3]} text {place} of many", TRUTH[1 + place % 2], 0.5 + place / 250) for place in range(number)
    ]


def test_fifty_items_with_the_keyboard_alone(console: Consoled, ann: Browser, small_policy: Policy) -> None:
    queued(console, small_policy, texts(50))
    keys = {name: str(place + 1) for place, name in enumerate(small_policy.ids)}
    ann.open("/queue")
    judged = {}
    while ann.item:
        truth = ann.text.split()[0]
        assert ann.item not in judged
        judged[ann.item] = truth
        ann.act("b", keys[truth])
    assert len(judged) == 50
    with console.store() as store:
        assert {one.item: one.verdict for one in reviews.verdicts(store, reviewer="ann")} == judged
        assert reviews.count(store) == 0


def test_shortcuts_move_undo_skip_and_give_reasons(console: Consoled, ann: Browser, small_policy: Policy) -> None:
    queued(console, small_policy, texts(12))
    ann.open("/queue")
    first = ann.item
    ann.act("j")
    second = ann.item
    assert second != first
    ann.act("k")
    assert ann.item == first
    ann.press("r", "not 1 but plain talk", ESCAPE)
    ann.act("1")
    assert ann.item == second
    with console.store() as store:
        said = reviews.last(store, "ann")
        assert said
        assert (said.item, said.verdict, said.reason) == (first, "normal", "not 1 but plain talk")
    ann.press("?")
    listed = ann.until("return document.querySelector('dialog[open] .keys')?.innerText")
    for about in ("gambling", "Take back your last verdict", "Uncover the text", "Next item"):
        assert about in listed
    ann.press(ESCAPE)
    ann.act("u")
    assert ann.item == first
    assert "Taken back: normal" in ann.run("return document.getElementById('live').textContent")
    with console.store() as store:
        assert reviews.verdicts(store) == []
    ann.act("s")
    skipped = first
    assert ann.item == second
    assert skipped not in ann.run("return document.querySelector('.held').innerHTML")
    # A deep link brings back what was skipped, as long as nobody has it.
    ann.open(f"/queue?item={skipped}")
    assert ann.item == skipped


def test_a_second_press_while_the_first_is_on_its_way_judges_nothing(
    console: Consoled, ann: Browser, small_policy: Policy
) -> None:
    queued(console, small_policy, texts(10))
    ann.open("/queue")
    ann.act("1", "1", "1")
    with console.store() as store:
        said = reviews.verdicts(store)
    # Each press that came through is about an item of its own.
    assert len({one.item for one in said}) == len(said)


def test_texts_are_covered_until_they_are_asked_for(console: Consoled, ann: Browser, small_policy: Policy) -> None:
    queued(console, small_policy, texts(3))
    ann.open("/queue")
    hidden = "const t = document.getElementById('text'); return [t.inert, getComputedStyle(t).filter !== 'none']"
    button = "return document.querySelector('[data-uncovers]').innerText.trim()"
    assert ann.run(hidden) == [True, True]
    assert ann.run(button).endswith("Uncover")
    ann.press("b")
    assert ann.run(hidden) == [False, False]
    assert ann.run(button).endswith("Cover")
    assert not ann.run(button).endswith("Uncover")
    with console.client("ann") as client:
        token = re.search(r'name="csrf" value="([\w-]+)"', client.get("/settings").text)
        assert token
        client.post("/settings", data={"csrf": token[1], "blur": "off"})
    ann.open("/queue")
    assert ann.run(hidden) == [False, False]
    counter = "return document.querySelector('.count').textContent"
    assert ann.run(counter) == "0"
    ann.act("2")
    assert ann.run(counter) == "1"
    ann.act("1")
    assert ann.run(counter) == "1"


def test_two_browsers_never_show_one_item(console: Consoled, ann: Browser, small_policy: Policy) -> None:
    queued(console, small_policy, texts(24))
    with browsing(console) as bob:
        bob.sign_in("bob")
        done: dict[str, list[str]] = {"ann": [], "bob": []}
        both = {"ann": ann, "bob": bob}
        for browser in both.values():
            browser.open("/queue")
        held = "return [...document.querySelectorAll('.held a')].map((one) => one.href.split('item=')[1])"
        while any(browser.item for browser in both.values()):
            desks = [set(browser.run(held)) for browser in both.values()]
            assert not desks[0] & desks[1]
            for name, browser in both.items():
                if browser.item:
                    done[name].append(browser.item)
                    browser.act("1")
    assert len(done["ann"] + done["bob"]) == len(set(done["ann"] + done["bob"])) == 24
    assert min(map(len, done.values())) >= 8


def test_many_reviewers_at_once_judge_each_item_once(console: Consoled, small_policy: Policy) -> None:
    queued(console, small_policy, texts(40))
    start = threading.Barrier(4)

    def work(name: str) -> list[str]:
        mine = []
        with console.client(name) as client:
            start.wait()
            page = client.get("/queue").text
            while found := re.search(r"/console/queue/(\w{32})/verdict", page):
                mine.append(found[1])
                token = re.search(r'name="csrf" value="([\w-]+)"', page)
                assert token
                form = {"csrf": token[1], "verdict": "normal"}
                page = client.post(f"/queue/{found[1]}/verdict", data=form).text
        return mine

    with ThreadPoolExecutor(4) as pool:
        done = [one for mine in pool.map(work, ("ann", "bob", "lea", "adam")) for one in mine]
    with console.store() as store:
        said = reviews.verdicts(store)
    assert len(said) == len({one.item for one in said}) == 40
    assert sorted(done) == sorted(one.item for one in said)


EVIL = (
    "<script>window.owned = 1</script><img src=x onerror='window.owned = 2'><svg onload='window.owned = 3'>"
    "</div></main><script src='//evil.example/x.js'></script>{{ 7 * 7 }} gambling"
)


def test_script_in_a_moderated_text_never_runs(bundles: Sequence[Path], tmp_path: Path, small_policy: Policy) -> None:
    with consoled(bundles[0], tmp_path) as console, browsing(console) as ann:
        ann.sign_in("ann")
        first, second = queued(console, small_policy, [(EVIL, "fraud", 0.9), (EVIL + " again", "fraud", 0.8)])
        ann.open("/queue")
        ann.until("return document.querySelector('#text > span')")
        assert ann.text == EVIL
        assert ann.run("return document.querySelectorAll('#text script, #text img, #text svg').length") == 0
        ann.press("r", "<b onclick=alert(1)>why</b>", ESCAPE)
        ann.act("3")
        ann.until("return document.querySelector('.cases')")
        ann.open(f"/decisions/{first}")
        assert EVIL in ann.text
        ann.open(f"/decisions/{second}")
        assert ann.run("return window.owned === undefined")
        # What is put into the page all the same is not run either.
        ann.run(
            "const s = document.createElement('script'); s.textContent = 'window.owned = 4'; document.body.append(s);"
            "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = 5\">')"
        )
        assert ann.run("return new Promise((done) => setTimeout(() => done(window.owned === undefined), 300))")


def test_filters_choose_and_give_back(console: Consoled, ann: Browser, small_policy: Policy) -> None:
    queued(console, small_policy, [*texts(6), ("今天上车就送彩金", "gambling", 0.9)])
    queued(console, small_policy, [("blocked one", "fraud", 0.95)], action="pass")
    with console.client("ann") as client:
        page = client.get("/queue").text
        token = re.search(r'name="csrf" value="([\w-]+)"', page)
        assert token

        def held(**chosen: str) -> int:
            answer = client.post("/queue/filter", data={"csrf": token[1], **chosen})
            return answer.text.count('<li><a href="/console/queue?')

        assert held() == 7
        assert held(language="zh") == 1
        assert held(category="gambling", language="en") == 3
        assert held(action="review") == 7
        assert held(action="block") == 0
        assert held(age="24") == 0
        assert held(action="nonsense") == 7


def test_gold_looks_like_other_items(console: Consoled, small_policy: Policy) -> None:
    with console.store() as store:
        reviews.add_gold(store, [Example(content_id("bet now"), "bet now", "en", "made", label="gambling")])
    with console.client("ann") as client:
        page = client.get("/queue").text
        assert "bet now" in page
        assert "gold" not in re.sub(r"[\w./-]*\.(css|js)\S*", "", page)
        assert page.count('class="bar') >= 4
        item = re.search(r"/console/queue/(\w{32})/verdict", page)
        assert item
        assert "<mark" in client.get(f"/queue/{item[1]}/evidence").text or "bet now" in page
        assert client.get(f"/queue/{item[1]}/similar").status_code == 200
    with console.client("bob") as client:
        # What is on somebody's desk is told to nobody else.
        assert client.get(f"/queue/{item[1]}/evidence").status_code == 404


def test_a_blind_second_look_shows_nothing_of_the_first(
    bundles: Sequence[Path], tmp_path: Path, small_policy: Policy
) -> None:
    with consoled(bundles[0], tmp_path, console={"second_share": 1.0}) as console:
        ids = queued(console, small_policy, [("one plain text that ann reads", "fraud", 0.7)])
        with console.client("ann") as client:
            judge(client, "gambling", "because of ann")
            assert "Nothing waits for you" in client.get("/queue").text
        with console.client("bob") as client:
            page = client.get("/queue").text
            item = re.search(r"/console/queue/(\w{32})/verdict", page)
            assert item
            similar = client.get(f"/queue/{item[1]}/similar").text
            decision = client.get(f"/decisions/{ids[0]}").text
            for shown in (page, similar, decision):
                assert "because of ann" not in shown
            assert "cases" not in similar
        with console.client("lea") as client:
            assert "because of ann" in client.get(f"/decisions/{ids[0]}").text


def test_an_appeal_is_upheld_by_the_same_verdict_and_overturned_by_another(
    console: Consoled, small_policy: Policy
) -> None:
    ids = queued(console, small_policy, [("sold as is", "fraud", 0.7), ("paid later", "fraud", 0.6)])
    with console.client("ann") as client:
        judge(client, "fraud")
        judge(client, "fraud")
    with console.client("lea") as client:
        for name in ids:
            token = re.search(r'name="csrf" value="([\w-]+)"', client.get(f"/decisions/{name}").text)
            assert token
            client.post(f"/decisions/{name}/appeal", data={"csrf": token[1]})
    with console.client("ann") as client:
        assert "Nothing waits for you" in client.get("/queue").text
    with console.client("bob") as client:
        assert "Appeal: the author disputes" in client.get("/queue").text
        judge(client, "fraud")
        judge(client, "normal")
    with console.store() as store:
        said = [one.outcome for one in reviews.verdicts(store, reviewer="bob")]
    assert sorted(map(str, said)) == ["overturn", "uphold"]
