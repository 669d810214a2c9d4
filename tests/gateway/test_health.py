"""Whether the suite is well, asked of the gateway."""

from __future__ import annotations

import asyncio

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway import model
from reelhaul_gateway.health import Health
from reelhaul_gateway.memory import MemoryCanary, MemoryCheckup
from reelhaul_runtime.errors import ReelhaulError


async def _until(client, path, wanted):
    """The first answer of *path* with the status *wanted*; health is polled, as everyone does it."""
    async with asyncio.timeout(10):
        while (answer := await client.get(path)).status_code != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return answer


async def test_ready_while_all_services_are(client, suite):
    """/readyz turns with the services, /healthz does not, /health tells the critical from the others."""
    await _until(client, "/readyz", 200)
    assert (await client.get("/health")).json()["status"] == "SERVING_STATUS_SERVING"
    await suite.stacks["fetcher"].aclose()
    answer = await _until(client, "/readyz", 503)
    assert answer.json()["services"] == {"jobs": "SERVING", "storage": "SERVING", "fetcher": "NOT_SERVING"}
    assert (await client.get("/health")).json()["status"] == "SERVING_STATUS_DEGRADED"
    await suite.stacks["jobs"].aclose()
    down = await _until(client, "/health", 503)
    assert down.json()["details"][0]["metadata"] == {"service": "jobs"}
    assert "127.0.0.1" not in down.text
    assert (await client.get("/healthz")).json() == {"status": "SERVING"}
    assert (await client.post("/healthz")).status_code == 405


async def test_detailed_health_tries_storage_for_real(client, suite):
    """Each part with its latency; the canary's artifact is written, read and deleted."""
    await _until(client, "/readyz", 200)
    report = (await client.get("/health/detailed")).json()
    found = {part["component"]: part for part in report["components"]}
    assert report["status"] == "SERVING_STATUS_SERVING"
    assert found["nats"]["status"] == "SERVING_STATUS_SERVING"
    assert found["storage.write"]["status"] == "SERVING_STATUS_SERVING"
    assert found["storage.write"]["latency"].endswith("s")
    assert len(suite.storage.deleted) == 1
    assert "status" not in found["fetcher.engine"], "its service did not report it"


async def test_detailed_health_tells_what_is_down(client, suite):
    """It answers with OK also then."""
    await suite.stacks["storage"].aclose()
    report = await client.get("/health/detailed")
    assert report.status_code == 200
    assert report.json()["status"] == "SERVING_STATUS_NOT_SERVING"


async def test_a_critical_part_brings_the_suite_down():
    """One without which jobs are still taken only degrades it."""
    checkup, canary = MemoryCheckup(), MemoryCanary()
    health = Health(checkup, canary)
    assert model.verdict(await health.full_check()) == model.SERVING
    checkup.statuses["fetcher.engine"] = model.NOT_SERVING
    assert model.verdict(await health.full_check()) == model.DEGRADED
    canary.failure = ReelhaulError(ErrorReason.ARTIFACT_CORRUPT, "other bytes", metadata={"resource": "x"})
    findings = await health.full_check()
    assert model.verdict(findings) == model.NOT_SERVING
    assert findings[-1].message == "other bytes"


async def test_a_glance_is_remembered_for_a_moment():
    """Many who ask at once cost one check."""
    checkup, time = MemoryCheckup(), [0.0]
    health = Health(checkup, MemoryCanary(), lambda: time[0])
    assert await health.ready()
    checkup.away.add("jobs")
    assert await health.ready()
    time[0] = 0.6
    assert not await health.ready()


async def test_the_server_describes_itself(client):
    """Versions and limits, for clients that adapt."""
    described = (await client.get("/v1:describeServer")).json()
    assert "reelhaul.jobs.v1" in described["apiVersions"]
    assert described["maxChunkBytes"] == 1 << 20
    assert "authenticationRequired" not in described
