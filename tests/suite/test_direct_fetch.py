"""Fetches without a queue, by the fetcher's own RPCs, from a site into storage."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.sites.site import Site
from tests.suite.downloads import create_download, download, wait_for_end, wait_until_downloading
from tests.suite.resources import DownloadResources, stopped_storage
from tests.suite.suite import Suite, running_suite

from reelhaul.fetcher.v1 import fetcher_service_pb2 as pb
from reelhaul.fetcher.v1.fetch_pb2 import Fetch
from reelhaul.fetcher.v1.fetcher_service_pb2_grpc import FetcherServiceStub
from reelhaul.storage.v1 import storage_service_pb2
from reelhaul.storage.v1.storage_service_pb2_grpc import StorageServiceStub
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, Progress
from reelhaul_runtime.errors import ReelhaulError, from_status
from reelhaul_runtime.rpc.channels import error_from_rpc

_CANCEL_SECONDS = 2.0
_SLOW = "/watch/video?media.rate=400000"


@dataclass(frozen=True, slots=True)
class FetcherClient:
    """Calls the internal RPCs of fetcher and storage with the suite's token."""

    fetcher: FetcherServiceStub
    storage: StorageServiceStub
    health: health_pb2_grpc.HealthStub
    metadata: tuple[tuple[str, str], ...]

    def execute(self, url: str, request_id: str = "", height: int = 0) -> Iterator[pb.ExecuteFetchResponse]:
        """Yield the messages of a fetch of *url*; cancel the call if they are not all read."""
        fetch = Fetch(url=url, format=FormatSpec(max_height=height))
        request = pb.ExecuteFetchRequest(fetch=fetch, request_id=request_id)
        call = self.fetcher.ExecuteFetch(request, metadata=self.metadata, timeout=60)
        try:
            yield from call
        finally:
            call.cancel()

    def start(self, url: str, stage: Progress.Stage.ValueType, request_id: str = "") -> str:
        """Start a fetch of *url*, leave the call when it has reached *stage*, and return its name."""
        name = ""
        for message in self.execute(url, request_id):
            name = name or message.snapshot.name
            if stage in (message.progress.stage, message.snapshot.progress.stage):
                break
        return name

    def wait_for_end(self, name: str) -> Fetch:
        """Watch the fetch *name* and return its last snapshot."""
        request = pb.WatchFetchRequest(name=name)
        *_, last = self.fetcher.WatchFetch(request, metadata=self.metadata, timeout=60)
        return last.snapshot

    def cancel(self, name: str) -> Fetch:
        """Cancel the fetch *name*."""
        request = pb.CancelFetchRequest(name=name)
        return self.fetcher.CancelFetch(request, metadata=self.metadata, timeout=10)

    def list_fetches(self) -> list[Fetch]:
        """Return all fetches of the fetcher."""
        return [*self.fetcher.ListFetches(pb.ListFetchesRequest(), metadata=self.metadata).fetches]

    def drain(self, grace: float) -> list[int]:
        """Drain the fetcher with *grace* seconds; return the reported numbers of active fetches."""
        request = pb.DrainFetcherRequest()
        request.grace.FromTimedelta(timedelta(seconds=grace))
        responses = self.fetcher.DrainFetcher(request, metadata=self.metadata, timeout=60)
        return [response.active_count for response in responses]

    def accepts_work(self) -> bool:
        """Return whether the fetcher's health says that it accepts work."""
        request = health_pb2.HealthCheckRequest(service="fetcher.work")
        response = self.health.Check(request, timeout=5)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def fetcher_client(suite: Suite) -> Iterator[FetcherClient]:
    """Connect to the fetcher and to storage with the suite's token."""
    token = (suite.data_dir / "run" / "suite-token").read_text().strip()
    with suite.channel("fetcher") as fetcher, suite.channel("storage") as storage:
        yield FetcherClient(
            FetcherServiceStub(fetcher),
            StorageServiceStub(storage),
            health_pb2_grpc.HealthStub(fetcher),
            (("x-reelhaul-suite-token", token),),
        )


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with two slots and a short drain, whose fetcher uploads files to storage."""
    folder = tmp_path_factory.mktemp("fetches")
    with running_suite(
        folder / "data",
        fetcher_slots="2",
        fetcher_direct_fetches_per_tenant="2",
        storage_adopt_dir=str(folder / "nowhere"),
        drain_seconds="1",
    ) as suite:
        yield suite


@pytest.fixture
def client(suite: Suite) -> Iterator[FetcherClient]:
    """A client of its internal RPCs."""
    with fetcher_client(suite) as client:
        yield client


def refusal(call: Iterator[object]) -> ReelhaulError:
    """Return the error with which *call* is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        next(iter(call))
    return error_from_rpc(refused.value, "fetcher")


def test_from_site_into_storage(suite: Suite, client: FetcherClient, site: Site) -> None:
    """A fetched file is in storage with the site's bytes, belongs to no job and expires within a day."""
    messages = list(client.execute(site.url("/watch/demo"), height=360))
    percents = [message.progress.percent for message in messages[1:-1]]
    assert percents == sorted(percents)
    last = messages[-1].snapshot
    assert (last.state, last.tenant, last.got.height) == (Fetch.SUCCEEDED, "local", 360)
    stored = last.artifacts[0]
    assert stored.checksums.sha256.hex() == site.digest("/media/360.mp4")
    request = storage_service_pb2.ReadArtifactRequest(name=stored.name)
    responses = list(client.storage.ReadArtifact(request, metadata=client.metadata, timeout=30))
    assert sum(len(response.content) for response in responses) == stored.size_bytes
    artifact = responses[0].artifact
    assert (artifact.job, artifact.epoch, artifact.tenant) == ("", 0, "local")
    retention = artifact.expire_time.seconds - artifact.create_time.seconds
    assert timedelta(hours=1).total_seconds() < retention < timedelta(days=1).total_seconds()
    # The jobs service has no job for it.
    assert not suite.http.get("/v1/jobs").json().get("jobs")


def test_repeated_request_id(client: FetcherClient, site: Site) -> None:
    """A fetch goes on when its caller has gone; the same request_id joins it until its end."""
    request_id, url = str(uuid.uuid4()), site.url("/watch/demo?media.rate=2000000")
    name = client.start(url, Progress.DOWNLOADING, request_id)
    messages = list(client.execute(url, request_id))
    assert {message.snapshot.name for message in (messages[0], messages[-1])} == {name}
    assert messages[-1].snapshot.state == Fetch.SUCCEEDED
    assert messages[-1].snapshot == client.wait_for_end(name)


@pytest.mark.parametrize(
    ("path", "stage"),
    [(_SLOW, Progress.DOWNLOADING), ("/media/720.mp4", Progress.UPLOADING)],
    ids=["downloading", "uploading"],
)
def test_cancel(
    suite: Suite, client: FetcherClient, site: Site, path: str, stage: Progress.Stage.ValueType
) -> None:
    """A cancelled fetch leaves no process, socket or file after two seconds, and nothing in storage."""
    resources = DownloadResources(suite, site)
    assert not resources.all()
    with stopped_storage(suite) if stage == Progress.UPLOADING else nullcontext():
        name = client.start(site.url(path), stage)
        assert resources.all()
        begin = time.monotonic()
        fetch = client.cancel(name)
        elapsed = time.monotonic() - begin
        assert not resources.processes()
        assert not resources.sockets()
        assert not list((suite.data_dir / "work").rglob("*"))
    assert fetch.state == Fetch.CANCELLED
    assert elapsed < _CANCEL_SECONDS
    suite.wait_for("release of all resources", lambda: not resources.all())


def test_failed_fetch(client: FetcherClient, site: Site) -> None:
    """The last snapshot of a failed fetch has the reason of the site or of the guard."""
    for url, reason in [
        (site.url("/watch/nothing"), "SITE_UNSUPPORTED"),
        ("http://127.0.0.3/video.mp4", "URL_FORBIDDEN"),
    ]:
        *_, last = client.execute(url)
        assert last.snapshot.state == Fetch.FAILED
        assert ErrorReason.Name(from_status(last.snapshot.error).reason) == reason


def test_overload(suite: Suite, client: FetcherClient, site: Site) -> None:
    """Without a free slot a fetch is refused and a job waits; fetches of jobs are listed too."""
    names = [client.start(site.url(_SLOW), Progress.DOWNLOADING) for _ in range(2)]
    error = refusal(client.execute(site.url("/watch/demo")))
    assert error.retry_delay == timedelta(seconds=1)
    job = create_download(suite, site.url("/watch/demo?media.rate=1000000"), quality="360p")
    client.cancel(names[0])
    assert "completed" in wait_for_end(suite, job)
    (fetch_of_job,) = (
        fetch.name for fetch in client.list_fetches() if fetch.attempt.startswith(f"jobs/{job}/")
    )
    assert client.wait_for_end(fetch_of_job).state == Fetch.SUCCEEDED
    assert client.cancel(names[1]).state == Fetch.CANCELLED


def test_sigterm(suite: Suite, client: FetcherClient, site: Site) -> None:
    """When the fetcher gets SIGTERM, a watched fetch ends as FAILED with the retryable reason OVERLOADED."""
    name = client.start(site.url(_SLOW), Progress.DOWNLOADING)
    pid = suite.pid("fetcher")
    request = pb.WatchFetchRequest(name=name)
    watch = client.fetcher.WatchFetch(request, metadata=client.metadata, timeout=60)
    assert next(watch).snapshot.state == Fetch.RUNNING
    os.kill(pid, signal.SIGTERM)
    *_, message = watch
    last = message.snapshot
    assert (last.state, from_status(last.error).reason) == (Fetch.FAILED, ErrorReason.OVERLOADED)
    suite.wait_for_restart("fetcher", pid)
    suite.wait_until_ready()


def test_drain(suite: Suite, client: FetcherClient, site: Site) -> None:
    """A drained fetcher refuses work until its restart; its job is queued again and then succeeds."""
    job = create_download(suite, site.url("/media/1080.mp4?rate=300000"))
    wait_until_downloading(suite, job, 10_000)
    name = client.start(site.url(_SLOW), Progress.DOWNLOADING)
    assert client.accepts_work()
    counts = client.drain(grace=0.5)
    assert (counts[0], counts[-1]) == (2, 0)
    last = client.wait_for_end(name)
    assert (last.state, from_status(last.error).reason) == (Fetch.FAILED, ErrorReason.OVERLOADED)
    assert refusal(client.execute(site.url("/watch/demo"))).retry_delay
    suite.wait_for("health of the drained fetcher", lambda: not client.accepts_work())
    assert suite.http.get("/api/v1/info", params={"url": site.url("/watch/demo")}).status_code == 200
    assert suite.http.get(f"/api/v1/status/{job}").json()["status"] == "QUEUED"
    suite.wait_for_restart("fetcher", suite.kill("fetcher"))
    assert "completed" in wait_for_end(suite, job)
    suite.wait_until_ready()
    assert download(suite, site.url("/watch/demo"), quality="360p")
