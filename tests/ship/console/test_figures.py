"""Pages of figures against a real server: quality, bulk, dashboards, thresholds and models."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from tests.ship.console.conftest import Consoled, consoled, decided

from tamis import reviews
from tamis.decisions import DecisionLog, stamp
from tamis.policy import Policy
from tamis.records import AUDIT, Decision, Example, Scores, content_id
from tamis.reviews import Judgement, Wanted
from tamis.ship.bundle import check_manifest, load_bundle
from tamis.ship.console.acts import acts
from tamis.ship.console.hours import add, fold
from tamis.ship.console.users import prefer
from tamis.ship.service.shadow import agreement
from tamis.store import Store

PAGES = ("dashboard", "quality", "bulk", "bulk?category=", "thresholds", "models")
CRUEL = "<script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def console(bundles: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consoled]:
    with consoled(bundles[0], tmp_path_factory.mktemp("figures")) as found:
        yield found


def post(client: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Send a form as the page under which it stands would."""
    page = client.get("/settings").text
    token = re.search(r'name="csrf" value="([\w-]+)"', page)
    assert token
    return client.post(path, data={"csrf": token[1]} | fields)


def said(answer: httpx.Response) -> str:
    found = re.search(r'data-said="([^"]*)"', answer.text)
    assert found, answer.text
    return found[1]


def seeded(console: Consoled, policy: Policy, name: str, rows: int, risk: float = 0.6) -> list[str]:
    """Reviews that wait, about texts of their own; returns the decisions' ids."""
    harmful = next(one for one in policy.ids if one != policy.benign)
    with console.store() as store:
        ids = decided(store, policy, [(f"{name} {i} {CRUEL}", harmful, risk) for i in range(rows)])
        reviews.fill(store)
    return ids


def test_pages_are_for_their_roles(console: Consoled) -> None:
    with console.client() as nobody, console.client("ann") as ann, console.client("lea") as lea:
        for page in PAGES:
            assert nobody.get(f"/{page}", follow_redirects=False).status_code == 303
            assert ann.get(f"/{page}").status_code == (200 if page == "dashboard" else 403), page
            assert lea.get(f"/{page}").status_code == 200, page
        for path in ("/models/x/promote", "/models/rollback", "/models/load", "/models/x/shadow", "/models/x/unload"):
            assert post(lea, path).status_code == 403
            assert post(ann, path).status_code == 403
        assert lea.post("/models/rollback", data={"csrf": "wrong"}).status_code == 403
        assert post(ann, "/bulk", verdict="fraud", reason="r").status_code == 403
        assert post(ann, "/thresholds/save").status_code == 403


def test_pages_speak_both_languages_and_styles_stay_in_files(console: Consoled) -> None:
    with console.client("lea") as lea:
        for page in PAGES:
            english = lea.get(f"/{page}", headers={"accept-language": "en"}).text
            chinese = lea.get(f"/{page}", headers={"accept-language": "zh"}).text
            assert english != chinese
            for text in (english, chinese):
                # The content security policy would refuse them.
                assert " style=" not in text
                assert "<style" not in text
                assert not re.search(r"<script(?! src)", text)
        assert "stroke" in lea.get("/static/charts.css").text


def test_a_wave_is_judged_at_once_and_taken_back(console: Consoled, small_policy: Policy) -> None:
    seeded(console, small_policy, "wave", 12, risk=0.73)
    seeded(console, small_policy, "other", 3, risk=0.2)
    with console.client("lea") as lea:
        query = {"category": "", "language": "", "low": "70", "high": "75"}
        page = lea.get("/bulk", params=query).text
        assert "12 items are meant" in page
        assert CRUEL not in page
        until = re.search(r'name="until" value="([^"]+)"', page)
        assert until
        # What comes after the preview was not previewed.
        seeded(console, small_policy, "late", 1, risk=0.74)
        harmful = next(one for one in small_policy.ids if one != small_policy.benign)
        send = query | {"until": until[1], "verdict": harmful}
        assert post(lea, "/bulk", **send).status_code == 400
        assert post(lea, "/bulk", **send, reason="r", verdict_="").status_code == 200
        with console.store() as store:
            batch = acts(store, "bulk")[0].about["batch"]
            assert acts(store, "bulk")[0].about["rows"] == 12
            assert len([one for one in reviews.verdicts(store) if one.batch == batch]) == 12
        page = lea.get("/bulk").text
        assert "Undo 12" in page
        assert said(post(lea, f"/bulk/{batch}/undo")).startswith("12 verdicts are taken back")
        with console.store() as store:
            assert not [one for one in reviews.verdicts(store) if one.batch == batch]
        assert "13 items are meant" in lea.get("/bulk", params=query).text
        assert "taken back" in lea.get("/bulk").text


def test_only_what_may_be_judged_unread_is_judged_in_bulk(console: Consoled, small_policy: Policy) -> None:
    (decision,) = seeded(console, small_policy, "guarded", 1, risk=0.91)
    with console.store() as store:
        decided(store, small_policy, [("audited", small_policy.ids[1], 0.91)], "pass", [AUDIT])
        reviews.fill(store)
        reviews.appeal(store, decision)
        reviews.add_gold(store, [Example(content_id("gold"), "gold", "en", "t", label=small_policy.benign)])
        waiting = [one for one in reviews.listing(store) if one.risk > 0.9]
        assert {one.cause for one in waiting} >= {"review", "audit", "appeal"}
    with console.client("lea") as lea:
        assert "1 items are meant" in lea.get("/bulk", params={"low": "91", "high": "91"}).text


def test_agreement_disputes_and_gold_stand_on_the_page(console: Consoled, small_policy: Policy) -> None:
    seeded(console, small_policy, "twice", 2, risk=0.5)
    harmful = next(one for one in small_policy.ids if one != small_policy.benign)
    with console.client("lea") as lea:
        assert post(lea, "/quality/gold", text="surely fine", label=small_policy.benign).status_code == 200
        assert (
            said(post(lea, "/quality/gold", text="surely fine", label=harmful))
            == "This text is gold already and keeps its answer."
        )
        assert post(lea, "/quality/gold", text="", label=harmful).status_code == 400
        with console.store() as store:
            mine = [one for one in reviews.listing(store, limit=500) if abs(one.risk - 0.5) < 1e-9]
            reviews.judge(store, [one.id for one in mine], Judgement("ann", harmful), second_share=1.0)
            seconds = [one for one in reviews.listing(store, Wanted(cause="second"), 500) if abs(one.risk - 0.5) < 1e-9]
            assert len(seconds) == 2
            for one, verdict in zip(seconds, (harmful, small_policy.benign), strict=True):
                reviews.judge(store, [one.id], Judgement("bob", verdict, f"because {CRUEL}"))
        page = lea.get("/quality").text
        assert "2 pairs" in page
        assert "1 in this time" in page
        assert CRUEL not in page
        assert "because &lt;script&gt;" in page


def test_appeals_are_upheld_and_overturned_with_a_reason(console: Consoled, small_policy: Policy) -> None:
    first, second = seeded(console, small_policy, "appealed", 2, risk=0.55)
    harmful = next(one for one in small_policy.ids if one != small_policy.benign)
    with console.client("lea") as lea:
        assert post(lea, "/quality/appeal", decision="nothing").status_code == 400
        for decision in (first, second):
            assert post(lea, "/quality/appeal", decision=decision).status_code == 200
        with console.store() as store:
            items = {one.decision: one.id for one in reviews.listing(store, Wanted(cause="appeal"), 500)}
        assert post(lea, f"/quality/appeals/{items[first]}", outcome="uphold").status_code == 400
        assert (
            post(lea, f"/quality/appeals/{items[first]}", outcome="overturn", verdict=harmful, reason="r").status_code
            == 400
        )
        upheld = post(lea, f"/quality/appeals/{items[first]}", outcome="uphold", verdict="", reason="as it was")
        assert said(upheld) == "Upheld."
        overturned = post(
            lea, f"/quality/appeals/{items[second]}", outcome="overturn", verdict=small_policy.benign, reason="a joke"
        )
        assert said(overturned) == "Overturned."
        again = post(lea, f"/quality/appeals/{items[second]}", outcome="uphold", reason="again")
        assert said(again).startswith("This appeal is not for you")
    with console.store() as store:
        found = {one.decision: one for one in reviews.verdicts(store) if one.cause == "appeal"}
    assert (found[first].outcome, found[first].verdict, found[first].reason) == ("uphold", harmful, "as it was")
    assert (found[second].outcome, found[second].verdict) == ("overturn", small_policy.benign)


def test_the_dashboard_counts_what_was_decided_and_tells_the_last_look(console: Consoled, small_policy: Policy) -> None:
    with console.running.client as client:
        for i in range(3):
            assert client.post("/v1/moderations", json={"input": [f"counted {i}", f"again {i}"]}).status_code == 200
    with console.client("ann") as ann:
        until = time.monotonic() + 60
        while time.monotonic() < until and not re.search(
            r"<strong>([1-9][\d,]*)</strong><span>decisions", ann.get("/dashboard").text
        ):
            time.sleep(0.5)
        page = ann.get("/dashboard?days=1").text
        assert 'role="img" aria-label="Decisions by action"' in page
        assert "student" in page
        assert f"{small_policy.name} {small_policy.version}" in page
        post(ann, "/dashboard/look")
        while time.monotonic() < until and "Looked at" not in ann.get("/dashboard").text:
            time.sleep(0.5)
        page = ann.get("/dashboard").text
        assert "no traffic is pinned to compare with" in page
        assert post(ann, "/dashboard/pin").status_code == 403
    with console.client("lea") as lea:
        answer = post(lea, "/dashboard/pin")
        assert answer.status_code in (200, 400)


def spent(store: Store) -> None:
    """Decisions of a cascade, and what its teacher took."""
    versions = {"policy": "p 1.0", "model": "made", "tamis": "0"}
    scores = Scores({"normal": 0.9, "fraud": 0.1}, 0.1, 0.2)
    chains = [("student",)] * 4 + [("student", "teacher priced")] * 3 + [("student", "teacher priced", "person")]
    with DecisionLog(store) as log:
        for i, tiers in enumerate(chains):
            decision = Decision(content_id(f"chain {i}"), "pass", "normal", scores, versions, tiers)
            log.add(decision, "x").result(60)
    fold(store)
    hour = stamp(datetime.now(UTC))[:13]
    taken = {"asked": 4, "kept": 2, "prompt": 1_200_000, "completion": 30_000}
    with store.begin() as connection:
        add(store, connection, Counter({(kind, hour, "teacher priced"): n for kind, n in taken.items()}))


@pytest.mark.parametrize(("prices", "cost"), [({"price_prompt": 2, "price_completion": 8}, "2.6400"), ({}, "–")])
def test_the_dashboard_tells_who_decided_and_what_the_teachers_cost(
    bundles: Sequence[Path], tmp_path: Path, prices: dict[str, float], cost: str
) -> None:
    teacher = {"kind": "openai", "model": "priced", "base_url": "http://127.0.0.1:9/v1", "budget": prices}
    with consoled(bundles[0], tmp_path, tiers=[{"teacher": teacher}]) as console, console.client("ann") as ann:
        with console.store() as store:
            spent(store)
        for days, language, title in (("1", "en", "What the teachers took"), ("7", "zh", "教师用量")):
            with console.store() as store:
                prefer(store, "ann", language=language)
            page = ann.get(f"/dashboard?days={days}").text
            rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in page.split("<tr>")]
            assert ["teacher priced", "4", "50.0%", "3", "37.5%"] in rows
            assert ["teacher priced", "4", "2", "1,200,000", "30,000", cost] in rows
            # The day's, or the hour's, row of the chart of tokens.
            assert [row[1:] for row in rows if row[1:] == ["4", "2", "1,200,000", "30,000"]]
            assert title in page


def test_other_thresholds_are_tried_compared_and_saved_as_a_bundle(
    console: Consoled, small_policy: Policy, bundles: Sequence[Path]
) -> None:
    seeded(console, small_policy, "explored", 4, risk=0.6)
    with console.store() as store:
        mine = [one for one in reviews.listing(store, limit=500) if abs(one.risk - 0.6) < 1e-9]
        for one, verdict in zip(mine, (small_policy.ids[1], small_policy.benign) * 2, strict=False):
            reviews.judge(store, [one.id], Judgement("bob", verdict))
    with console.client("lea") as lea:
        page = lea.get("/thresholds").text
        assert 'name="review.risk.any"' in page
        part = lea.get("/thresholds/figures", params={"review.risk.any": "0.99", "block.risk.any": "0.99"}).text
        assert "<html" not in part
        assert "0.0%" in part
        assert said(lea.get("/thresholds/diff", params={"review.risk.any": str(small_policy.actions.review)})) == (
            "No threshold differs from those that decide now."
        )
        diff = lea.get("/thresholds/diff", params={"review.risk.any": "0.41"}).text
        assert "0.41" in diff
        new = re.search(r'name="version" [^>]*value="([^"]+)"', diff)
        assert new
        fields = {"review.risk.any": "0.41", "version": new[1], "reason": "more to read"}
        assert post(lea, "/thresholds/save", **fields | {"version": small_policy.version}).status_code == 400
        assert post(lea, "/thresholds/save", **fields | {"version": "../x"}).status_code == 400
        answer = post(lea, "/thresholds/save", **fields)
        assert said(answer) == f"Version {new[1]} is loaded. An admin can let it judge in shadow, or promote it."
        assert f"{small_policy.name} {new[1]}" in answer.text
        # A folder that is there is never written over.
        assert post(lea, "/thresholds/save", **fields).status_code == 400
    made = bundles[0].with_name(f"{bundles[0].name}-{new[1]}")
    assert check_manifest(made) != check_manifest(bundles[0])
    old, fresh = load_bundle(bundles[0]), load_bundle(made)
    assert (fresh.policy.version, fresh.policy.actions.review) == (new[1], 0.41)
    assert fresh.policy.actions.block == old.policy.actions.block
    assert [one.probabilities for one in fresh.score(["今天", "a mule"])] == [
        one.probabilities for one in old.score(["今天", "a mule"])
    ]


def model_deciding(client: httpx.Client) -> str:
    return str(client.post("/v1/decisions", json={"texts": ["x"]}).json()["decisions"][0]["versions"]["model"])


def test_an_admin_shadows_and_compares(console: Consoled, bundles: Sequence[Path]) -> None:
    one, two = map(check_manifest, bundles)
    with console.client("adam") as adam, console.running.client as client:
        assert post(adam, "/models/load", folder="/nowhere").status_code == 400
        assert said(post(adam, "/models/load", folder=str(bundles[1]))) == "Loaded."
        assert said(post(adam, f"/models/{two}/shadow")) == "The shadow has changed."
        texts = [f"text {i} 汉字" for i in range(40)]
        until = time.monotonic() + 120
        counted: dict[tuple[str, str], int] = {}
        while time.monotonic() < until and sum(counted.values()) < 40:
            assert client.post("/v1/moderations", json={"input": texts}).status_code == 200
            time.sleep(0.5)
            with console.store() as store:
                counted = dict(agreement(store, one, two))
        page = adam.get("/models").text
        assert "texts judged by both" in page
        rows = re.search(r"<strong>([\d,]+)</strong><span>texts judged by both", page)
        assert rows
        assert int(rows[1].replace(",", "")) >= 40
        apart = [cell for cell in counted if cell[0] != cell[1]]
        for live, other in apart:
            cell = adam.get("/models", params={"cell": f"{live}-{other}"}).text
            assert "Show the text" in cell
            assert "汉字" in cell
        assert said(post(adam, f"/models/{two}/unload")) == "Unloaded."


def test_an_admin_sends_a_share_promotes_and_rolls_back(console: Consoled, bundles: Sequence[Path]) -> None:
    one, two = map(check_manifest, bundles)
    with console.client("adam") as adam, console.running.client as client:
        assert said(post(adam, "/models/load", folder=str(bundles[1]))) == "Loaded."
        for wrong in ("", "a lot", "101", "-1", "nan"):
            answer = post(adam, f"/models/{two}/canary", percent=wrong)
            assert answer.status_code == 400
            assert "The share is a number from 0 to 100." in answer.text
        assert said(post(adam, f"/models/{two}/canary", percent="100")).startswith("The canary has changed")
        assert "canary 100.0%" in adam.get("/models").text
        assert model_deciding(client) == two
        assert said(post(adam, f"/models/{two}/canary", percent="0")).startswith("The canary has changed")
        assert model_deciding(client) == one
        assert said(post(adam, f"/models/{two}/promote")).startswith("Promoted")
        assert model_deciding(client) == two
        assert said(post(adam, "/models/rollback")).startswith("Rolled back")
        assert model_deciding(client) == one
        assert said(post(adam, f"/models/{two}/unload")) == "Unloaded."
        assert adam.get(f"/models/{one}/report").status_code == 404
        assert "adam" in adam.get("/models").text
    with console.store() as store:
        assert [act.what for act in acts(store, "promote", "rollback", "unload")][:3] == [
            "unload",
            "rollback",
            "promote",
        ]


def test_a_report_is_cut_off_from_the_console(bundles: Sequence[Path], tmp_path: Path) -> None:
    import shutil

    bundle = tmp_path / "run" / "bundle"
    shutil.copytree(bundles[0], bundle)
    (tmp_path / "run" / "report").mkdir()
    (tmp_path / "run" / "report" / "report.html").write_text("<style>p{}</style><script>alert(1)</script>REPORT")
    with consoled(bundle, tmp_path / "served") as console, console.client("lea") as lea:
        answer = lea.get(f"/models/{check_manifest(bundle)}/report")
        assert "REPORT" in answer.text
        policies = answer.headers.get_list("content-security-policy")
        assert len(policies) == 1
        assert "sandbox" in policies[0]
        assert "script-src" not in policies[0]
        assert "default-src 'none'" in policies[0]
