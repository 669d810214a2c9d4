"""Client: the calls of the jobs and storage services that programs need most."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf import duration_pb2
from grpc import aio

from reelhaul._core.credentials import resolve_api_key
from reelhaul._core.loopback import is_loopback
from reelhaul._core.part_file import OnProgress, ignore_progress
from reelhaul._core.resume import HEARTBEAT_SECONDS
from reelhaul._core.retries import Retries
from reelhaul.client import _save, _watch
from reelhaul.client._errors import JobFailed, from_rpc_error
from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul.storage.v1 import storage_service_pb2, storage_service_pb2_grpc
from reelhaul.type.v1 import media_pb2

DEFAULT_JOBS = "127.0.0.1:50051"
DEFAULT_STORAGE = "127.0.0.1:50053"

# The longest max_deadline that a policy gives to a unary method.
_CALL_SECONDS = 65.0
_STREAM_SECONDS = 12 * 3600.0

_CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    # A server that restarts is found again at once, not after minutes of back-off.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A list of 500 jobs exceeds grpc's default of 4 MiB.
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
]


class Client:
    """Calls the jobs service at *address* and, for files, the storage service at *storage* (host:port).

    Use it as an async context manager. Every method raises CallFailed. Calls that are safe to repeat,
    ``create`` included, are retried until the server has not responded for *retry_timeout* seconds.
    *api_key* is sent with each call; by default it is REELHAUL_API_KEY of the environment, if that is set. A
    mistyped one is a ValueError. Without *credentials* the connection is plain text. A stream
    asks for a heartbeat every *heartbeat_seconds* (1 to 60) and reconnects when three are missing.
    """

    def __init__(
        self,
        address: str = DEFAULT_JOBS,
        *,
        storage: str = DEFAULT_STORAGE,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        retry_timeout: float = 120.0,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._retry_timeout = retry_timeout
        self._heartbeat_seconds = heartbeat_seconds
        key = resolve_api_key(api_key)
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._channels = [_open_channel(address, credentials), _open_channel(storage, credentials)]
        self._jobs = job_service_pb2_grpc.JobServiceStub(self._channels[0])
        self._storage = storage_service_pb2_grpc.StorageServiceStub(self._channels[1])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels:
            await channel.close()

    async def create(self, url: str, *, request_id: str = "", **fields: Any) -> job_pb2.Job:
        """Create a job for *url*; *fields* are fields of Job: ``format``, ``labels``, ``priority`` …

        The job is committed when this returns, and created once, however often the call was
        repeated. The same *request_id*, a UUID, returns the same job.
        """
        job = job_pb2.Job(url=url, **fields)
        request = job_service_pb2.CreateJobRequest(job=job, request_id=request_id or str(uuid.uuid4()))
        return await self._call(self._jobs.CreateJob, request)

    async def get(self, name: str) -> job_pb2.Job:
        """Return the job in its present state."""
        return await self._call(self._jobs.GetJob, job_service_pb2.GetJobRequest(name=name))

    async def cancel(self, name: str, reason: str = "") -> job_pb2.Job:
        """Cancel a job. Raises STATE_CONFLICT if it has already succeeded or failed."""
        request = job_service_pb2.CancelJobRequest(name=name, reason=reason)
        return await self._call(self._jobs.CancelJob, request)

    async def stop_recording(self, name: str) -> job_pb2.Job:
        """End the recording of a live stream and keep it. Raises STATE_CONFLICT if there is none."""
        return await self._call(self._jobs.StopRecording, job_service_pb2.StopRecordingRequest(name=name))

    async def watch(
        self, name: str, *, min_interval: timedelta | None = None, resume_token: str = ""
    ) -> AsyncIterator[job_service_pb2.WatchJobResponse]:
        """Yield a snapshot of a job, then every state change, and progress at most each *min_interval*.

        The last message is the terminal snapshot. Sequences strictly grow. A broken or silent
        connection is resumed where it was; heartbeats are not yielded. A snapshot with ``reset``
        means that the messages before it are void.
        """

        def start(token: str) -> Any:
            request = job_service_pb2.WatchJobRequest(
                name=name,
                resume_token=token,
                min_interval=_duration(min_interval),
                heartbeat_interval=_duration(timedelta(seconds=self._heartbeat_seconds)),
            )
            return self._jobs.WatchJob(request, timeout=_STREAM_SECONDS, metadata=self._metadata)

        messages = _watch.watch_job(start, resume_token, self._retry_timeout, self._heartbeat_seconds)
        async for message in messages:
            yield message

    async def watch_all(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
        *,
        resume_token: str = "",
    ) -> AsyncIterator[job_service_pb2.WatchJobsResponse]:
        """Yield every change of the jobs that match *filter* (as ListJobs.filter), without end.

        The first message of a new watch has no job: it means that changes from now on are reported.
        A client that lists the jobs after it misses nothing.
        """

        def start(token: str) -> Any:
            request = job_service_pb2.WatchJobsRequest(
                filter=filter,
                resume_token=token,
                heartbeat_interval=_duration(timedelta(seconds=self._heartbeat_seconds)),
            )
            return self._jobs.WatchJobs(request, timeout=_STREAM_SECONDS, metadata=self._metadata)

        messages = _watch.watch_jobs(start, resume_token, self._retry_timeout, self._heartbeat_seconds)
        async for message in messages:
            yield message

    async def wait(self, name: str) -> job_pb2.Job:
        """Return the job once it is SUCCEEDED, FAILED or CANCELLED."""
        job = job_pb2.Job(name=name)
        async for message in self.watch(name, min_interval=timedelta(seconds=60)):
            if message.snapshot.terminal:
                job = message.snapshot.job
        return job

    async def download(
        self, url: str, to: Path, *, on_progress: OnProgress = ignore_progress, **fields: Any
    ) -> Path:
        """Create a job for *url*, wait for it, and save its media; return the path.

        *fields* are those of ``create``. Raises JobFailed if the job did not succeed, and what
        ``save`` raises.
        """
        job = await self.wait((await self.create(url, **fields)).name)
        if job.state != job_pb2.Job.SUCCEEDED or not job.artifacts:
            raise JobFailed(job)
        return await self.save(job.artifacts[0], to, on_progress=on_progress)

    async def save(
        self, artifact: media_pb2.ArtifactInfo, to: Path, *, on_progress: OnProgress = ignore_progress
    ) -> Path:
        """Save a job's artifact as the file *to*, or into the folder *to*; return the path.

        The file is verified before it gets its name. An interrupted download resumes, also in a
        later call. *on_progress* is called with the number of bytes so far. Raises SaveFailed too.
        """

        def start_read(request: storage_service_pb2.ReadArtifactRequest) -> Any:
            return self._storage.ReadArtifact(request, timeout=_STREAM_SECONDS, metadata=self._metadata)

        return await _save.save(start_read, artifact, to, on_progress, self._retry_timeout)

    async def _call(self, method: aio.UnaryUnaryMultiCallable[Any, job_pb2.Job], request: Any) -> job_pb2.Job:
        retries = Retries(seconds=self._retry_timeout)
        while True:
            try:
                return await method(request, timeout=_CALL_SECONDS, metadata=self._metadata)
            except aio.AioRpcError as error:
                await asyncio.sleep(retries.next_delay(from_rpc_error(error)))


def _open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> aio.Channel:
    """Return a channel to *address*, plain text without *credentials*; it connects with the first call."""
    # A proxy of the environment leads to the internet, not to this machine.
    use_proxy = not is_loopback(address.rpartition(":")[0].strip("[]"))
    options = [*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", int(use_proxy))]
    if credentials is None:
        return aio.insecure_channel(address, options)
    return aio.secure_channel(address, credentials, options)


def _duration(value: timedelta | None) -> duration_pb2.Duration | None:
    if value is None:
        return None
    duration = duration_pb2.Duration()
    duration.FromTimedelta(value)
    return duration
