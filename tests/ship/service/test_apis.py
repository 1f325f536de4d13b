"""The three APIs over a real connection, asked as their clients ask them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from tests.ship.service.conftest import Running

import tamis
from tamis.decisions import verify
from tamis.policy import Policy
from tamis.records import content_id
from tamis.store import Store
from tamis.taxonomies import OPENAI

TEXTS = ["今天天气很好", "注册就送彩金", "easy money no fee", "", "日入上千私我" * 60]


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    with server.client as client:
        yield client


def decide(http: httpx.Client, *texts: object) -> list[dict[str, Any]]:
    response = http.post("/v1/decisions", json={"texts": list(texts)})
    assert response.status_code == 200, response.text
    return list(response.json()["decisions"])


def test_decisions_are_those_of_the_bundle_in_order(http: httpx.Client, server: Running) -> None:
    expected = tamis.load(server.bundle)(TEXTS)
    for told, wanted, text in zip(decide(http, *TEXTS), expected, TEXTS, strict=True):
        assert told["content"] == content_id(text)
        assert told["action"] == wanted.action
        assert told["category"] == wanted.category
        assert told["probabilities"] == pytest.approx(dict(wanted.probabilities), abs=1e-4)
        assert told["risk"] == pytest.approx(wanted.risk, abs=1e-4)
        assert told["versions"] == dict(wanted.versions)
        assert told["repeated"] is False


def test_an_answer_is_in_the_log_before_it_is_told(http: httpx.Client, server: Running) -> None:
    with Store.open(server.store) as store:
        before = verify(store).rows
        ids = [told["id"] for told in decide(http, *TEXTS)]
        found = verify(store)
        assert (found.rows, found.broken) == (before + len(TEXTS), None)
        with store.begin() as connection:
            logged = connection.exec_driver_sql("SELECT id FROM decisions ORDER BY number").scalars().all()[before:]
    assert sorted(logged) == sorted(ids)


def test_a_repeated_key_gets_the_first_answer(http: httpx.Client) -> None:
    key = uuid.uuid4().hex
    (first,) = decide(http, {"text": "easy money", "idempotency_key": key})
    again, other = decide(http, {"text": "easy money", "idempotency_key": key}, "easy money")
    assert again == first | {"repeated": True}
    assert other["id"] != first["id"]
    conflict = http.post("/v1/decisions", json={"texts": [{"text": "good morning", "idempotency_key": key}]})
    assert conflict.status_code == 409
    assert conflict.json()["error"]["code"] == "conflict"
    assert "good morning" not in conflict.text


def test_a_key_of_one_caller_is_nothing_to_another(http: httpx.Client, server: Running) -> None:
    named = {"text": "easy money", "idempotency_key": uuid.uuid4().hex}
    (first,) = decide(http, named)
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {server.admin}"}) as other:
        (told,) = decide(other, named)
    assert (told["repeated"], told["id"] == first["id"]) == (False, False)


def test_the_openai_client_is_answered(server: Running, http: httpx.Client, small_policy: Policy) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key) as client:
        one = client.moderations.create(input=TEXTS[1])
        many = client.moderations.create(input=TEXTS, model="omni-moderation-latest")
        parts = client.moderations.create(input=[{"type": "text", "text": text} for text in TEXTS])
    assert len(one.results) == 1
    assert many.results[1].categories == one.results[0].categories
    assert len(many.results) == len(parts.results) == len(TEXTS)
    for result, told in zip(many.results, decide(http, *TEXTS), strict=True):
        flags, scores = result.categories.model_dump(by_alias=True), result.category_scores.model_dump(by_alias=True)
        assert set(flags) == set(scores) == set(OPENAI)
        assert result.flagged == (told["action"] != "pass")
        # Gambling and fraud both stand behind `illicit`, and exclude each other.
        assert scores["illicit"] == pytest.approx(told["risk"], abs=1e-4)
        assert flags["illicit"] == result.flagged
        assert sum(flags.values()) == result.flagged
        own = result.model_extra["tamis"]
        assert set(own["category_scores"]) == set(small_policy.ids) - {"normal"}
        assert own["action"] == told["action"]


def test_the_openai_client_gets_its_own_errors(server: Running) -> None:
    wrong_key = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with wrong_key as client, pytest.raises(openai.AuthenticationError) as wrong:
        client.moderations.create(input="x")
    assert wrong.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as long:
            client.moderations.create(input="x" * 100_000)
        with pytest.raises(openai.BadRequestError) as picture:
            client.moderations.create(input=[{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}])
        with pytest.raises(openai.BadRequestError):
            client.moderations.create(input=[])
    assert (long.value.code, long.value.param) == ("string_above_max_length", "input")
    assert picture.value.code == "invalid_value"


def analyze(server: Running, **body: object) -> httpx.Response:
    return httpx.post(f"{server.url}/v1alpha1/comments:analyze", params={"key": server.key}, json=body)


def test_perspective_is_answered(server: Running, http: httpx.Client) -> None:
    (told,) = decide(http, TEXTS[2])
    response = analyze(
        server,
        comment={"text": TEXTS[2], "type": "PLAIN_TEXT"},
        requestedAttributes={"FRAUD": {}, "GAMBLING": {"scoreThreshold": 1.0, "scoreType": "PROBABILITY"}},
        clientToken="t-1",
        doNotStore=True,
        spanAnnotations=True,
    )
    assert response.status_code == 200, response.text
    page = response.json()
    assert page["attributeScores"].keys() == {"FRAUD"}
    value = page["attributeScores"]["FRAUD"]["summaryScore"]
    assert value == {"value": pytest.approx(told["probabilities"]["fraud"], abs=1e-4), "type": "PROBABILITY"}
    assert (page["languages"], page["detectedLanguages"], page["clientToken"]) == (["en"], ["en"], "t-1")
    assert page["tamis"]["action"] == told["action"]
    named = analyze(server, comment={"text": TEXTS[0]}, requestedAttributes={"FRAUD": {}}, languages=["zh", "en"])
    assert (named.json()["languages"], named.json()["detectedLanguages"]) == (["zh", "en"], ["zh"])


PERSPECTIVE_ERRORS = {
    "unknown": ({"comment": {"text": "x"}, "requestedAttributes": {"PROFANITY": {}}}, 400, "INVALID_ARGUMENT", None),
    "empty": (
        {"comment": {"text": " "}, "requestedAttributes": {"FRAUD": {}}},
        400,
        "INVALID_ARGUMENT",
        "COMMENT_EMPTY",
    ),
    "long": (
        {"comment": {"text": "x" * 100_000}, "requestedAttributes": {"FRAUD": {}}},
        400,
        "INVALID_ARGUMENT",
        "COMMENT_TOO_LONG",
    ),
    "none": ({"comment": {"text": "x"}}, 400, "INVALID_ARGUMENT", None),
}


@pytest.mark.parametrize("case", sorted(PERSPECTIVE_ERRORS))
def test_perspective_gets_its_own_errors(server: Running, case: str) -> None:
    body, status, word, kind = PERSPECTIVE_ERRORS[case]
    response = analyze(server, **body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["status"]) == (status, status, word)
    assert [one["errorType"] for one in error["details"]] == ([kind] if kind else [])


def test_a_key_may_come_as_google_sends_it(server: Running) -> None:
    body = {"comment": {"text": "x"}, "requestedAttributes": {"FRAUD": {}}}
    url = f"{server.url}/v1alpha1/comments:analyze"
    assert httpx.post(url, headers={"x-goog-api-key": server.key}, json=body).status_code == 200
    refused = httpx.post(url, params={"key": "wrong"}, json=body)
    assert (refused.status_code, refused.json()["error"]["status"]) == (401, "UNAUTHENTICATED")


def test_the_riskiest_part_of_a_long_comment_is_a_span(server: Running, http: httpx.Client) -> None:
    (told,) = decide(http, TEXTS[4])
    (place,) = told["evidence"]
    body = {"comment": {"text": TEXTS[4]}, "requestedAttributes": {"FRAUD": {}}}
    score = analyze(server, **body, spanAnnotations=True).json()["attributeScores"]["FRAUD"]
    (span,) = score["spanScores"]
    assert f"characters {span['begin']} to {span['end']}" == place
    assert span["score"] == score["summaryScore"]
    assert 0 <= span["begin"] < span["end"] <= len(TEXTS[4])
    assert "spanScores" not in analyze(server, **body).json()["attributeScores"]["FRAUD"]
    body["comment"] = {"text": "x"}
    assert analyze(server, **body, spanAnnotations=True).json()["attributeScores"]["FRAUD"]["spanScores"] == []


def test_a_comment_that_must_not_be_stored_is_not(bundles: Any, tmp_path: Any) -> None:
    from tests.ship.service.conftest import served

    with served(bundles[0], tmp_path, settings={"keep_days": 3}) as running:
        for stored in (False, True):
            body = {"comment": {"text": "secret words"}, "requestedAttributes": {"FRAUD": {}}, "doNotStore": not stored}
            assert analyze(running, **body).status_code == 200
        with Store.open(running.store) as store, store.begin() as connection:
            kept = connection.exec_driver_sql("SELECT kept FROM decisions ORDER BY number").scalars().all()
    assert [json.loads(one)["text"] for one in kept] == ["", "secret words"]


def test_openapi_has_examples_that_hold(server: Running, http: httpx.Client) -> None:
    page = http.get("/openapi.json").json()
    assert {"/v1/moderations", "/v1/decisions", "/v1alpha1/comments:analyze", "/admin/bundles/promote"} <= set(
        page["paths"]
    )
    for path in ("/v1/moderations", "/v1/decisions"):
        content = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        name = content["schema"]["$ref"].rpartition("/")[2]
        examples = page["components"]["schemas"][name]["examples"]
        assert [http.post(path, json=one).status_code for one in examples] == [200] * len(examples)


def test_probes_and_metrics(server: Running, http: httpx.Client) -> None:
    assert http.get("/livez").text == "ok\n"
    assert http.get("/readyz").status_code == 200
    decide(http, "easy money")
    told = http.get("/metrics").text
    assert 'tamis_requests_total{route="/v1/decisions",status="200"}' in told
    assert "tamis_ready_workers 1.0" in told
    assert 'place="live"} 1.0' in told
    assert "easy money" not in told


def test_what_is_not_there(http: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/v1/decisions", 405),
        ("PUT", "/v1/moderations", 405),
    ):
        response = http.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]["message"]
