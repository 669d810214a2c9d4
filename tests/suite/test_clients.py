"""The contract of the client libraries: gRPC and REST, with and without asyncio, do the same."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.sites.site import Site
from tests.suite.suite import Suite, running_suite
from tests.webhook_receiver import running_receiver

import reelhaul.client
import reelhaul.rest
from reelhaul._core import async_admin, async_resources, resources
from reelhaul._core.async_client import BaseAsyncClient
from reelhaul._core.sync_client import BaseClient
from reelhaul.client import (
    CallFailed,
    Conflict,
    Download,
    JobFailed,
    NotFound,
    RequestInvalid,
)
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.schedule_pb2 import Schedule
from reelhaul.jobs.v1.webhook_pb2 import Delivery, Webhook
from reelhaul.webhooks import verify

UNKNOWN = "01890000-0000-7000-8000-000000000000"
KINDS = ("grpc", "rest", "async grpc", "async rest")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite whose webhooks may reach this machine."""
    data_dir = tmp_path_factory.mktemp("clients") / "data"
    with running_suite(data_dir, jobs_webhook_networks="127.0.0.1/32") as running:
        yield running


class AnyClient:
    """One of the four clients; each call returns the result, awaited if it must be, lists for iterators."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def __call__(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = (
            method(*args, **kwargs)
            if self.is_async
            else await asyncio.to_thread(_drain, method, args, kwargs)
        )
        if isinstance(result, Awaitable):
            return await result
        if isinstance(result, AsyncIterator):
            return [item async for item in result]
        return result

    @property
    def is_async(self) -> bool:
        return isinstance(self.client, BaseAsyncClient)


def _drain(method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    result = method(*args, **kwargs)
    return list(result) if isinstance(result, Iterator) else result


@pytest.fixture(params=KINDS)
async def call(request: pytest.FixtureRequest, suite: Suite) -> AsyncIterator[AnyClient]:
    """Each of the four clients in turn."""
    is_async, transport = request.param.startswith("async"), request.param.rpartition(" ")[2]
    module = reelhaul.client if transport == "grpc" else reelhaul.rest
    address = suite.address("jobs" if transport == "grpc" else "gateway")
    options = {"storage": suite.address("storage")} if transport == "grpc" else {}
    if is_async:
        async with module.AsyncClient(address, **options) as client:
            yield AnyClient(client)
    else:
        client = await asyncio.to_thread(module.Client, address, **options)
        yield AnyClient(client)
        await asyncio.to_thread(client.close)


async def test_download(call: AnyClient, site: Site, tmp_path: Path) -> None:
    """One call creates the job, waits for it, and saves its verified files beside each other."""
    events: list[str] = []
    sizes: dict[str, int] = {}
    url, options = site.url("/watch/demo"), {"quality": "360p", "format": "mp4", "subtitle_languages": ["en"]}
    saved = await call(
        call.client.download,
        url,
        tmp_path,
        on_event=lambda event: events.append(event.kind),
        on_progress=lambda file, size: sizes.__setitem__(file.name, size),
        **options,
    )
    assert hashlib.sha256(saved[0].path.read_bytes()).hexdigest() == site.digest("/media/360.mp4")
    assert (events[0], events[-1]) == ("snapshot", "completed")
    assert sizes == {each.file.name: each.size_bytes for each in saved}
    assert len(saved) > 1
    stem = saved[0].path.stem
    assert all(each.path.name.startswith(f"{stem}.") for each in saved)
    saved[0].path.write_bytes(b"something else")
    again = await call(call.client.download, url, tmp_path, **options)
    assert [each.path.name.startswith(f"{stem} (2).") for each in again] == [True] * len(saved)
    assert await call(call.client.download, url, tmp_path, on_exists="skip", **options) == []
    (found,) = {each.status for each in await call(call.client.iterate, url_contains="/watch/demo")}
    assert found == Download.SUCCEEDED
    probed = await call(call.client.probe, url, quality="360p")
    assert probed.title == (await call(call.client.list, page_size=1)).jobs[0].title
    assert probed.estimate.quality == "360p"


async def test_errors(call: AnyClient, tmp_path: Path) -> None:
    """Errors have the same class, reason, field and remedy over both transports."""
    with pytest.raises(RequestInvalid) as invalid:
        await call(call.client.create, "https://a.example/", quality="huge")
    assert (invalid.value.reason, [*invalid.value.fields]) == ("FIELD_INVALID", ["quality"])
    assert "1080p" in invalid.value.message
    assert invalid.value.remedy
    with pytest.raises(NotFound) as missing:
        await call(call.client.get, UNKNOWN)
    assert missing.value.metadata["resource"] == f"jobs/{UNKNOWN}"
    with pytest.raises(TypeError, match="did you mean quality"):
        await call(call.client.create, "https://a.example/", qualty="1080p")
    with pytest.raises(RequestInvalid):
        await call(call.client.schedules.get, "a/../b")
    (tmp_path / "file").touch()
    with pytest.raises(reelhaul.rest.SaveFailed):
        await call(call.client.download, "https://a.example/unsaved", tmp_path / "file")
    assert await call(call.client.iterate, url_contains="/unsaved") == []


async def test_jobs(call: AnyClient) -> None:
    """Jobs are created alone or as a batch, listed over pages, paused, cancelled, retried and deleted."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    created = await call(
        call.client.create, "https://a.example/one", schedule_time=tomorrow, labels={"team": "a"}
    )
    assert (created.status, created.labels["team"]) == (Download.QUEUED, "a")
    assert created.schedule_time.ToDatetime(UTC) == tomorrow
    assert (await call(call.client.jobs.pause, created.job_id)).state == Job.PAUSED
    assert (await call(call.client.jobs.resume, f"jobs/{created.job_id}")).state == Job.QUEUED
    requests = [{"url": f"https://a.example/{n}", "schedule_time": tomorrow} for n in range(120)]
    batch = await call(call.client.create_batch, [*requests, {"url": "nonsense"}], partial=True)
    assert [each.index for each in batch.failed] == [120]
    listed = await call(call.client.iterate, batch_id=batch.batch_id, order="oldest")
    assert [job.url for job in listed] == [each["url"] for each in requests]
    with pytest.raises(RequestInvalid):
        await call(call.client.create_batch, [*requests, {"url": "nonsense"}])
    cancelled = await call(call.client.cancel, created.job_id, "not today")
    assert (cancelled.status, cancelled.error.reason) == (Download.CANCELLED, "JOB_CANCELLED")
    with pytest.raises(JobFailed) as failure:
        await call(call.client.save, created.job_id, ".")
    assert failure.value.job.job_id == created.job_id
    with pytest.raises(Conflict):
        await call(call.client.jobs.pause, created.job_id)
    assert (await call(call.client.retry, created.job_id)).status == Download.QUEUED
    names = [job.job_id for job in [*listed, created]]
    states = {job.state for job in await call(call.client.jobs.batch_cancel, names)}
    # The retried one may run already.
    assert states <= {Job.CANCELLED, Job.CANCELLING}
    await call(call.client.delete, created.job_id)
    with pytest.raises(NotFound):
        await call(call.client.get, created.job_id)
    assert await call(call.client.jobs.list, f'batch_id = "{batch.batch_id}" AND state = QUEUED') == []
    assert (await call(call.client.stats)).total >= 120


@pytest.mark.parametrize("if_abandoned", ["leave", "cancel"])
async def test_an_abandoned_wait(call: AnyClient, if_abandoned: str) -> None:
    """A wait that ends before its job leaves the job, or cancels it, as it was told."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    job = await call(call.client.create, "https://a.example/", schedule_time=tomorrow)
    with pytest.raises(TimeoutError):
        await call(call.client.wait, job.job_id, timeout=0.2, if_abandoned=if_abandoned)
    expected = Download.CANCELLED if if_abandoned == "cancel" else Download.QUEUED
    assert (await call(call.client.get, job.job_id)).status == expected
    if call.is_async:
        other = await call.client.create("https://a.example/", schedule_time=tomorrow)
        watched = asyncio.Event()
        waiting = asyncio.create_task(
            call.client.wait(other.job_id, if_abandoned=if_abandoned, on_event=lambda _: watched.set())
        )
        await watched.wait()
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        assert (await call.client.get(other.job_id)).status == expected
        await call.client.cancel(other.job_id)
    await call(call.client.cancel, job.job_id)


async def test_schedules(call: AnyClient) -> None:
    """Schedules are created from a typed message, changed, paused, run and deleted."""
    schedule = Schedule(cron="@daily", job_template=Job(url="https://a.example/", labels={"a": "b"}))
    created = await call(call.client.schedules.create, schedule, "nightly")
    assert (created.name, created.state) == ("schedules/nightly", Schedule.ENABLED)
    changed = await call(call.client.schedules.update, "nightly", Schedule(cron="@weekly"), ["cron"])
    assert (changed.cron, changed.job_template.labels["a"]) == ("@weekly", "b")
    assert (await call(call.client.schedules.pause, "nightly")).state == Schedule.PAUSED
    assert (await call(call.client.schedules.resume, "schedules/nightly")).state == Schedule.ENABLED
    job = await call(call.client.schedules.run, "nightly")
    assert job.schedule == "schedules/nightly"
    await call(call.client.delete, job.name)
    assert [each.name for each in await call(call.client.schedules.list)] == ["schedules/nightly"]
    await call(call.client.schedules.delete, "nightly")
    with pytest.raises(NotFound):
        await call(call.client.schedules.get, "nightly")


async def test_webhooks(call: AnyClient) -> None:
    """A webhook delivers events that its secret verifies."""
    with running_receiver() as receiver:
        webhook = Webhook(url=receiver.url, event_types=["job.cancelled"])
        created = await call(call.client.webhooks.create, webhook, "hook")
        delivery = await call(call.client.webhooks.test, "hook")
        assert delivery.state == Delivery.SUCCEEDED
        request = receiver.received[0]
        assert verify(created.secret, request.headers, request.body).type == "webhook.test"
        rotated = await call(call.client.webhooks.rotate_secret, "hook", 0)
        assert rotated.secret not in ("", created.secret)
        disabled = await call(call.client.webhooks.update, "hook", Webhook(disabled=True), ["disabled"])
        assert (disabled.state, disabled.event_types) == (Webhook.DISABLED, ["job.cancelled"])
        deliveries = await call(call.client.webhooks.list_deliveries, "hook")
        assert [each.name for each in deliveries] == [delivery.name]
        await call(call.client.webhooks.delete, "hook")
        assert await call(call.client.webhooks.list) == []


def test_interrupted_by_ctrl_c(suite: Suite) -> None:
    """Ctrl-C ends a wait of a client without asyncio at once, and cancels the job if that was asked for."""
    with reelhaul.rest.Client(suite.address("gateway")) as client:
        job = client.create("https://a.example/", schedule_time=datetime.now(UTC) + timedelta(days=1))

        def interrupt(_: object) -> None:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            client.wait(job.job_id, if_abandoned="cancel", on_event=interrupt)
        assert client.get(job.job_id).status == Download.CANCELLED
        events = client.watch(job.job_id)
        assert next(events).kind in ("snapshot", "failed")
        events.close()


def test_from_env(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments, clients take addresses and key from the environment."""
    for name in ("gateway", "jobs", "storage"):
        monkeypatch.setenv(f"REELHAUL_{name.upper()}_ADDRESS", suite.address(name))
    for module in (reelhaul.rest, reelhaul.client):
        with module.Client.from_env() as client:
            assert client.list(page_size=1).total >= 0
    monkeypatch.setenv("REELHAUL_API_KEY", "rh_live_mistyped")
    with pytest.raises(ValueError, match="characters"):
        reelhaul.rest.Client.from_env()


def test_a_closed_client(suite: Suite) -> None:
    """A client that is closed says so, instead of waiting for ever."""
    client = reelhaul.rest.Client(suite.address("gateway"))
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.get(UNKNOWN)


def test_unreachable_server() -> None:
    """A server that is not there is an error that names it and says what to check."""
    with (
        reelhaul.rest.Client("http://127.0.0.1:9", retry_timeout=0.3) as client,
        pytest.raises(CallFailed, match=r"127\.0\.0\.1:9 does not answer") as failure,
    ):
        client.list()
    assert "Check that the suite runs" in failure.value.remedy


@pytest.mark.parametrize(
    ("blocking", "awaited"),
    [
        (BaseClient, BaseAsyncClient),
        (resources.Jobs, async_resources.AsyncJobs),
        (resources.Schedules, async_resources.AsyncSchedules),
        (resources.Webhooks, async_resources.AsyncWebhooks),
        (resources.Keys, async_admin.AsyncKeys),
        (resources.Tenants, async_admin.AsyncTenants),
    ],
)
def test_both_forms_have_the_same_methods(blocking: type, awaited: type) -> None:
    """A method that blocks has the parameters, results and documentation of the one that is awaited."""

    def describe(cls: type) -> dict[str, Any]:
        described = {}
        for name, method in inspect.getmembers(cls, inspect.isfunction):
            if not name.startswith("_"):
                signature = inspect.signature(method)
                returned = str(signature.return_annotation)
                for text in ("AsyncGenerator[", "Iterator[", ", None]", "]"):
                    returned = returned.replace(text, "") if text != "]" else returned.rstrip("]")
                described[name] = (
                    method.__doc__,
                    [str(each) for each in signature.parameters.values()],
                    returned,
                )
        return described

    assert describe(blocking) == describe(awaited)
