"""The gRPC client against the jobs service, over a network that breaks."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing

import pytest
from tests.jobs.conftest import TIMEOUT, eventually, run_service
from tests.jobs.fake_worker import run_worker
from tests.relay import cut_every, run_relay
from tests.servers import free_port

from reelhaul.client import AsyncClient, Conflict, Download, JobFailed, NotFound, RequestInvalid, Unavailable
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import ListJobsRequest
from reelhaul.work.v1.lease_service_pb2 import FinishRequest

URL = "https://videos.example/watch?v=1"
UNKNOWN = "01890000-0000-7000-8000-000000000000"
MIN_INTERVAL = 0.05

# Longer with TEST_CUTTING_SECONDS=30.
CUTTING_SECONDS = float(os.environ.get("TEST_CUTTING_SECONDS", "8"))


@pytest.fixture
async def client(service):
    async with AsyncClient(f"127.0.0.1:{service.port}") as opened:
        yield opened


def states(events) -> list[tuple[int, int]]:
    return [(e.message.state.status, e.message.state.attempts) for e in events if e.kind == "state"]


async def collect(stream) -> list:
    return [event async for event in stream if event.kind != "reconnecting"]


async def test_watch_through_disconnects(service, client):
    """Cut off every second, a watch still delivers each state once and in order."""
    job = await client.create(URL)
    end = time.monotonic() + CUTTING_SECONDS

    async def handle(held_job):
        # Many states and much progress: the job is handed back again and again.
        for percent in range(15):
            await held_job.progress(percent)
            await asyncio.sleep(0.02)
        if time.monotonic() < end:
            await held_job.finish(released=FinishRequest.Released(reason=FinishRequest.Released.DRAIN))
        else:
            await held_job.succeed()

    async with run_relay(service.port) as relay, AsyncClient(f"127.0.0.1:{relay.port}") as remote:
        direct = asyncio.create_task(collect(client.watch(job.job_id, min_interval=MIN_INTERVAL)))
        through_relay = asyncio.create_task(collect(remote.watch(job.job_id, min_interval=MIN_INTERVAL)))
        async with run_worker(service, handle), cut_every(1.0, relay), asyncio.timeout(CUTTING_SECONDS + 30):
            events = await through_relay
            expected = await direct
    assert relay.cuts >= CUTTING_SECONDS / 2
    assert states(events) == states(expected)
    assert len(states(expected)) > CUTTING_SECONDS / 2
    assert [event.kind for event in events].count("snapshot") == 1
    assert (events[0].kind, events[-1].kind) == ("snapshot", "completed")


async def test_watch_through_server_restart(settings):
    """A server that drains and restarts is one more disconnect: no state is missed."""
    fixed = settings.model_copy(update={"jobs_address": f"127.0.0.1:{free_port()}"})
    async with AsyncClient(fixed.jobs_address, retry_timeout=TIMEOUT) as client:
        async with run_service(fixed):
            job = await client.create(URL)
            stream = client.watch(job.job_id)
            assert (await anext(stream)).kind == "snapshot"
            rest = asyncio.create_task(collect(stream))
            watching_all = asyncio.create_task(_watch_until(client.watch_all(), Job.CANCELLED))
            await asyncio.sleep(0.2)
        async with run_service(fixed), asyncio.timeout(TIMEOUT):
            await client.cancel(job.job_id)
            events = await rest
            await watching_all
    assert events[-1].kind == "failed"
    assert events[-1].job.status == Download.CANCELLED


async def _watch_until(stream, state) -> None:
    async with aclosing(stream):
        async for message in stream:
            if message.job.state == state:
                break


async def test_watch_through_silent_connection(service, client):
    """A connection that is open but dead is given up after three missed heartbeats."""
    job = await client.create(URL)
    async with (
        run_relay(service.port) as relay,
        AsyncClient(f"127.0.0.1:{relay.port}", heartbeat_seconds=1) as remote,
    ):
        stream = remote.watch(job.job_id)
        await anext(stream)
        relay.hold()
        await client.cancel(job.job_id)

        async def resume():
            await asyncio.sleep(3.5)
            relay.resume()

        resuming = asyncio.create_task(resume())
        async with asyncio.timeout(TIMEOUT):
            rest = [event.kind async for event in stream]
        await resuming
    assert rest[-1] == "failed"
    assert "reconnecting" in rest


async def test_watch_all_through_disconnects(service, client):
    """One stream delivers every matching job to its end, and each revision once, through disconnects."""
    count, ended = 12, {}
    revisions: list[tuple[str, int]] = []

    async def handle(held_job):
        await asyncio.sleep(0.1)
        await held_job.succeed()

    async with run_relay(service.port) as relay, AsyncClient(f"127.0.0.1:{relay.port}") as remote:
        stream = remote.watch_all("labels.batch = mine")
        first = await anext(stream)
        assert not first.HasField("job")
        for number in range(count):
            await client.create(URL, labels={"batch": "mine", "number": str(number)})
        await client.create(URL, labels={"batch": "another"})
        sequence = first.sequence
        async with run_worker(service, handle, slots=2), cut_every(0.3, relay), asyncio.timeout(TIMEOUT):
            async for message in stream:
                assert message.sequence > sequence
                sequence = message.sequence
                revisions.append((message.job.name, message.job.revision))
                assert message.job.labels["batch"] == "mine"
                if message.job.state == Job.SUCCEEDED:
                    ended[message.job.name] = message.job
                if len(ended) == count:
                    break
        await stream.aclose()
    assert relay.cuts > 1
    assert len(revisions) == len(set(revisions))


async def test_wait(service, client):
    """`wait` returns the job in its final state."""
    job = await client.create(URL, labels={"album": "one"})

    async def handle(held_job):
        await held_job.succeed()

    async with run_worker(service, handle):
        ended = await client.wait(job.job_id)
    assert (ended.status, dict(ended.labels)) == (Download.SUCCEEDED, {"album": "one"})


async def test_repeated_request_id(client):
    """A create repeated with the same request_id returns the same job."""
    request = "6f1f1c0e-6d0b-4f57-9a3e-3f1f2f8c9a11"
    one, two = await client.create(URL, request_id=request), await client.create(URL, request_id=request)
    assert one.job_id == two.job_id


async def test_create_through_disconnects(service, client):
    """A create whose response is lost is repeated, and makes one job."""
    async with (
        run_relay(service.port) as relay,
        AsyncClient(f"127.0.0.1:{relay.port}", retry_timeout=TIMEOUT) as remote,
        cut_every(0.02, relay),
    ):
        jobs = [await remote.create(URL, labels={"cut": "yes"}) for _ in range(20)]
    assert relay.cuts > 1
    found = [job.job_id async for job in client.iterate()]
    assert sorted(found) == sorted(job.job_id for job in jobs)


async def test_error_details(client):
    """A rejected call is an error of its class, with reason, metadata, field and remedy."""
    with pytest.raises(RequestInvalid) as invalid:
        await client.create("file:///etc/passwd")
    assert (invalid.value.code, invalid.value.reason) == ("INVALID_ARGUMENT", "URL_INVALID")
    assert invalid.value.fields.keys() == {"url"}
    assert "http" in invalid.value.remedy
    with pytest.raises(NotFound) as missing:
        await anext(client.watch(UNKNOWN))
    assert missing.value.reason == "RESOURCE_NOT_FOUND"
    assert missing.value.metadata["resource"] == f"jobs/{UNKNOWN}"
    assert missing.value.retry_delay is None
    job = await client.create(URL)
    await client.cancel(job.job_id)
    with pytest.raises(Conflict):
        await client.jobs.pause(job.job_id)


async def test_cancelled_download(service, client, tmp_path):
    """A download whose job is cancelled raises JobFailed and leaves no file."""
    folder = tmp_path / "videos"
    download = asyncio.create_task(client.download(URL, folder))

    async def cancel():
        (job,) = (await service.jobs.ListJobs(ListJobsRequest())).jobs
        return await client.cancel(job.name, "not today")

    await eventually(cancel)
    with pytest.raises(JobFailed) as failure:
        await download
    assert failure.value.job.status == Download.CANCELLED
    assert failure.value.reason == "JOB_CANCELLED"
    assert not list(folder.iterdir())


async def test_no_server():
    """Without a server a call fails after its retry_timeout, and a watch after its reconnect_timeout."""
    address = f"127.0.0.1:{free_port()}"
    async with AsyncClient(address, retry_timeout=0.5, reconnect_timeout=0.5) as client:
        with pytest.raises(Unavailable) as failure:
            await client.get(UNKNOWN)
        assert failure.value.transient
        with pytest.raises(Unavailable):
            await client.wait(UNKNOWN)
