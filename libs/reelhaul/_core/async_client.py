"""BaseAsyncClient: the methods of all clients, over whichever transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack

from google.protobuf.message import Message

from reelhaul._core import methods
from reelhaul._core.async_admin import AsyncKeys, AsyncTenants
from reelhaul._core.async_resources import AsyncJobs, AsyncSchedules, AsyncWebhooks
from reelhaul._core.errors import CallFailed, JobFailed
from reelhaul._core.methods import Method
from reelhaul._core.resource_requests import iterate_pages, new_request_id
from reelhaul._core.resume import HEARTBEAT_SECONDS
from reelhaul._core.retries import Retries
from reelhaul._core.save import OnProgress, Saved, save_files
from reelhaul._core.transport import Transport
from reelhaul._core.watch import Event, WatchTimes, watch_job, watch_jobs
from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.downloads.v1.download_pb2 import Download, File
from reelhaul.existing_files import OnExists, prepare_folder
from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.requests import (
    DownloadOptions,
    DownloadRequest,
    ListFilter,
    ListOptions,
    ProbeOptions,
    build_request,
)
from reelhaul.system.v1 import system_service_pb2

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

#: What happens to a job if a wait ends before it: by cancellation, Ctrl-C, its timeout, or its callback.
IfAbandoned = Literal["leave", "cancel"]

RETRY_SECONDS, RECONNECT_SECONDS = 10.0, 120.0

_PAGE_SIZE = 100
# Of calls; streams and transfers wait as long as the server says.
_MAX_RETRY_DELAY = 5.0
# A wait without on_event needs no progress; the longest interval that the server takes.
_QUIET_SECONDS = 60.0
# To cancel the job of an abandoned wait.
_CANCEL_SECONDS = 10.0


class BaseAsyncClient:
    """Downloads: creates, watches, waits for and saves them.

    Use it as an async context manager. Every method raises CallFailed. A job is named by its id, or by
    ``jobs/{id}``. Calls that may be repeated, ``create`` included, are tried again while the server is
    unavailable, until *retry_timeout* seconds have passed. A watch or a transfer reconnects and resumes,
    until the server has not responded for *reconnect_timeout* seconds.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        retry_timeout: float = RETRY_SECONDS,
        reconnect_timeout: float = RECONNECT_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._transport = transport
        self._retry_timeout = retry_timeout
        self._times = WatchTimes(reconnect_timeout, heartbeat_seconds)
        self.jobs = AsyncJobs(self._call)
        self.schedules = AsyncSchedules(self._call)
        self.webhooks = AsyncWebhooks(self._call)
        self.keys = AsyncKeys(self._call)
        self.tenants = AsyncTenants(self._call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def create(self, url: str, **options: Unpack[DownloadOptions]) -> Download:
        """Create a job that downloads *url*. It is committed on return, and exists once.

        Raises ValueError and TypeError for options that are not those of the API.
        """
        request = build_request(flat.CreateDownloadRequest, {"url": url, **options})
        request.request_id = request.request_id or new_request_id()
        return await self._call(methods.CREATE_DOWNLOAD, request)

    async def create_batch(
        self, requests: Sequence[DownloadRequest], *, partial: bool = False, request_id: str = ""
    ) -> flat.BatchCreateDownloadsResponse:
        """Create up to 500 jobs at once, all or none; with *partial* the valid ones, others in ``failed``.

        ``iterate(batch_id=…)`` lists them later.
        """
        items = [build_request(flat.CreateDownloadRequest, item) for item in requests]
        request = flat.BatchCreateDownloadsRequest(
            items=items, partial=partial, request_id=request_id or new_request_id()
        )
        return await self._call(methods.BATCH_CREATE_DOWNLOADS, request)

    async def get(self, job: str) -> Download:
        """Return a job in its present state."""
        return await self._call(methods.GET_DOWNLOAD, flat.GetDownloadRequest(job_id=_job_id(job)))

    async def list(self, **options: Unpack[ListOptions]) -> flat.ListDownloadsResponse:
        """Return one page of the jobs that match, with their total; ``iterate`` returns all."""
        return await self._call(methods.LIST_DOWNLOADS, build_request(flat.ListDownloadsRequest, options))

    async def iterate(self, **options: Unpack[ListFilter]) -> AsyncGenerator[Download, None]:
        """Yield all jobs that match, newest first unless *order* says otherwise."""
        request = build_request(flat.ListDownloadsRequest, options)
        request.page_size = _PAGE_SIZE
        async for page in iterate_pages(self._call, methods.LIST_DOWNLOADS, request):
            for job in page.jobs:
                yield job

    async def list_children(self, playlist: Download) -> AsyncGenerator[Download, None]:
        """Yield the jobs of the entries of *playlist*, in its order."""
        async with aclosing(self.iterate(batch_id=playlist.batch_id, order="oldest")) as jobs:
            async for job in jobs:
                if job.job_id != playlist.job_id:
                    yield job

    async def probe(self, url: str, **options: Unpack[ProbeOptions]) -> flat.GetInfoResponse:
        """Return what *url* offers, without a job: title, formats, subtitles, entries, and an estimate."""
        return await self._call(methods.GET_INFO, build_request(flat.GetInfoRequest, {"url": url, **options}))

    async def stats(
        self, *, created_after: datetime | None = None, created_before: datetime | None = None
    ) -> flat.GetStatsResponse:
        """Return counts of the jobs that were created in a time, by default in the last 24 hours."""
        fields = {"created_after": created_after, "created_before": created_before}
        return await self._call(methods.GET_STATS, build_request(flat.GetStatsRequest, fields))

    async def cancel(self, job: str, reason: str = "") -> Download:
        """Cancel a job for good. STATE_CONFLICT if it has succeeded or failed."""
        request = flat.CancelDownloadRequest(job_id=_job_id(job), reason=reason)
        return await self._call(methods.CANCEL_DOWNLOAD, request)

    async def stop_recording(self, job: str) -> Download:
        """End the recording of a live stream and keep it. STATE_CONFLICT if there is none."""
        return await self._call(methods.STOP_RECORDING, flat.StopRecordingRequest(job_id=_job_id(job)))

    async def retry(self, job: str) -> Download:
        """Start a failed or cancelled job again, under the same id."""
        request = flat.RetryDownloadRequest(job_id=_job_id(job), request_id=new_request_id())
        return await self._call(methods.RETRY_DOWNLOAD, request)

    async def delete(self, job: str) -> None:
        """Delete a job, its record and its files; a live one is cancelled first."""
        await self._call(methods.DELETE_DOWNLOAD, flat.DeleteDownloadRequest(job_id=_job_id(job)))

    async def watch(
        self, job: str, *, min_interval: float = 0.0, resume_token: str = ""
    ) -> AsyncGenerator[Event, None]:
        """Yield a snapshot of a job, then every change, and progress at most each *min_interval* seconds.

        The last event is ``completed`` or ``failed``; for a playlist, once all its jobs have ended. A broken
        or silent connection is resumed where it was. *resume_token* is that of an earlier watch's message.
        """
        request = flat.WatchProgressRequest(
            job_id=_job_id(job), min_interval_seconds=min_interval, resume_token=resume_token
        )
        async with aclosing(watch_job(self._transport, request, self._times)) as events:
            async for event in events:
                yield event

    async def watch_all(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
        *,
        resume_token: str = "",
    ) -> AsyncGenerator[job_service_pb2.WatchJobsResponse, None]:
        """Yield every change of the jobs that match *filter* (as ListJobs.filter), without end.

        The first message of a new watch has no job: it means that changes from now on are reported.
        A client that lists the jobs after it misses nothing.
        """
        request = job_service_pb2.WatchJobsRequest(filter=filter, resume_token=resume_token)
        async with aclosing(watch_jobs(self._transport, request, self._times)) as messages:
            async for message in messages:
                yield message

    async def wait(
        self,
        job: str,
        *,
        timeout: float | None = None,
        if_abandoned: IfAbandoned = "leave",
        on_event: Callable[[Event], object] | None = None,
    ) -> Download:
        """Return a job once it has succeeded, failed or been cancelled.

        Raises TimeoutError after *timeout* seconds. *if_abandoned* says what happens to the job then, if the
        wait is cancelled, or if *on_event* raises: it is left to go on, or cancelled too.
        """
        if if_abandoned not in ("leave", "cancel"):
            raise ValueError(f"if_abandoned is leave or cancel, not {if_abandoned!r}")
        try:
            async with asyncio.timeout(timeout):
                return await self._follow(job, on_event)
        except CallFailed:
            raise
        except BaseException:
            if if_abandoned == "cancel":
                await self._cancel_abandoned(job)
            raise

    async def download(
        self,
        url: str,
        folder: str | Path,
        *,
        on_exists: OnExists = "number",
        timeout: float | None = None,
        if_abandoned: IfAbandoned = "cancel",
        on_event: Callable[[Event], object] | None = None,
        on_progress: OnProgress | None = None,
        **options: Unpack[DownloadOptions],
    ) -> Sequence[Saved]:
        """Create a job for *url*, wait for it, save its files into *folder*; return them, the media first.

        A folder that cannot be written to is found out before the job is created. Raises what ``create``,
        ``wait`` and ``save`` raise.
        """
        await asyncio.to_thread(prepare_folder, Path(folder))
        created = await self.create(url, **options)
        job = await self.wait(created.job_id, timeout=timeout, if_abandoned=if_abandoned, on_event=on_event)
        return await self.save(job, folder, on_exists=on_exists, on_progress=on_progress)

    async def save(
        self,
        job: str | Download,
        folder: str | Path,
        *,
        on_exists: OnExists = "number",
        on_progress: OnProgress | None = None,
    ) -> Sequence[Saved]:
        """Save the files of a job that has succeeded into *folder*, which is created; return them.

        Files are verified before they get their names; an interrupted transfer resumes, also in a later
        call. *on_exists* says what happens if a name is taken (``reelhaul.existing_files``); nothing is
        returned for files that are skipped. *on_progress* is called with a file and its bytes so far. For a
        playlist, the files of its jobs are saved. Raises JobFailed if a job did not succeed, after the files
        of the others are saved, and SaveFailed.
        """
        if isinstance(job, str):
            job = await self.get(job)
        if job.status != Download.SUCCEEDED:
            raise JobFailed(job)
        if not is_playlist(job):
            return await self.save_files(job.files, folder, on_exists=on_exists, on_progress=on_progress)
        saved, failed = list[Saved](), list[Download]()
        async with aclosing(self.list_children(job)) as children:
            async for child in children:
                if child.status != Download.SUCCEEDED:
                    failed.append(child)
                else:
                    saved += await self.save_files(
                        child.files, folder, on_exists=on_exists, on_progress=on_progress
                    )
        if failed:
            raise JobFailed(failed[0])
        return saved

    async def save_files(
        self,
        files: Sequence[File],
        folder: str | Path,
        *,
        on_exists: OnExists = "number",
        on_progress: OnProgress | None = None,
    ) -> Sequence[Saved]:
        """Save *files*, all of one job, into *folder*, as ``save`` does; return them."""
        return await save_files(
            self._transport, files, Path(folder), on_exists, on_progress, self._times.reconnect
        )

    async def set_log_level(
        self, service: str, level: str, *, logger: str = "", seconds: float = 600
    ) -> system_service_pb2.SetLogLevelResponse:
        """Log from *level* (of LogLevel) on in all processes of *service* (empty: of all) for *seconds*."""
        request = system_service_pb2.SetLogLevelRequest(
            service=service, level=system_service_pb2.LogLevel.Value(level), logger=logger
        )
        request.duration.FromMilliseconds(round(seconds * 1000))
        return await self._call(methods.SET_LOG_LEVEL, request)

    async def _follow(self, job: str, on_event: Callable[[Event], object] | None) -> Download:
        last = Download(job_id=_job_id(job))
        interval = _QUIET_SECONDS if on_event is None else 0.0
        async with aclosing(self.watch(job, min_interval=interval)) as events:
            async for event in events:
                if on_event is not None:
                    on_event(event)
                last = event.job or last
        return last

    async def _cancel_abandoned(self, job: str) -> None:
        """Cancel *job*, unless it has just ended or the server does not answer."""
        with suppress(CallFailed, TimeoutError):
            async with asyncio.timeout(_CANCEL_SECONDS):
                await self.cancel(job, "the client stopped waiting")

    async def _call(self, method: Method[Q, R], request: Q) -> R:
        retries = Retries(seconds=self._retry_timeout, max_retry_delay=_MAX_RETRY_DELAY)
        while True:
            try:
                return await self._transport.call(method, request)
            except CallFailed as failure:
                if not method.is_repeatable(request):
                    raise
                delay = retries.next_delay(failure)
            await asyncio.sleep(delay)


def is_playlist(job: Download) -> bool:
    """Return whether *job* is a playlist or channel, whose entries have jobs of their own."""
    return bool(job.batch_id) and job.batch_id == job.job_id


def _job_id(job: str) -> str:
    return job.strip().removeprefix("jobs/")
