"""Who gets in, and what keeps others out, over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from tests.ship.console.conftest import Consoled, consoled

from tamis.ship.console.sign_in import TRIES, Tries
from tamis.ship.console.users import add_user


@pytest.fixture(scope="module")
def console(bundles: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consoled]:
    with consoled(bundles[0], tmp_path_factory.mktemp("console")) as running:
        yield running


def token(page: str) -> str:
    found = re.search(r'name="csrf" value="([\w-]{43})"', page)
    assert found
    return found[1]


def test_a_browser_is_told_to_run_nothing_but_our_own(console: Consoled) -> None:
    with console.client("ann") as client:
        for path in ("/sign-in", "/queue", "/settings", "/decisions", "/nowhere"):
            answer = client.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            # Nothing inline, which the policy would refuse, and nothing from elsewhere.
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", answer.text)
            assert not re.search(r"(?:src|href|action)=\"(?!/console|#)", answer.text)
        script = re.search(r"/console(/static/console\.js\?\w+)", client.get("/settings").text)
        assert script
        kept = client.get(script[1])
        assert "immutable" in kept.headers["cache-control"]


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(console: Consoled) -> None:
    with httpx.Client(base_url=console.url, timeout=60) as client:
        form = {"name": "ann", "password": console.passwords["ann"]}
        plain = client.post("/sign-in", data=form).headers["set-cookie"].lower()
        secure = (
            client.post("/sign-in", data=form, headers={"x-forwarded-proto": "https"}).headers["set-cookie"].lower()
        )
    for wanted in ("httponly", "samesite=strict", "path=/console"):
        assert wanted in plain
    assert "secure" not in plain
    assert "secure" in secure


def test_nothing_is_shown_without_a_session(console: Consoled) -> None:
    with httpx.Client(base_url=console.url, timeout=60) as client:
        answer = client.get("/queue?category=fraud")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/console/sign-in?back=/console/queue%3Fcategory%3Dfraud"
        # The strict cookie is not sent from another site: the page asks for itself once more, from here.
        linked = client.get("/queue", headers={"sec-fetch-site": "cross-site"})
        assert linked.status_code == 200
        assert 'http-equiv="refresh"' in linked.text


def test_wrong_names_and_passwords_are_told_alike(console: Consoled) -> None:
    with console.client() as client:
        answers = [
            client.post("/sign-in", data={"name": name, "password": "wrong"}) for name in ("ann", "nobody", "", "<b>x")
        ]
    assert [answer.status_code for answer in answers] == [403] * 4
    assert all("Name or password is wrong" in answer.text for answer in answers)
    assert "<b>x" not in answers[3].text


def test_signing_in_goes_nowhere_but_to_our_pages(console: Consoled) -> None:
    with httpx.Client(base_url=console.url, timeout=60) as client:
        for back, there in (("/console/settings", "/console/settings"), ("//evil.example/", "/console/")):
            form = {"name": "ann", "password": console.passwords["ann"], "back": back}
            assert client.post("/sign-in", data=form).headers["location"] == there


def test_a_form_of_another_page_changes_nothing(console: Consoled) -> None:
    with console.client("ann") as client, console.client("bob") as other:
        mine, theirs = token(client.get("/settings").text), token(other.get("/settings").text)
        for wrong in ("", "x", theirs):
            answer = client.post("/settings", data={"csrf": wrong, "theme": "dark"})
            assert answer.status_code == 403
        sent = client.post("/settings", data={"csrf": mine, "theme": "dark"}, headers={"sec-fetch-site": "cross-site"})
        assert sent.status_code == 403
        assert "data-theme" not in client.get("/settings").text
        assert 'data-theme="dark"' in client.post("/settings", data={"csrf": mine, "theme": "dark"}).text
        client.post("/settings", data={"csrf": mine, "theme": ""})


def test_roles_open_what_is_theirs(console: Consoled) -> None:
    with console.client("ann") as client:
        mine = token(client.get("/settings").text)
        answer = client.post("/decisions/none/appeal", data={"csrf": mine})
        assert answer.status_code == 403
        assert "lead" in answer.text
    with console.client("adam") as client:
        mine = token(client.get("/settings").text)
        assert client.post("/decisions/none/appeal", data={"csrf": mine}).status_code == 400


def test_signing_out_ends_the_session_on_the_server(console: Consoled) -> None:
    with console.client("ann") as client:
        cookies = dict(client.cookies)
        client.post("/sign-out", data={"csrf": token(client.get("/settings").text)})
    with httpx.Client(base_url=console.url, cookies=cookies, timeout=60) as client:
        assert client.get("/settings").status_code == 303


def test_a_new_password_signs_out_everywhere(console: Consoled) -> None:
    with console.store() as store:
        first = add_user(store, "eve", "reviewer")
    with console.client() as client:
        client.post("/sign-in", data={"name": "eve", "password": first})
        mine = token(client.get("/settings").text)
        short = client.post("/settings/password", data={"csrf": mine, "old": first, "new": "short"})
        assert "at least 12 characters" in short.text
        wrong = client.post("/settings/password", data={"csrf": mine, "old": "x", "new": "correct horse battery"})
        assert "The old password is wrong" in wrong.text
        changed = client.post("/settings/password", data={"csrf": mine, "old": first, "new": "correct horse battery"})
        assert changed.url.path == "/console/sign-in"
        assert client.post("/sign-in", data={"name": "eve", "password": first}).status_code == 403
        assert client.post("/sign-in", data={"name": "eve", "password": "correct horse battery"}).status_code == 200


def test_languages_follow_the_person_then_the_browser(console: Consoled) -> None:
    with console.client() as client:
        for asked, wanted in (("zh-CN,en;q=0.5", "登录"), ("en,zh;q=0.9", "Sign in"), ("fr", "Sign in")):
            assert f"<h1>{wanted}</h1>" in client.get("/sign-in", headers={"accept-language": asked}).text
    with console.client("bob") as client:
        mine = token(client.get("/settings").text)
        page = client.post("/settings", data={"csrf": mine, "language": "zh"}, headers={"accept-language": "en"}).text
        assert "<h1>设置</h1>" in page
        assert 'lang="zh-CN"' in page
        client.post("/settings", data={"csrf": mine, "language": ""})


def test_errors_are_pages_and_are_counted_by_route(console: Consoled) -> None:
    with console.client("ann") as client:
        missing = client.get("/decisions/nothing")
        assert missing.status_code == 404
        assert "There is no decision with this id" in missing.text
    counted = httpx.get(f"{console.running.url}/metrics").text
    assert 'route="/console/decisions/{name}"' in counted
    assert "/console/decisions/nothing" not in counted


def test_attempts_are_limited_by_name_and_refill() -> None:
    tries = Tries()
    assert [tries.take("ann", 0.0) for _ in range(TRIES + 1)] == [True] * TRIES + [False]
    assert tries.take("bob", 0.0)
    assert tries.take("ann", 60 / TRIES)
    assert not tries.take("ann", 60 / TRIES)
    tries.forget("ann")
    assert tries.take("ann", 60 / TRIES)
