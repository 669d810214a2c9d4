"""Health of the suite: probes, /health and /health/detailed."""

from __future__ import annotations

import asyncio

from reelhaul.storage.v1.storage_service_pb2 import StorageStatus
from reelhaul.system.v1.system_service_pb2 import ServingStatus
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway.transcoding import SERVICES
from reelhaul_runtime.errors import ReelhaulError, Unavailable
from reelhaul_runtime.system import health
from reelhaul_runtime.system.health import Health, overall_status
from reelhaul_runtime.system.service import API_VERSIONS
from reelhaul_runtime.up.ports import find_free_port


class FakeHealthChecker:
    """Reports the ``statuses`` of components; services that are ``down`` do not answer."""

    def __init__(self) -> None:
        self.statuses: dict[str, ServingStatus.ValueType] = {
            component.health_name: health.SERVING for component in (*health.SERVICES, *health.DEPENDENCIES)
        }
        self.down: set[str] = set()

    async def check(self, owner: str, health_name: str) -> ServingStatus.ValueType:
        if owner in self.down:
            raise Unavailable(owner, f"{owner} does not answer")
        return self.statuses.get(health_name, health.UNKNOWN)


class FakeStorageProbe:
    """Raises ``failure`` if it is set."""

    def __init__(self) -> None:
        self.failure: ReelhaulError | None = None
        self.status: StorageStatus | None = None

    async def probe(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def get_status(self) -> StorageStatus:
        if self.status is None:
            raise Unavailable("storage", "storage does not answer")
        return self.status


async def _poll(client, path, status, text=""):
    """Return the first response of *path* with *status* that contains *text*."""
    async with asyncio.timeout(10):
        while True:
            response = await client.get(path)
            if response.status_code == status and text in response.text:
                return response
            await asyncio.sleep(0.05)


async def test_probes_accept_parameters_of_their_callers(client):
    """Load balancers add parameters of their own; elsewhere an unknown one is an error."""
    for path in ("/healthz", "/readyz", "/health", "/health/detailed"):
        assert (await client.get(f"{path}?probe=1&check[]=db")).status_code == 200, path
    assert (await client.get("/v1:describeServer?probe=1")).status_code == 400
    response = await client.post("/healthz")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert response.json()["details"][0]["reason"] == "METHOD_UNSUPPORTED"


async def test_probes_follow_the_services(client, harness):
    """/readyz follows the services that requests need, /healthz none, /health says what else is down."""
    await _poll(client, "/readyz", 200)
    assert (await client.get("/health")).json()["status"] == "SERVING_STATUS_SERVING"
    await harness.stacks["fetcher"].aclose()
    await _poll(client, "/health", 200, "SERVING_STATUS_DEGRADED")
    # Jobs are accepted and wait for a fetcher.
    ready = await _poll(client, "/readyz", 200, "NOT_SERVING")
    assert ready.json()["services"] == {"jobs": "SERVING", "storage": "SERVING", "fetcher": "NOT_SERVING"}
    await harness.stacks["jobs"].aclose()
    await _poll(client, "/readyz", 503)
    down = await _poll(client, "/health", 503)
    assert down.json()["details"][0]["metadata"] == {"service": "jobs"}
    assert "127.0.0.1" not in down.text
    assert (await client.get("/healthz")).json() == {"status": "SERVING"}
    assert (await client.post("/healthz")).status_code == 405


async def test_worker_that_does_not_answer_degrades_only(harness):
    """A gateway with a dead worker is ready; the report says how many workers answer."""
    alive, dead = harness.url.removeprefix("http://"), f"127.0.0.1:{find_free_port()}"
    for others, message, status in (
        ([alive], "2 of 2 workers answer", health.SERVING),
        ([alive, dead], "2 of 3 workers answer", health.NOT_SERVING),
    ):
        checks = Health(FakeHealthChecker(), FakeStorageProbe(), other_workers=others)
        assert await checks.is_ready()
        assert (checks.ready_workers, checks.wanted_workers) == (2, 1 + len(others))
        (result,) = [each for each in await checks.full_check() if each.name == "gateway.workers"]
        assert (result.message, result.status, result.critical) == (message, status, False)


async def test_detailed_health_probes_storage(client, harness):
    """Each component has its latency; the probe's artifact is written, read and deleted."""
    await _poll(client, "/readyz", 200)
    report = (await client.get("/health/detailed")).json()
    components = {component["component"]: component for component in report["components"]}
    assert report["status"] == "SERVING_STATUS_SERVING"
    assert components["nats"]["status"] == "SERVING_STATUS_SERVING"
    assert components["storage.write"]["status"] == "SERVING_STATUS_SERVING"
    assert components["storage.write"]["latency"].endswith("s")
    backend = components["storage.backend"]
    assert (backend["latency"], backend["freeBytes"], backend["totalBytes"]) == ("0.005s", "10", "20")
    assert len(harness.storage.deleted) == 1
    assert "status" not in components["fetcher.engine"], "its service does not report it"


async def test_detailed_health_is_ok_while_a_service_is_down(client, harness):
    """The HTTP status is 200; the body says what is down."""
    await harness.stacks["storage"].aclose()
    report = await client.get("/health/detailed")
    assert report.status_code == 200
    assert report.json()["status"] == "SERVING_STATUS_NOT_SERVING"


async def test_overall_status():
    """A critical component brings the suite down; one without which jobs are accepted degrades it."""
    checker, storage_probe = FakeHealthChecker(), FakeStorageProbe()
    suite = Health(checker, storage_probe)
    assert overall_status(await suite.full_check()) == health.SERVING
    checker.statuses["fetcher.engine"] = health.NOT_SERVING
    assert overall_status(await suite.full_check()) == health.DEGRADED
    storage_probe.failure = ReelhaulError(
        ErrorReason.ARTIFACT_CORRUPT, "other bytes", metadata={"resource": "x"}
    )
    results = await suite.full_check()
    assert overall_status(results) == health.NOT_SERVING
    assert results[-1].message == "other bytes"


async def test_damaged_bytes_degrade():
    """Damaged bytes are reported with what to do; the suite still serves everything else."""
    probe = FakeStorageProbe()
    suite = Health(FakeHealthChecker(), probe)
    probe.status = StorageStatus(backend="local", problem="the disk is full")
    results = {result.name: result for result in await suite.full_check()}
    assert results["storage.integrity"].status == health.SERVING
    assert results["storage.backend"].message == "the disk is full"
    assert results["storage.backend"].free_bytes is None
    probe.status = StorageStatus(backend="local", damaged_count=2)
    results = {result.name: result for result in await suite.full_check()}
    assert overall_status(results.values()) == health.DEGRADED
    assert "2 contents are damaged" in results["storage.integrity"].message


async def test_status_is_cached_for_half_a_second():
    """Many clients that poll at once cost one check."""
    checker, time = FakeHealthChecker(), [0.0]
    suite = Health(checker, FakeStorageProbe(), lambda: time[0])
    assert await suite.is_ready()
    checker.down.add("jobs")
    assert await suite.is_ready()
    time[0] = 0.6
    assert not await suite.is_ready()


async def test_describe_server(client):
    """Versions and limits, for clients that adapt to the server."""
    description = (await client.get("/v1:describeServer")).json()
    assert "reelhaul.jobs.v1" in description["apiVersions"]
    assert description["maxChunkBytes"] == 1 << 20
    assert "authenticationRequired" not in description


def test_described_packages():
    """DescribeServer lists the packages of all services that the gateway serves."""
    packages = {service.file.package for services in SERVICES.values() for service in services}
    assert sorted(packages) == list(API_VERSIONS)
