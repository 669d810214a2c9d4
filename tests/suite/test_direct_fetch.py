"""Fetches without a queue in the whole suite: by the fetcher's own RPCs, from a real site into storage."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.sites.site import Site
from tests.suite.downloads import create_download, download, wait_for_end, wait_until_downloading
from tests.suite.resources import DownloadResources
from tests.suite.suite import Suite, running_suite
from tests.suite.test_cancel_and_stall import deaf_storage

from reelhaul.fetcher.v1 import fetcher_service_pb2 as pb
from reelhaul.fetcher.v1.fetch_pb2 import Fetch
from reelhaul.fetcher.v1.fetcher_service_pb2_grpc import FetcherServiceStub
from reelhaul.storage.v1 import storage_service_pb2
from reelhaul.storage.v1.storage_service_pb2_grpc import StorageServiceStub
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, Progress
from reelhaul_runtime.errors import ReelhaulError, from_status
from reelhaul_runtime.rpc.channels import error_from_rpc

_STOPPED_WITHIN = 2.0
_SLOW = "/watch/video?media.rate=400000"
_SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass(frozen=True, slots=True)
class Inside:
    """The suite as one of its own services sees it."""

    fetcher: FetcherServiceStub
    storage: StorageServiceStub
    health: health_pb2_grpc.HealthStub
    token: tuple[tuple[str, str], ...]

    def execute(self, url: str, request_id: str = "", height: int = 0) -> Iterator[pb.ExecuteFetchResponse]:
        """The messages of a fetch of *url*; the caller hangs up where it reads no further."""
        fetch = Fetch(url=url, format=FormatSpec(max_height=height))
        request = pb.ExecuteFetchRequest(fetch=fetch, request_id=request_id)
        call = self.fetcher.ExecuteFetch(request, metadata=self.token, timeout=60)
        try:
            yield from call
        finally:
            call.cancel()

    def begun(self, url: str, stage: Progress.Stage.ValueType, request_id: str = "") -> str:
        """The name of a fetch of *url* that has come to *stage*, and whose caller hung up."""
        name = ""
        for message in self.execute(url, request_id):
            name = name or message.snapshot.name
            if stage in (message.progress.stage, message.snapshot.progress.stage):
                break
        return name

    def watched(self, name: str) -> Fetch:
        """The end of the fetch *name*."""
        request = pb.WatchFetchRequest(name=name)
        *_, last = self.fetcher.WatchFetch(request, metadata=self.token, timeout=60)
        return last.snapshot

    def cancel(self, name: str) -> Fetch:
        """CancelFetch's answer."""
        return self.fetcher.CancelFetch(pb.CancelFetchRequest(name=name), metadata=self.token, timeout=10)

    def listed(self) -> list[Fetch]:
        """All fetches that the worker knows."""
        return list(self.fetcher.ListFetches(pb.ListFetchesRequest(), metadata=self.token).fetches)

    def drain(self, grace: float) -> list[int]:
        """What DrainFetcher tells is left, until nothing is."""
        request = pb.DrainFetcherRequest()
        request.grace.FromTimedelta(timedelta(seconds=grace))
        counts = self.fetcher.DrainFetcher(request, metadata=self.token, timeout=60)
        return [message.active_count for message in counts]

    def works(self) -> bool:
        """Whether the fetcher says of itself that it takes work."""
        asked = health_pb2.HealthCheckRequest(service="fetcher.work")
        return bool(self.health.Check(asked, timeout=5).status == _SERVING)


@contextmanager
def inside(suite: Suite) -> Iterator[Inside]:
    """Calls of the suite's own, with its own credential."""
    token = (suite.data_dir / "run" / "suite-token").read_text().strip()
    with suite.channel("fetcher") as fetcher, suite.channel("storage") as storage:
        yield Inside(
            FetcherServiceStub(fetcher),
            StorageServiceStub(storage),
            health_pb2_grpc.HealthStub(fetcher),
            (("x-reelhaul-suite-token", token),),
        )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with two slots, whose files are sent to storage, and which leaves soon when it is to."""
    place = tmp_path_factory.mktemp("small")
    with running_suite(
        place / "data", fetcher_slots="2", storage_adopt_dir=str(place / "nowhere"), drain_seconds="1"
    ) as suite:
        yield suite


@pytest.fixture
def ours(small: Suite) -> Iterator[Inside]:
    """Its RPCs."""
    with inside(small) as ours:
        yield ours


def refusal(call: Iterator[object]) -> ReelhaulError:
    """Why *call* is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        next(iter(call))
    return error_from_rpc(refused.value, "fetcher")


def test_from_the_site_into_storage(small: Suite, ours: Inside, site: Site) -> None:
    """What was fetched can be read from storage, is what the site has, of no job, and kept for a while."""
    messages = list(ours.execute(site.url("/watch/demo"), height=360))
    percents = [message.progress.percent for message in messages[1:-1]]
    assert percents == sorted(percents)
    last = messages[-1].snapshot
    assert (last.state, last.tenant, last.got.height) == (Fetch.SUCCEEDED, "local", 360)
    stored = last.artifacts[0]
    assert stored.checksums.sha256.hex() == site.digest("/media/360.mp4")
    request = storage_service_pb2.ReadArtifactRequest(name=stored.name)
    read = list(ours.storage.ReadArtifact(request, metadata=ours.token, timeout=30))
    assert sum(len(message.content) for message in read) == stored.size_bytes
    artifact = read[0].artifact
    assert (artifact.job, artifact.epoch, artifact.tenant) == ("", 0, "local")
    kept = artifact.expire_time.seconds - artifact.create_time.seconds
    assert timedelta(hours=1).total_seconds() < kept < timedelta(days=1).total_seconds()
    # Jobs know nothing of it.
    assert not small.http.get("/v1/jobs").json().get("jobs")


def test_hanging_up_and_asking_again(ours: Inside, site: Site) -> None:
    """Its caller gone, a fetch goes on; asked for again by its id it is joined, to its end."""
    request_id, url = str(uuid.uuid4()), site.url("/watch/demo?media.rate=2000000")
    name = ours.begun(url, Progress.DOWNLOADING, request_id)
    messages = list(ours.execute(url, request_id))
    assert {message.snapshot.name for message in (messages[0], messages[-1])} == {name}
    assert messages[-1].snapshot.state == Fetch.SUCCEEDED
    assert messages[-1].snapshot == ours.watched(name)


@pytest.mark.parametrize(
    ("path", "stage"),
    [(_SLOW, Progress.DOWNLOADING), ("/media/720.mp4", Progress.UPLOADING)],
    ids=["downloading", "uploading"],
)
def test_cancel(small: Suite, ours: Inside, site: Site, path: str, stage: Progress.Stage.ValueType) -> None:
    """Cancelled, it is gone from the world within two seconds: processes, sockets, files, what was stored."""
    traces = DownloadResources(small, site)
    assert not traces.all()
    with deaf_storage(small) if stage == Progress.UPLOADING else inside(small):
        name = ours.begun(site.url(path), stage)
        assert traces.all()
        began = time.monotonic()
        fetch = ours.cancel(name)
        took = time.monotonic() - began
        assert not traces.processes()
        assert not traces.sockets()
        assert not list((small.data_dir / "work").rglob("*"))
    assert fetch.state == Fetch.CANCELLED
    assert took < _STOPPED_WITHIN
    small.wait_for("end of all traces", lambda: not traces.all())


def test_what_a_site_says(ours: Inside, site: Site) -> None:
    """A site's refusal ends the stream well and says why; so does the guard's."""
    for url, reason in [
        (site.url("/watch/nothing"), "SITE_UNSUPPORTED"),
        ("http://127.0.0.3/video.mp4", "URL_FORBIDDEN"),
    ]:
        *_, last = ours.execute(url)
        assert last.snapshot.state == Fetch.FAILED
        assert ErrorReason.Name(from_status(last.snapshot.error).reason) == reason


def test_overload(small: Suite, ours: Inside, site: Site) -> None:
    """All slots taken, the next is refused, and a job waits; jobs' fetches are shown among the others."""
    names = [ours.begun(site.url(_SLOW), Progress.DOWNLOADING) for _ in range(2)]
    failure = refusal(ours.execute(site.url("/watch/demo")))
    assert failure.retry_delay == timedelta(seconds=1)
    job = create_download(small, site.url("/watch/demo?media.rate=1000000"), quality="360p")
    ours.cancel(names[0])
    assert "completed" in wait_for_end(small, job)
    (shown,) = (fetch.name for fetch in ours.listed() if fetch.attempt.startswith(f"jobs/{job}/"))
    assert ours.watched(shown).state == Fetch.SUCCEEDED
    assert ours.cancel(names[1]).state == Fetch.CANCELLED


def test_the_fetcher_leaves(small: Suite, ours: Inside, site: Site) -> None:
    """Who watches a fetch when its fetcher is told to leave hears the end of it, and that another may do."""
    name = ours.begun(site.url(_SLOW), Progress.DOWNLOADING)
    leaving = small.pid("fetcher")
    watch = ours.fetcher.WatchFetch(pb.WatchFetchRequest(name=name), metadata=ours.token, timeout=60)
    assert next(watch).snapshot.state == Fetch.RUNNING
    os.kill(leaving, signal.SIGTERM)
    *_, message = watch
    last = message.snapshot
    assert (last.state, from_status(last.error).reason) == (Fetch.FAILED, ErrorReason.OVERLOADED)
    small.wait_for_restart("fetcher", leaving)
    small.wait_until_ready()


def test_drain(small: Suite, ours: Inside, site: Site) -> None:
    """Drained, a fetcher takes nothing and stays; what it had goes back, and is done once it is new."""
    job = create_download(small, site.url("/media/1080.mp4?rate=1000000"))
    wait_until_downloading(small, job, 10_000)
    name = ours.begun(site.url(_SLOW), Progress.DOWNLOADING)
    assert ours.works()
    counts = ours.drain(grace=0.5)
    assert (counts[0], counts[-1]) == (2, 0)
    last = ours.watched(name)
    assert (last.state, from_status(last.error).reason) == (Fetch.FAILED, ErrorReason.OVERLOADED)
    assert refusal(ours.execute(site.url("/watch/demo"))).retry_delay
    small.wait_for("word of it", lambda: not ours.works())
    assert small.http.get("/api/v1/info", params={"url": site.url("/watch/demo")}).status_code == 200
    assert small.http.get(f"/api/v1/status/{job}").json()["status"] == "QUEUED"
    small.wait_for_restart("fetcher", small.kill("fetcher"))
    assert "completed" in wait_for_end(small, job)
    small.wait_until_ready()
    assert download(small, site.url("/watch/demo"), quality="360p")
