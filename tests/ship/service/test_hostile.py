"""What nobody should send: the right refusal, never a 5xx, and a service that goes on."""

from __future__ import annotations

import json
import socket
import string
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance
from tests.ship.service.conftest import Running

from tamis.config import LimitsConfig
from tamis.ship.service.limits import depth

PATHS = ("/v1/decisions", "/v1/moderations", "/v1alpha1/comments:analyze")
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    with server.client as client:
        yield client
        # Whatever was sent, the next caller is served.
        assert client.post("/v1/decisions", json={"texts": ["hello"]}).status_code == 200


def wrapped(path: str, text: str) -> str:
    """A request about a text that stands there as JSON."""
    return {
        "/v1/decisions": f'{{"texts": [{text}]}}',
        "/v1/moderations": f'{{"input": {text}}}',
        "/v1alpha1/comments:analyze": f'{{"comment": {{"text": {text}}}, "requestedAttributes": {{"FRAUD": {{}}}}}}',
    }[path]


HOSTILE = {
    "a lone surrogate": (r'"a\ud800b"', 400, 400),
    "a lone low surrogate": (r'"\udc00"', 400, 400),
    "NUL": (r'"a\u0000b"', 400, 400),
    "100,000 characters": (f'"{"x" * 100_000}"', 413, 400),
    "100,000 astral characters": (f'"{"😀" * 100_000}"', 413, 400),
    "deep JSON": ("[" * 100_000, 400, 400),
    "deep JSON that closes": ("[" * 500 + "]" * 500, 400, 400),
    "deep objects": ('{"a":' * 500 + "1" + "}" * 500, 400, 400),
    "a number": ("7", 422, 400),
    "nothing": ("null", 422, 400),
    "not a number": ("NaN", 422, 400),
    "a huge number": ("9" * 10_000, 400, 400),
    "a huge body": (f'"{"x" * 3_000_000}"', 413, 413),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_hostile_texts(http: httpx.Client, server: Running, path: str, case: str) -> None:
    text, native, other = HOSTILE[case]
    response = http.post(path, content=wrapped(path, text).encode())
    assert response.status_code == (native if path == PATHS[0] else other), response.text
    assert response.json()["error"]["message"]
    assert len(response.text) < 400


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", '{"texts": ["天"]}'.encode("gb18030"), b'{"texts": ["\xed\xa0\x80"]}', b"\0"]
)
def test_what_is_no_json_in_utf_8(http: httpx.Client, body: bytes) -> None:
    assert [http.post(path, content=body).status_code for path in PATHS] == [400, 400, 400]


def test_too_many_texts(http: httpx.Client) -> None:
    many = ["x"] * (LimitsConfig().texts + 1)
    assert http.post("/v1/decisions", json={"texts": many}).status_code == 413
    assert http.post("/v1/moderations", json={"input": many}).json()["error"]["code"] == "array_above_max_length"


@pytest.mark.parametrize(
    "key", [b"Bearer wrong", b"Bearer", b"Basic eA==", b"Bearer " + b"x" * 10_000, "Bearer ключ".encode()]
)
def test_wrong_keys(server: Running, key: bytes) -> None:
    for path in PATHS:
        response = httpx.post(f"{server.url}{path}", headers={"authorization": key}, json={"texts": ["x"]})
        assert response.status_code == 401
    assert httpx.post(f"{server.url}/v1/decisions", json={"texts": ["x"]}).status_code == 401


def test_an_announced_size_is_believed_without_reading(server: Running) -> None:
    headers = ("host: x", f"authorization: Bearer {server.key}", "content-length: 999999999")
    head = "\r\n".join(("POST /v1/decisions HTTP/1.1", *headers, "", ""))
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10) as opened:
        opened.sendall(head.encode())
        answer = opened.recv(65536).decode()
        assert answer.startswith("HTTP/1.1 413")
        assert "connection: close" in answer.lower()


def test_a_size_that_is_not_announced_is_counted(http: httpx.Client) -> None:
    response = http.post("/v1/decisions", content=(b"x" * 65_536 for _ in range(100)))
    assert response.status_code == 413


def test_what_is_told_and_logged_holds_no_text(http: httpx.Client, server: Running) -> None:
    word = "vertraulich"
    bodies = [
        {"texts": [{"text": word, "idempotency_key": ""}]},
        {"texts": [{word + " 1": 1}]},
        {word + " 1": 1},
        {"texts": word},
    ]
    for path in PATHS:
        for body in bodies:
            response = http.post(path, json=body)
            assert 400 <= response.status_code < 500
            assert word not in response.text
    assert word not in server.errors.read_text()
    assert server.key not in server.errors.read_text()


TREES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SHAPES = st.one_of(
    TREES,
    st.fixed_dictionaries({"texts": TREES}),
    st.fixed_dictionaries({"input": TREES}, optional={"model": TREES}),
    st.fixed_dictionaries({"comment": TREES, "requestedAttributes": TREES}),
    st.fixed_dictionaries({"texts": st.lists(st.fixed_dictionaries({"text": st.text(), "idempotency_key": TREES}))}),
)


@FUZZ
@given(SHAPES)
def test_any_tree_is_answered_or_refused(server: Running, tree: Any) -> None:
    for path in PATHS:
        assert send(server, path, json.dumps(tree).encode()) < 500


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(server: Running, body: bytes) -> None:
    for path in PATHS:
        assert 400 <= send(server, path, body) < 500


def send(server: Running, path: str, body: bytes) -> int:
    return httpx.post(
        f"{server.url}{path}", headers={"authorization": f"Bearer {server.key}"}, content=body
    ).status_code


@FUZZ
@given(
    st.recursive(
        st.text(alphabet=string.printable) | st.integers(), lambda t: st.lists(t) | st.dictionaries(st.text(), t)
    )
)
def test_the_depth_is_that_of_the_tree(tree: Any) -> None:
    def deep(node: Any) -> int:
        inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return isinstance(node, list | dict) + max(map(deep, inner), default=0)

    text = json.dumps(tree).encode()
    for enough in range(6):
        assert (depth(text, enough) > enough) == (deep(tree) > enough)


@pytest.mark.parametrize("path", ["/admin/bundles/load", "/admin/tenants/add"])
def test_a_folder_that_can_be_none(server: Running, path: str) -> None:
    named = {"name": "forum"} if "tenants" in path else {}
    response = httpx.post(
        f"{server.url}{path}", headers={"authorization": f"Bearer {server.admin}"}, json={**named, "folder": "a\0b"}
    )
    assert response.status_code == 409, response.text


def test_what_openapi_allows_never_breaks_it(server: Running) -> None:
    page = httpx.get(f"{server.url}/openapi.json").json()
    schema = schemathesis.openapi.from_dict(page)
    seen = set()
    checks = [not_a_server_error, status_code_conformance, response_schema_conformance]
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path in ("/metrics", "/admin/bundles/load"):
            continue
        seen.add(operation.path)

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy())
        def ask(case: Any) -> None:
            headers = {"authorization": f"Bearer {server.admin}"}
            response = case.call(base_url=server.url, headers=headers, timeout=30)
            case.validate_response(response, checks=checks)

        ask()
    assert {*PATHS, "/admin/bundles", "/admin/bundles/promote", "/livez"} <= seen
