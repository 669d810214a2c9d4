"""The client that programs import, against the jobs service over a network that breaks."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta

import pytest
from tests.jobs.conftest import PATIENCE, eventually, serving
from tests.jobs.worker import working
from tests.relay import cutting, relaying
from tests.servers import free_port

from reelhaul.client import CallFailed, Client, JobFailed, _watch
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import ListJobsRequest
from reelhaul.work.v1.lease_service_pb2 import FinishRequest

URL = "https://videos.example/watch?v=1"
OFTEN = timedelta(milliseconds=50)

# The long form: REELHAUL_TEST_CUTTING_SECONDS=30.
CUTTING_SECONDS = float(os.environ.get("REELHAUL_TEST_CUTTING_SECONDS", "8"))


@pytest.fixture
async def client(service):
    async with Client(f"127.0.0.1:{service.port}") as opened:
        yield opened


def states(messages) -> list[int]:
    return [m.state_change.state for m in messages if m.HasField("state_change")]


async def collected(stream) -> list:
    return [message async for message in stream]


async def test_nothing_is_missed_through_disconnects(service, client):
    """Cut off every second, a watcher still hears every state, each once, in growing order."""
    job = await client.create(URL)
    end = time.monotonic() + CUTTING_SECONDS

    async def work(held):
        # In fits and starts: many states, much progress.
        for percent in range(15):
            await held.progress(percent)
            await asyncio.sleep(0.02)
        if time.monotonic() < end:
            await held.finish(released=FinishRequest.Released(reason=FinishRequest.Released.DRAIN))
        else:
            await held.succeed()

    async with relaying(service.port) as relay, Client(f"127.0.0.1:{relay.port}") as far:
        undisturbed = asyncio.create_task(collected(client.watch(job.name, min_interval=OFTEN)))
        disturbed = asyncio.create_task(collected(far.watch(job.name, min_interval=OFTEN)))
        async with working(service, work), cutting(relay, 1.0), asyncio.timeout(CUTTING_SECONDS + 30):
            messages = await disturbed
            truth = await undisturbed
    assert relay.cuts >= CUTTING_SECONDS / 2
    sequences = [message.sequence for message in messages]
    assert sequences == sorted(set(sequences))
    assert states(messages) == states(truth)
    assert len(states(truth)) > CUTTING_SECONDS / 2
    assert messages[0].HasField("snapshot")
    assert messages[-1].snapshot.terminal
    assert not any(message.snapshot.reset for message in messages)


async def test_server_restarts(settings):
    """A server that drains and comes back is but another disconnect: no state is missed."""
    fixed = settings.model_copy(update={"jobs_address": f"127.0.0.1:{free_port()}"})
    async with Client(fixed.jobs_address) as client:
        async with serving(fixed):
            job = await client.create(URL)
            stream = client.watch(job.name)
            first = await anext(stream)
            rest = asyncio.create_task(collected(stream))
            following = asyncio.create_task(_until(client.watch_all(), Job.CANCELLED))
            await asyncio.sleep(0.2)
        async with serving(fixed), asyncio.timeout(PATIENCE):
            await client.cancel(job.name)
            told = await rest
            await following
    assert states(told) == [Job.CANCELLED]
    assert told[0].sequence > first.sequence


async def _until(stream, state) -> None:
    async for message in stream:
        if message.job.state == state:
            break
    await stream.aclose()


async def test_silent_connection(service, client, monkeypatch):
    """A connection that is open but dead is given up after three missed heartbeats."""
    monkeypatch.setattr(_watch, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(_watch, "_SILENCE_SECONDS", 1.5)
    job = await client.create(URL)
    async with relaying(service.port) as relay, Client(f"127.0.0.1:{relay.port}") as far:
        stream = far.watch(job.name)
        await anext(stream)
        relay.hold()
        await client.cancel(job.name)

        async def mended():
            await asyncio.sleep(2)
            relay.go_on()

        mending = asyncio.create_task(mended())
        async with asyncio.timeout(PATIENCE):
            rest = await collected(stream)
        await mending
    assert states(rest) == [Job.CANCELLED]
    assert rest[-1].snapshot.terminal


async def test_following_many(service, client):
    """Through disconnects one stream tells of every job of its filter to its end, and each state once."""
    count, ended = 12, {}
    seen: list[tuple[str, int]] = []

    async def work(held):
        await asyncio.sleep(0.1)
        await held.succeed()

    async with relaying(service.port) as relay, Client(f"127.0.0.1:{relay.port}") as far:
        stream = far.watch_all("labels.batch = mine")
        first = await anext(stream)
        assert not first.HasField("job")
        for number in range(count):
            await client.create(URL, labels={"batch": "mine", "number": str(number)})
        await client.create(URL, labels={"batch": "another"})
        sequence = first.sequence
        async with working(service, work, slots=2), cutting(relay, 0.3), asyncio.timeout(PATIENCE):
            async for message in stream:
                assert message.sequence > sequence
                sequence = message.sequence
                seen.append((message.job.name, message.job.revision))
                assert message.job.labels["batch"] == "mine"
                if message.job.state == Job.SUCCEEDED:
                    ended[message.job.name] = message.job
                if len(ended) == count:
                    break
        await stream.aclose()
    assert relay.cuts > 1
    assert len(seen) == len(set(seen))


async def test_wait(service, client):
    """Waiting for a job gives it as it ended."""
    job = await client.create(URL, labels={"album": "one"})

    async def work(held):
        await held.succeed()

    async with working(service, work):
        ended = await client.wait(job.name)
    assert (ended.state, dict(ended.labels)) == (Job.SUCCEEDED, {"album": "one"})


async def test_same_request_is_the_same_job(client):
    """A create repeated under its request_id is the same job."""
    request = "6f1f1c0e-6d0b-4f57-9a3e-3f1f2f8c9a11"
    one, two = await client.create(URL, request_id=request), await client.create(URL, request_id=request)
    assert one.name == two.name


async def test_refusals_say_why(client):
    """A refused call tells its reason, its metadata and the field."""
    with pytest.raises(CallFailed) as failure:
        await client.create("file:///etc/passwd")
    assert failure.value.code == "INVALID_ARGUMENT"
    assert failure.value.reason == "URL_INVALID"
    missing = "jobs/01890000-0000-7000-8000-000000000000"
    with pytest.raises(CallFailed) as failure:
        await anext(client.watch(missing))
    assert failure.value.reason == "RESOURCE_NOT_FOUND"
    assert failure.value.metadata["resource"] == missing
    assert failure.value.retry_delay is None


async def test_cancelled_download(service, client, tmp_path):
    """A download whose job is cancelled says so, and leaves no file."""
    folder = tmp_path / "films"
    folder.mkdir()
    downloading = asyncio.create_task(client.download(URL, folder))

    async def cancelled():
        (job,) = (await service.jobs.ListJobs(ListJobsRequest())).jobs
        return await client.cancel(job.name, "not today")

    await eventually(cancelled)
    with pytest.raises(JobFailed) as failure:
        await downloading
    assert failure.value.job.state == Job.CANCELLED
    assert failure.value.reason == "JOB_CANCELLED"
    assert not list(folder.iterdir())


async def test_nobody_there():
    """Where no server is, a call fails once its patience is over."""
    async with Client(f"127.0.0.1:{free_port()}", patience=0.5) as client:
        with pytest.raises(CallFailed) as failure:
            await client.get("jobs/01890000-0000-7000-8000-000000000000")
        assert failure.value.transient
        with pytest.raises(CallFailed):
            await anext(client.watch("jobs/01890000-0000-7000-8000-000000000000"))
