"""Unary requests over real sockets, through the gateway to a real gRPC server."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import uuid
from pathlib import Path

from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError, error_spec


async def test_job_as_json(client):
    """Names in lowerCamelCase, whole doubles without a fraction, 64-bit integers as strings."""
    response = await client.get("/v1/jobs/018f")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert '"percent":50,' in response.text
    assert response.json() == {
        "name": "jobs/018f",
        "url": "https://media.example/watch?v=1",
        "state": "RUNNING",
        "progress": {"percent": 50, "downloadedBytes": "8589934592"},
        "createTime": "2023-11-14T22:13:20Z",
    }


async def test_json_for_a_terminal_ends_with_a_newline(client):
    """Programs that print responses get a newline after JSON, errors included; streams and others do not."""
    for agent, end in (("curl/8.5.0", "}\n"), ("HTTPie/3.2", "}\n"), ("python-httpx/0.28", "}")):
        headers = {"User-Agent": agent}
        for path in ("/v1/jobs/018f", "/v1/jobs/missing"):
            response = await client.get(path, headers=headers)
            assert response.text.endswith(end)
            assert response.headers["content-length"] == str(len(response.content))
        watched = await client.get("/v1/jobs/018f:watch", headers={**headers, "Accept": "text/event-stream"})
        assert not watched.text.endswith("}\n")


async def test_service_errors_keep_status_and_reason(client):
    """The body is the service's google.rpc.Status, ErrorInfo first."""
    response = await client.get("/v1/jobs/missing")
    assert response.status_code == 404
    assert response.json()["code"] == 5
    info = response.json()["details"][0]
    assert info["reason"] == "RESOURCE_NOT_FOUND"
    assert info["metadata"] == {"resource": "jobs/missing"}


async def test_body_and_idempotency_key(client, harness):
    """The body is the job, and Idempotency-Key the request_id."""
    key = "0d9c2b1e-6a0d-4b0e-9d38-0e4a4c1f3a55"
    job = {"url": "https://media.example/1", "labels": {"team": "red"}}
    response = await client.post("/v1/jobs", json=job, headers={"Idempotency-Key": key})
    assert response.status_code == 200
    assert harness.jobs.create_requests[0].request_id == key
    assert harness.jobs.create_requests[0].job.labels["team"] == "red"


async def test_any_string_is_an_idempotency_key(client, harness):
    """As in other APIs, up to 255 characters; the same string is the same request_id, another is another."""
    for key in ("order 17", "order 17", "Order 17", "k" * 255):
        response = await client.post("/v1/jobs", json={}, headers={"Idempotency-Key": key})
        assert response.status_code == 200, response.text
    first, repeated, *others = [str(uuid.UUID(r.request_id)) for r in harness.jobs.create_requests]
    assert first == repeated == "50d1f704-8239-54ec-94b9-a6978d83cdd4"
    assert len({first, *others}) == 3
    response = await client.post("/v1/jobs", json={}, headers={"Idempotency-Key": "k" * 256})
    assert response.status_code == 400
    assert response.json()["message"] == "idempotency-key: must have at most 255 characters, not 256"
    assert len(harness.jobs.create_requests) == 4


async def test_enum_values_in_lower_case(client, harness):
    """As in the command line; another word is an error that lists the valid ones."""
    response = await client.post("/v1/jobs", json={"priority": "high"})
    assert response.status_code == 200
    assert harness.jobs.create_requests[0].job.priority == Job.HIGH
    response = await client.post("/v1/jobs", json={"priority": "higher"})
    assert response.status_code == 400
    assert response.json()["message"].endswith("must be one of PRIORITY_UNSPECIFIED, LOW, NORMAL, HIGH")


async def test_conflicting_idempotency_key_is_rejected(client, harness):
    """A request must not have two different request IDs."""
    response = await client.post("/v1/jobs?requestId=one", json={}, headers={"Idempotency-Key": "two"})
    assert response.status_code == 400
    assert not harness.jobs.create_requests


async def test_unknown_field_is_rejected(client, harness):
    """The error names a misspelled field."""
    response = await client.post("/v1/jobs", json={"url": "https://media.example/1", "labls": {}})
    assert response.status_code == 400
    info, bad_request = response.json()["details"]
    assert (info["reason"], info["domain"], info["metadata"]) == (
        "FIELD_INVALID",
        "reelhaul.dev",
        {"field": "job.labls"},
    )
    assert bad_request["fieldViolations"][0]["field"] == "job.labls"
    assert not harness.jobs.create_requests


async def test_unsupported_and_oversized_bodies_are_rejected(client):
    """Forms, bodies over the limit, gzip that inflates beyond it, and invalid JSON."""
    assert (await client.post("/v1/jobs", data={"url": "x"})).status_code == 415
    assert (await client.post("/v1/jobs", content=b"{" + b" " * (5 << 20))).status_code == 413
    bomb = gzip.compress(b" " * (50 << 20))
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    assert (await client.post("/v1/jobs", content=bomb, headers=headers)).status_code == 413
    response = await client.post("/v1/jobs", content=b'{"url":', headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "column 8" in response.json()["message"]


async def test_gzip(client):
    """Request bodies may be gzip, and responses are if the client accepts it."""
    body = gzip.compress(json.dumps({"url": "https://media.example/1"}).encode())
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    assert (await client.post("/v1/jobs", content=body, headers=headers)).status_code == 200
    compressed = await client.get("/v1/jobs", headers={"accept-encoding": "gzip"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert len(compressed.json()["jobs"]) == 100
    plain = await client.get("/v1/jobs", headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in plain.headers


async def test_update_mask_is_inferred(client):
    """A PATCH without update_mask gets one of its body's fields, except the path's and the etag."""
    body = {"labels": {"a": "b"}, "priority": "HIGH", "etag": '"3"'}
    inferred = await client.patch("/v1/jobs/018f", json=body)
    assert inferred.json()["labels"]["mask"] == "labels,priority"
    explicit = await client.patch("/v1/jobs/018f?updateMask=labels", json={"labels": {}})
    assert explicit.json()["labels"]["mask"] == "labels"


async def test_unknown_methods_and_paths(client):
    """405 lists the allowed methods; an unknown path differs from a missing resource."""
    response = await client.put("/v1/jobs", json={})
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, POST"
    unknown = (await client.get("/v1/nowhere")).json()
    assert unknown["details"][0]["reason"] == "ROUTE_UNKNOWN"
    assert unknown["details"][0]["metadata"] == {"path": "/v1/nowhere"}
    assert (await client.options("/v1/jobs/018f")).headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"
    head = await client.head("/v1/jobs/018f")
    assert (head.status_code, head.content) == (200, b"")


async def test_failure_of_a_site_is_no_server_error(client, harness):
    """An alert on 5xx means this server: a site's trouble is 424, an egress or extractor at fault 502."""
    expected = {
        "UPSTREAM_THROTTLED": 424,
        "UPSTREAM_BLOCKED": 424,
        "UPSTREAM_STALLED": 424,
        "UPSTREAM_UNAVAILABLE": 424,
        "DESTINATION_UNAVAILABLE": 424,
        "EXTRACTOR_FAILED": 502,
        "MEDIA_NOT_FOUND": 404,
        "MEDIA_GEO_BLOCKED": 400,
        "SERVICE_UNAVAILABLE": 503,
        "STORAGE_UNAVAILABLE": 503,
        "POSTPROCESSING_FAILED": 500,
    }
    for reason in expected:
        harness.jobs.failures[f"jobs/{reason}"] = ReelhaulError(ErrorReason.Value(reason), "broken")
    responses = {reason: await client.get(f"/v1/jobs/{reason}") for reason in expected}
    assert {reason: response.status_code for reason, response in responses.items()} == expected
    # gRPC callers, and clients that read the body, see the code as before.
    assert responses["UPSTREAM_BLOCKED"].json()["code"] == 14
    harness.jobs.failures["jobs/egress"] = ReelhaulError(
        ErrorReason.UPSTREAM_UNAVAILABLE, "the egress is down", metadata={"cause": "egress"}
    )
    assert (await client.get("/v1/jobs/egress")).status_code == 502


def test_documented_statuses_are_those_of_the_reasons():
    """docs/gateway.md has a row for every reason whose HTTP status is not that of its code."""
    text = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
    documented = {
        (reason, int(status))
        for reasons, status in re.findall(r"^\| ([^|]+) \| (424|502) \|", text, re.MULTILINE)
        for reason in re.findall(r"`([A-Z_]+)`", reasons)
    }
    specs = {(name, error_spec(number).http_status) for name, number in ErrorReason.items() if number}
    assert {spec for spec in specs if spec[1]} | {("UPSTREAM_UNAVAILABLE", 502)} == documented


async def test_unimplemented_rpc(client):
    """501 with the name of the RPC."""
    response = await client.post("/v1/jobs/018f:cancel", json={})
    assert response.status_code == 501
    info = response.json()["details"][0]
    assert info["reason"] == "METHOD_UNSUPPORTED"
    assert info["metadata"]["method"].endswith("JobService/CancelJob")


async def test_disconnect_cancels_the_call(harness):
    """The service stops working for a client that disconnected."""
    _reader, writer = await asyncio.open_connection(*harness.address)
    writer.write(b"GET /v1/jobs/slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await harness.jobs.started.wait()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        await harness.jobs.cancelled.wait()


async def test_deadline(client, harness):
    """Grpc-Timeout applies in the gateway and in the service."""
    response = await client.get("/v1/jobs/slow", headers={"grpc-timeout": "200m"})
    assert response.status_code == 504
    assert response.json()["details"][0]["reason"] == "REQUEST_TIMED_OUT"
    async with asyncio.timeout(5):
        await harness.jobs.cancelled.wait()
    assert (await client.get("/v1/jobs/slow", headers={"grpc-timeout": "soon"})).status_code == 400


async def test_internal_metadata_cannot_be_set(client, harness):
    """The suite's own metadata is dropped in every form; X-Forwarded-For is the real peer."""
    headers = {
        "x-reelhaul-suite-token": "the suite's own",
        "grpc-metadata-x-reelhaul-suite-token": "the suite's own",
        "grpc-metadata-x-forwarded-for": "10.0.0.1",
        "x-forwarded-for": "10.0.0.1",
        "x-api-key": "rh_live_key",
        "grpc-metadata-color": "red",
    }
    await client.get("/v1/jobs/018f", headers=headers)
    metadata = harness.jobs.metadata[0]
    assert "x-reelhaul-suite-token" not in metadata
    assert metadata["x-forwarded-for"] == "127.0.0.1"
    assert metadata["x-api-key"] == "rh_live_key"
    assert metadata["color"] == "red"


async def test_security_headers_request_id_and_access_log(client, harness, caplog):
    """Every response has them; the request ID reaches the service; the log line omits the query."""
    with caplog.at_level(logging.INFO, "reelhaul_gateway.access"):
        response = await client.get("/v1/jobs/018f?$.xgafv=secret", headers={"x-request-id": "abc-123"})
    assert response.status_code == 400
    assert response.headers["x-request-id"] == "abc-123"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["cross-origin-opener-policy"] == "same-origin"
    assert response.headers["permissions-policy"] == "camera=(), geolocation=(), microphone=()"
    assert "strict-transport-security" not in response.headers
    (record,) = caplog.records
    assert (record.path, record.status) == ("/v1/jobs/018f", 400)
    assert "secret" not in str(vars(record))
    await client.get("/v1/jobs/018f", headers={"x-request-id": "bad id\tof mine"})
    assert harness.jobs.metadata[-1]["x-request-id"] != "bad id\tof mine"


async def test_long_paths_are_logged_in_part(client, caplog):
    """A line of the access log has at most 512 characters of the path."""
    with caplog.at_level(logging.INFO, "reelhaul_gateway.access"):
        for path in ("/v1/jobs/" + "a" * 500, "/v1/jobs/" + "a" * 5000):
            await client.get(path)
    whole, cut = (record.path for record in caplog.records)
    assert whole == "/v1/jobs/" + "a" * 500
    assert cut == "/v1/jobs/" + "a" * 503 + "…"


async def test_other_origins_are_rejected(client, harness):
    """Neither a cross-origin form nor a rebound host name reaches the services."""
    form = await client.post("/v1/jobs/018f:cancel", headers={"origin": "https://evil.example"})
    assert form.status_code == 400
    assert form.json()["details"][0]["metadata"] == {"field": "origin"}
    assert (await client.post("/v1/jobs", json={}, headers={"origin": harness.url})).status_code == 200
    rebound = await client.get("/v1/jobs/018f", headers={"host": "evil.example"})
    assert rebound.status_code == 400
    assert rebound.json()["details"][0]["metadata"] == {"field": "host"}
    assert (await client.get("/healthz", headers={"host": "localhost:8080"})).status_code == 200
