"""Invalid input gets a machine-readable status and changes nothing."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from tests.suite.suite import Suite

_UNKNOWN_ID = str(uuid.UUID(int=0x018F0000_0000_7000_8000_000000000001))


def _post(**body: Any) -> httpx.Request:
    return httpx.Request("POST", "http://suite/api/v1/download", json=body)


def _batch(*urls: str) -> httpx.Request:
    return httpx.Request("POST", "http://suite/api/v1/batch", json={"urls": urls})


def _get(path: str) -> httpx.Request:
    return httpx.Request("GET", f"http://suite{path}")


_CASES = {
    "malformed URL": (_post(url="not a url"), 400, "URL_INVALID", "url"),
    "no URL": (_post(), 400, "URL_INVALID FIELD_INVALID", "url"),
    "file URL": (_post(url="file:///etc/passwd"), 400, "URL_INVALID", "url"),
    "user info in the URL": (_post(url="http://me:secret@example.com/v"), 400, "URL_INVALID", "url"),
    "unknown field": (_post(url="https://example.com/v", qualty="1080p"), 400, "FIELD_INVALID", "qualty"),
    "unknown word": (_post(url="https://example.com/v", quality="1081p"), 400, "FIELD_INVALID", "quality"),
    "unknown job": (_get(f"/api/v1/status/{_UNKNOWN_ID}"), 404, "RESOURCE_NOT_FOUND", None),
    "wrong page token": (_get("/api/v1/jobs?page_token=wrong"), 400, "PAGE_TOKEN_INVALID", None),
    "batch of 501": (_batch(*["https://example.com/v"] * 501), 400, "FIELD_INVALID", "urls"),
    "one bad URL of a batch": (_batch("https://example.com/v", "x"), 400, "URL_INVALID", "urls[1]"),
    "filter that ends early": (_get("/v1/jobs?filter=state%20%3D"), 400, "FILTER_INVALID", "filter"),
    "order with no index": (_get("/v1/jobs?orderBy=url"), 400, "ORDER_BY_INVALID", None),
    "unknown parameter": (_get("/api/v1/jobs?colour=red"), 400, "FIELD_INVALID", "colour"),
}


@pytest.mark.parametrize("case", _CASES)
def test_invalid_input(suite: Suite, case: str) -> None:
    """The response has status, reason and field, and no job is stored."""
    request, status, reasons, field = _CASES[case]
    before = _count_jobs(suite)
    response = suite.http.request(
        request.method,
        request.url.raw_path.decode(),
        content=request.content,
        headers={"content-type": "application/json"} if request.content else None,
    )
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() >= {"code", "message", "details"}
    info, *other_details = body["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["domain"], info["reason"] in reasons.split()) == ("reelhaul.dev", True), body
    if field is not None:
        assert field in _violated_fields(other_details), body
    assert "secret" not in response.text
    assert _count_jobs(suite) == before


def _violated_fields(details: list[dict[str, Any]]) -> list[str]:
    bad_requests = [detail for detail in details if detail["@type"].endswith(".BadRequest")]
    return [violation["field"] for detail in bad_requests for violation in detail["fieldViolations"]]


def _count_jobs(suite: Suite) -> int:
    return int(suite.http.get("/api/v1/jobs").json().get("total", 0))
