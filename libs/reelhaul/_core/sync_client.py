"""BaseClient: the methods of the async clients for programs without asyncio; they block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from reelhaul._core.async_client import BaseAsyncClient, IfAbandoned
from reelhaul._core.event_loop_thread import EventLoopThread
from reelhaul._core.resources import Jobs, Keys, Schedules, Tenants, Webhooks
from reelhaul._core.save import OnProgress, Saved
from reelhaul._core.watch import Event
from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.downloads.v1.download_pb2 import Download, File
from reelhaul.existing_files import OnExists
from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.requests import DownloadOptions, DownloadRequest, ListFilter, ListOptions, ProbeOptions
from reelhaul.system.v1 import system_service_pb2


class BaseClient:
    """Downloads: creates, watches, waits for and saves them.

    Use it as a context manager; several threads may share it. Every method raises CallFailed. A job is named
    by its id, or by ``jobs/{id}``. Calls that may be repeated, ``create`` included, are tried again while the
    server is unavailable, until *retry_timeout* seconds have passed. A watch or a transfer reconnects and
    resumes, until the server has not responded for *reconnect_timeout* seconds.
    """

    def __init__(self, open_client: Callable[[], BaseAsyncClient]) -> None:
        self._loop = EventLoopThread()
        try:
            self._async = self._loop.run(_call(open_client))
        except BaseException:
            self._loop.close()
            raise
        self.jobs = Jobs(self._loop, self._async.jobs)
        self.schedules = Schedules(self._loop, self._async.schedules)
        self.webhooks = Webhooks(self._loop, self._async.webhooks)
        self.keys = Keys(self._loop, self._async.keys)
        self.tenants = Tenants(self._loop, self._async.tenants)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        if not self._loop.is_running:
            return
        try:
            self._loop.run(self._async.close())
        finally:
            self._loop.close()

    def create(self, url: str, **options: Unpack[DownloadOptions]) -> Download:
        """Create a job that downloads *url*. It is committed on return, and exists once.

        Raises ValueError and TypeError for options that are not those of the API.
        """
        return self._loop.run(self._async.create(url, **options))

    def create_batch(
        self, requests: Sequence[DownloadRequest], *, partial: bool = False, request_id: str = ""
    ) -> flat.BatchCreateDownloadsResponse:
        """Create up to 500 jobs at once, all or none; with *partial* the valid ones, others in ``failed``.

        ``iterate(batch_id=…)`` lists them later.
        """
        return self._loop.run(self._async.create_batch(requests, partial=partial, request_id=request_id))

    def get(self, job: str) -> Download:
        """Return a job in its present state."""
        return self._loop.run(self._async.get(job))

    def list(self, **options: Unpack[ListOptions]) -> flat.ListDownloadsResponse:
        """Return one page of the jobs that match, with their total; ``iterate`` returns all."""
        return self._loop.run(self._async.list(**options))

    def iterate(self, **options: Unpack[ListFilter]) -> Iterator[Download]:
        """Yield all jobs that match, newest first unless *order* says otherwise."""
        return self._loop.iterate(self._async.iterate(**options))

    def list_children(self, playlist: Download) -> Iterator[Download]:
        """Yield the jobs of the entries of *playlist*, in its order."""
        return self._loop.iterate(self._async.list_children(playlist))

    def probe(self, url: str, **options: Unpack[ProbeOptions]) -> flat.GetInfoResponse:
        """Return what *url* offers, without a job: title, formats, subtitles, entries, and an estimate."""
        return self._loop.run(self._async.probe(url, **options))

    def stats(
        self, *, created_after: datetime | None = None, created_before: datetime | None = None
    ) -> flat.GetStatsResponse:
        """Return counts of the jobs that were created in a time, by default in the last 24 hours."""
        return self._loop.run(self._async.stats(created_after=created_after, created_before=created_before))

    def cancel(self, job: str, reason: str = "") -> Download:
        """Cancel a job for good. STATE_CONFLICT if it has succeeded or failed."""
        return self._loop.run(self._async.cancel(job, reason))

    def stop_recording(self, job: str) -> Download:
        """End the recording of a live stream and keep it. STATE_CONFLICT if there is none."""
        return self._loop.run(self._async.stop_recording(job))

    def retry(self, job: str) -> Download:
        """Start a failed or cancelled job again, under the same id."""
        return self._loop.run(self._async.retry(job))

    def delete(self, job: str) -> None:
        """Delete a job, its record and its files; a live one is cancelled first."""
        self._loop.run(self._async.delete(job))

    def watch(self, job: str, *, min_interval: float = 0.0, resume_token: str = "") -> Iterator[Event]:
        """Yield a snapshot of a job, then every change, and progress at most each *min_interval* seconds.

        The last event is ``completed`` or ``failed``; for a playlist, once all its jobs have ended. A broken
        or silent connection is resumed where it was. *resume_token* is that of an earlier watch's message.
        """
        return self._loop.iterate(
            self._async.watch(job, min_interval=min_interval, resume_token=resume_token)
        )

    def watch_all(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
        *,
        resume_token: str = "",
    ) -> Iterator[job_service_pb2.WatchJobsResponse]:
        """Yield every change of the jobs that match *filter* (as ListJobs.filter), without end.

        The first message of a new watch has no job: it means that changes from now on are reported.
        A client that lists the jobs after it misses nothing.
        """
        return self._loop.iterate(self._async.watch_all(filter, resume_token=resume_token))

    def wait(
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
        return self._loop.run(
            self._async.wait(job, timeout=timeout, if_abandoned=if_abandoned, on_event=on_event)
        )

    def download(
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
        return self._loop.run(
            self._async.download(
                url,
                folder,
                on_exists=on_exists,
                timeout=timeout,
                if_abandoned=if_abandoned,
                on_event=on_event,
                on_progress=on_progress,
                **options,
            )
        )

    def save(
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
        return self._loop.run(self._async.save(job, folder, on_exists=on_exists, on_progress=on_progress))

    def save_files(
        self,
        files: Sequence[File],
        folder: str | Path,
        *,
        on_exists: OnExists = "number",
        on_progress: OnProgress | None = None,
    ) -> Sequence[Saved]:
        """Save *files*, all of one job, into *folder*, as ``save`` does; return them."""
        return self._loop.run(
            self._async.save_files(files, folder, on_exists=on_exists, on_progress=on_progress)
        )

    def set_log_level(
        self, service: str, level: str, *, logger: str = "", seconds: float = 600
    ) -> system_service_pb2.SetLogLevelResponse:
        """Log from *level* (of LogLevel) on in all processes of *service* (empty: of all) for *seconds*."""
        return self._loop.run(self._async.set_log_level(service, level, logger=logger, seconds=seconds))


async def _call(open_client: Callable[[], BaseAsyncClient]) -> BaseAsyncClient:
    """Return a new client; gRPC binds it to the event loop that runs then."""
    return open_client()
