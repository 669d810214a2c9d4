"""Asking again over JSON: the same call twice is one job; all that failed of one cause is retried at once."""

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
    """The same key and body are the same job; with another body the key is refused, nothing stored."""
    key, before = str(uuid.uuid4()), _stored(suite)
    url = site.url(f"/watch/demo?token={key}")
    first, again = [_post(suite, path, key, url=url) for _ in range(2)]
    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert _name(first.json()) == _name(again.json())
    other = _post(suite, path, key, url=url, labels={"team": "red"})
    assert other.status_code == 400, other.text
    info = other.json()["details"][0]
    assert (info["domain"], info["reason"]) == ("reelhaul.dev", "REQUEST_ID_REUSED")
    assert _stored(suite) == before + 1
    assert "completed" in wait_for_end(suite, _name(first.json()))
    assert _name(_post(suite, path, key, url=url).json()) == _name(first.json())
    assert _stored(suite) == before + 1


def test_a_key_that_is_none(suite: Suite, site: Site) -> None:
    """A key that is no UUID is refused by name before anything is stored."""
    before = _stored(suite)
    answer = _post(suite, "/v1/jobs", "once", url=site.url("/watch/demo"))
    assert answer.status_code == 400
    assert answer.json()["details"][0]["reason"] == "FIELD_INVALID"
    assert _stored(suite) == before


def test_retry_by_filter(suite: Suite, site: Site) -> None:
    """Of all that failed, those of one reason are retried by a filter, once for each key; the others rest."""
    label = uuid.uuid4().hex
    lost = [
        _failed(suite, site.url(f"/watch/demo?fail=404&times=1&token={uuid.uuid4()}"), label)
        for _ in range(2)
    ]
    dead = _failed(suite, site.url("/watch/demo?fail=451"), label)
    assert {reason for _, reason in lost} == {"MEDIA_NOT_FOUND"}
    assert dead[1] != "MEDIA_NOT_FOUND"
    body = {"filter": f'state = FAILED AND error.reason = MEDIA_NOT_FOUND AND labels.test = "{label}"'}
    key = {"idempotency-key": str(uuid.uuid4())}
    look = suite.http.post("/v1/jobs:batchRetry", json={**body, "validateOnly": True}).json()
    assert [job["name"] for job in look["jobs"]] == [f"jobs/{job}" for job, _ in lost]
    for _ in range(2):
        done = suite.http.post("/v1/jobs:batchRetry", json=body, headers=key)
        assert done.status_code == 200, done.text
        assert [job["name"] for job in done.json()["jobs"]] == [f"jobs/{job}" for job, _ in lost]
    assert ["completed" in wait_for_end(suite, job) for job, _ in lost] == [True, True]
    assert "failed" in wait_for_end(suite, dead[0])


def _post(suite: Suite, path: str, key: str, **body: Any) -> httpx.Response:
    return suite.http.post(path, json=body, headers={"Idempotency-Key": key})


def _name(answer: dict[str, Any]) -> str:
    """The job's id, of either face."""
    return str(answer.get("job_id") or answer["name"].removeprefix("jobs/"))


def _failed(suite: Suite, url: str, label: str) -> tuple[str, str]:
    """A download that failed: its id and why."""
    job = create_download(suite, url, labels={"test": label}, quality="360p")
    last = wait_for_end(suite, job)
    assert "failed" in last, last
    return job, str(last["failed"]["error"]["reason"])


def _stored(suite: Suite) -> int:
    return int(suite.http.get("/api/v1/jobs").json().get("total", 0))
