from __future__ import annotations

from tests.ship.service.conftest import Running


def test_native(server: Running) -> None:
    with server.client as client:
        r = client.post("/v1/decisions", json={"texts": ["今天天气很好", {"text": "easy money", "idempotency_key": "a"}]})
        print(r.status_code, r.text, r.headers)
        r = client.post("/v1/decisions", json={"texts": [{"text": "easy money", "idempotency_key": "a"}]})
        print(r.status_code, r.text)
        r = client.post("/v1/decisions", json={"texts": [{"text": "other", "idempotency_key": "a"}]})
        print(r.status_code, r.text)
        r = client.post("/v1/moderations", json={"input": ["a", "b"]})
        print(r.status_code, r.text)
        r = client.post("/v1alpha1/comments:analyze", json={"comment": {"text": "x"}, "requestedAttributes": {"FRAUD": {}}})
        print(r.status_code, r.text)
        for path in ("/metrics", "/livez", "/nothing", "/v1/decisions", "/openapi.json"):
            r = client.get(path)
            print(r.status_code, r.text[:3000])
        r = client.get("/admin/bundles")
        print(r.status_code, r.text)
        r = client.get("/admin/bundles", headers={"authorization": f"Bearer {server.admin}"})
        print(r.status_code, r.text)
    print(server.errors.read_text())
    assert 0
