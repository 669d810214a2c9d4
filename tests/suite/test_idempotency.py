"""Repeated calls over JSON: the same key is one job, and failed jobs are retried by a filter."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import Suite


@pytest.mark.parametrize("path", ["/v1/jobs", "/api/v1/download"])
def test_idempotency_key(suite: Suite, site: Site, path: str) -> None:
    """The same key and body are the same job; with another body the key is refused and nothing is stored."""
    key, before = str(uuid.uuid4()), _count_jobs(suite)
    url = site.url(f"/watch/demo?token={key}")
    first, repeated = [_post(suite, path, key, url=url) for _ in range(2)]
    assert (first.status_code, repeated.status_code) == (200, 200), repeated.text
    assert _job_id(first.json()) == _job_id(repeated.json())
    refused = _post(suite, path, key, url=url, labels={"team": "red"})
    assert refused.status_code == 400, refused.text
    info = refused.json()["details"][0]
    assert (info["domain"], info["reason"]) == ("reelhaul.dev", "REQUEST_ID_REUSED")
    assert _count_jobs(suite) == before + 1
    assert "completed" in wait_for_end(suite, _job_id(first.json()))
    assert _job_id(_post(suite, path, key, url=url).json()) == _job_id(first.json())
    assert _count_jobs(suite) == before + 1


def test_keys_of_any_form(suite: Suite, site: Site) -> None:
    """A key need not be a UUID to protect; one that is too long is refused, and nothing is stored."""
    before = _count_jobs(suite)
    first, again = (
        _post(suite, "/v1/jobs", f"order {before}", url=site.url("/watch/demo")) for _ in range(2)
    )
    assert first.json()["name"] == again.json()["name"]
    response = _post(suite, "/v1/jobs", "x" * 256, url=site.url("/watch/demo"))
    assert response.status_code == 400
    assert response.json()["details"][0]["reason"] == "FIELD_INVALID"
    assert _count_jobs(suite) == before + 1


def test_retry_by_filter(suite: Suite, site: Site) -> None:
    """A filter retries the failed jobs of one reason, once for each key, and leaves the others."""
    label = uuid.uuid4().hex
    not_found = [
        _create_failed(suite, site.url(f"/watch/demo?fail=404&times=1&token={uuid.uuid4()}"), label)
        for _ in range(2)
    ]
    other = _create_failed(suite, site.url("/watch/demo?fail=451"), label)
    assert {reason for _, reason in not_found} == {"MEDIA_NOT_FOUND"}
    assert other[1] != "MEDIA_NOT_FOUND"
    body = {"filter": f'state = FAILED AND error.reason = MEDIA_NOT_FOUND AND labels.test = "{label}"'}
    headers = {"idempotency-key": str(uuid.uuid4())}
    preview = suite.http.post("/v1/jobs:batchRetry", json={**body, "validateOnly": True}).json()
    assert [job["name"] for job in preview["jobs"]] == [f"jobs/{job}" for job, _ in not_found]
    for _ in range(2):
        response = suite.http.post("/v1/jobs:batchRetry", json=body, headers=headers)
        assert response.status_code == 200, response.text
        assert [job["name"] for job in response.json()["jobs"]] == [f"jobs/{job}" for job, _ in not_found]
    assert ["completed" in wait_for_end(suite, job) for job, _ in not_found] == [True, True]
    assert "failed" in wait_for_end(suite, other[0])


def _post(suite: Suite, path: str, key: str, **body: Any) -> httpx.Response:
    return suite.http.post(path, json=body, headers={"Idempotency-Key": key})


def _job_id(response: dict[str, Any]) -> str:
    """Return the job's id in a response of either API."""
    return str(response.get("job_id") or response["name"].removeprefix("jobs/"))


def _create_failed(suite: Suite, url: str, label: str) -> tuple[str, str]:
    """Create a download that fails; return its id and the reason."""
    job = create_download(suite, url, labels={"test": label}, quality="360p")
    last = wait_for_end(suite, job)
    assert "failed" in last, last
    return job, str(last["failed"]["error"]["reason"])


def _count_jobs(suite: Suite) -> int:
    return int(suite.http.get("/api/v1/jobs").json().get("total", 0))
