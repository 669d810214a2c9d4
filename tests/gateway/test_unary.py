"""Calls with one answer, over real sockets and a real gRPC server."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging


async def test_a_job_is_told_as_json(client):
    """Names are as in the proto's JSON form, whole doubles have no fraction, wide integers are strings."""
    answer = await client.get("/v1/jobs/018f")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert '"percent":50,' in answer.text
    assert answer.json() == {
        "name": "jobs/018f",
        "url": "https://media.example/watch?v=1",
        "state": "RUNNING",
        "progress": {"percent": 50, "downloadedBytes": "8589934592"},
        "createTime": "2023-11-14T22:13:20Z",
    }


async def test_a_failure_keeps_its_status_and_reason(client):
    """What a service refuses arrives as its google.rpc.Status, ErrorInfo first."""
    answer = await client.get("/v1/jobs/missing")
    assert answer.status_code == 404
    assert answer.json()["code"] == 5
    info = answer.json()["details"][0]
    assert info["reason"] == "RESOURCE_NOT_FOUND"
    assert info["metadata"] == {"resource": "jobs/missing"}


async def test_a_body_makes_the_request(client, suite):
    """The body is the job, and Idempotency-Key the request_id."""
    key = "0d9c2b1e-6a0d-4b0e-9d38-0e4a4c1f3a55"
    job = {"url": "https://media.example/1", "labels": {"team": "red"}}
    answer = await client.post("/v1/jobs", json=job, headers={"Idempotency-Key": key})
    assert answer.status_code == 200
    assert suite.jobs.created[0].request_id == key
    assert suite.jobs.created[0].job.labels["team"] == "red"


async def test_a_key_that_contradicts_the_request_is_refused(client, suite):
    """Two different request ids cannot both be meant."""
    answer = await client.post("/v1/jobs?requestId=one", json={}, headers={"Idempotency-Key": "two"})
    assert answer.status_code == 400
    assert not suite.jobs.created


async def test_an_unknown_field_is_refused_by_name(client, suite):
    """A slip of the pen in a body is told, not passed over."""
    answer = await client.post("/v1/jobs", json={"url": "https://media.example/1", "labls": {}})
    assert answer.status_code == 400
    info, bad = answer.json()["details"]
    assert (info["reason"], info["domain"], info["metadata"]) == (
        "FIELD_INVALID",
        "reelhaul.dev",
        {"field": "job.labls"},
    )
    assert bad["fieldViolations"][0]["field"] == "job.labls"
    assert not suite.jobs.created


async def test_other_bodies_are_refused(client):
    """Forms, what is too large, and what inflates beyond the limit."""
    assert (await client.post("/v1/jobs", data={"url": "x"})).status_code == 415
    assert (await client.post("/v1/jobs", content=b"{" + b" " * (5 << 20))).status_code == 413
    bomb = gzip.compress(b" " * (50 << 20))
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    assert (await client.post("/v1/jobs", content=bomb, headers=headers)).status_code == 413
    answer = await client.post("/v1/jobs", content=b'{"url":', headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "column 8" in answer.json()["message"]


async def test_a_body_may_be_compressed(client, suite):
    """gzip is taken in and given out."""
    packed = gzip.compress(json.dumps({"url": "https://media.example/1"}).encode())
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    assert (await client.post("/v1/jobs", content=packed, headers=headers)).status_code == 200
    listed = await client.get("/v1/jobs", headers={"accept-encoding": "gzip"})
    assert listed.headers["content-encoding"] == "gzip"
    assert len(listed.json()["jobs"]) == 100
    plain = await client.get("/v1/jobs", headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in plain.headers


async def test_a_patch_says_what_it_changes(client):
    """Without update_mask the body's own fields are the mask, the path's and the etag left out."""
    body = {"labels": {"a": "b"}, "priority": "HIGH", "etag": '"3"'}
    answer = await client.patch("/v1/jobs/018f", json=body)
    assert answer.json()["labels"]["mask"] == "labels,priority"
    asked = await client.patch("/v1/jobs/018f?updateMask=labels", json={"labels": {}})
    assert asked.json()["labels"]["mask"] == "labels"


async def test_methods_that_are_not_served(client):
    """405 names the ones that are; a path that leads nowhere is no missing resource."""
    answer = await client.put("/v1/jobs", json={})
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"
    nowhere = (await client.get("/v1/nowhere")).json()
    assert nowhere["details"][0]["reason"] == "METHOD_UNSUPPORTED"
    assert nowhere["details"][0]["metadata"] == {"method": "GET /v1/nowhere"}
    assert (await client.options("/v1/jobs/018f")).headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"
    head = await client.head("/v1/jobs/018f")
    assert (head.status_code, head.content) == (200, b"")


async def test_what_is_not_built_yet_says_so(client):
    """An RPC without an implementation is 501 with its name."""
    answer = await client.post("/v1/jobs/018f:cancel", json={})
    assert answer.status_code == 501
    info = answer.json()["details"][0]
    assert info["reason"] == "METHOD_UNSUPPORTED"
    assert info["metadata"]["method"].endswith("JobService/CancelJob")


async def test_a_hung_up_client_cancels_the_call(suite):
    """Nobody works for a client that left."""
    _reader, writer = await asyncio.open_connection(*suite.address)
    writer.write(b"GET /v1/jobs/slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await suite.jobs.begun.wait()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        await suite.jobs.cancelled.wait()


async def test_a_deadline_ends_the_call(client, suite):
    """Grpc-Timeout is kept, here and at the service."""
    answer = await client.get("/v1/jobs/slow", headers={"grpc-timeout": "200m"})
    assert answer.status_code == 504
    assert answer.json()["details"][0]["reason"] == "REQUEST_TIMED_OUT"
    async with asyncio.timeout(5):
        await suite.jobs.cancelled.wait()
    assert (await client.get("/v1/jobs/slow", headers={"grpc-timeout": "soon"})).status_code == 400


async def test_nobody_outside_speaks_as_the_suite(client, suite):
    """The suite's own metadata is dropped, however it is smuggled; the caller's address is the real one."""
    headers = {
        "x-reelhaul-suite-token": "the suite's own",
        "grpc-metadata-x-reelhaul-suite-token": "the suite's own",
        "grpc-metadata-x-forwarded-for": "10.0.0.1",
        "x-forwarded-for": "10.0.0.1",
        "x-api-key": "rh_live_key",
        "grpc-metadata-color": "red",
    }
    await client.get("/v1/jobs/018f", headers=headers)
    metadata = suite.jobs.metadata[0]
    assert "x-reelhaul-suite-token" not in metadata
    assert metadata["x-forwarded-for"] == "127.0.0.1"
    assert metadata["x-api-key"] == "rh_live_key"
    assert metadata["color"] == "red"


async def test_every_answer_is_safe_and_traceable(client, suite, caplog):
    """Security headers, a request id that goes all the way, and a log line without the query."""
    with caplog.at_level(logging.INFO, "reelhaul_gateway.access"):
        answer = await client.get("/v1/jobs/018f?$.xgafv=secret", headers={"x-request-id": "abc-123"})
    assert answer.status_code == 400
    assert answer.headers["x-request-id"] == "abc-123"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    (line,) = caplog.records
    assert (line.path, line.status) == ("/v1/jobs/018f", 400)
    assert "secret" not in str(vars(line))
    await client.get("/v1/jobs/018f", headers={"x-request-id": "bad id\tof mine"})
    assert suite.jobs.metadata[-1]["x-request-id"] != "bad id\tof mine"


async def test_pages_of_others_cannot_use_the_gateway(client, suite):
    """Neither by a form, nor by a name of theirs that they point at us."""
    form = await client.post("/v1/jobs/018f:cancel", headers={"origin": "https://evil.example"})
    assert form.status_code == 400
    assert form.json()["details"][0]["metadata"] == {"field": "origin"}
    assert (await client.post("/v1/jobs", json={}, headers={"origin": suite.url})).status_code == 200
    rebound = await client.get("/v1/jobs/018f", headers={"host": "evil.example"})
    assert rebound.status_code == 400
    assert rebound.json()["details"][0]["metadata"] == {"field": "host"}
    assert (await client.get("/healthz", headers={"host": "localhost:8080"})).status_code == 200
