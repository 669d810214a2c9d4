"""One server, seen from a program."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf import duration_pb2
from grpc import aio

from reelhaul._core.retries import call_with_retries
from reelhaul.client import _save, _watch
from reelhaul.client._channels import opened
from reelhaul.client._errors import JobFailed
from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul.storage.v1 import storage_service_pb2, storage_service_pb2_grpc
from reelhaul.type.v1 import media_pb2

DEFAULT_JOBS = "127.0.0.1:50051"
DEFAULT_STORAGE = "127.0.0.1:50053"

# The longest deadline that a policy gives to what is one answer.
_CALL_SECONDS = 65.0
_STREAM_SECONDS = 12 * 3600.0


class Client:
    """Calls jobs at *address* and, for files, storage at *storage* (each host:port).

    To be used as an async context manager. Every method raises CallFailed; what is safe to
    repeat, creating too, is tried again for *patience* seconds while the server is away.
    *api_key* goes with each call. Without *credentials* the connection is plain text.
    """

    def __init__(
        self,
        address: str = DEFAULT_JOBS,
        *,
        storage: str = DEFAULT_STORAGE,
        api_key: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        patience: float = 120.0,
    ) -> None:
        self._patience = patience
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._channels = [opened(address, credentials), opened(storage, credentials)]
        self._jobs = job_service_pb2_grpc.JobServiceStub(self._channels[0])
        self._storage = storage_service_pb2_grpc.StorageServiceStub(self._channels[1])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels:
            await channel.close()

    async def create(self, url: str, *, request_id: str = "", **wishes: Any) -> job_pb2.Job:
        """Start a job for *url*; *wishes* are fields of Job: ``format``, ``labels``, ``priority`` …

        Committed when this returns, and once, however often the call had to be repeated. The
        same *request_id*, a UUID, is the same job.
        """
        job = job_pb2.Job(url=url, **wishes)
        request = job_service_pb2.CreateJobRequest(job=job, request_id=request_id or str(uuid.uuid4()))
        return await self._call(self._jobs.CreateJob, request)

    async def get(self, name: str) -> job_pb2.Job:
        """How a job stands."""
        return await self._call(self._jobs.GetJob, job_service_pb2.GetJobRequest(name=name))

    async def cancel(self, name: str, reason: str = "") -> job_pb2.Job:
        """Cancel a job for good. STATE_CONFLICT where it has ended otherwise."""
        request = job_service_pb2.CancelJobRequest(name=name, reason=reason)
        return await self._call(self._jobs.CancelJob, request)

    async def stop_recording(self, name: str) -> job_pb2.Job:
        """End a recording of what is live now, and keep it. STATE_CONFLICT where nothing is recorded."""
        return await self._call(self._jobs.StopRecording, job_service_pb2.StopRecordingRequest(name=name))

    async def watch(
        self, name: str, *, min_interval: timedelta | None = None, resume_token: str = ""
    ) -> AsyncIterator[job_service_pb2.WatchJobResponse]:
        """What happens to a job: a snapshot, every state change, progress at most each *min_interval*.

        The last message is the terminal snapshot. Sequences strictly grow: a broken or silent
        connection is taken up again where it was, and heartbeats are kept from the caller. A
        snapshot with ``reset`` says to discard what came before it.
        """

        def opening(token: str) -> Any:
            request = job_service_pb2.WatchJobRequest(
                name=name,
                resume_token=token,
                min_interval=_duration(min_interval),
                heartbeat_interval=_watch.heartbeat(),
            )
            return self._jobs.WatchJob(request, timeout=_STREAM_SECONDS, metadata=self._metadata)

        async for message in _watch.job_messages(opening, resume_token, self._patience):
            yield message

    async def watch_all(
        self,
        filter: str = "",  # noqa: A002 - the API's own word
        *,
        resume_token: str = "",
    ) -> AsyncIterator[job_service_pb2.WatchJobsResponse]:
        """Every change of the jobs that *filter* (as ListJobs.filter) holds, without end.

        The first message of a fresh watch has no job: what changes from then on will be told.
        List the jobs after it, and nothing falls between.
        """

        def opening(token: str) -> Any:
            request = job_service_pb2.WatchJobsRequest(
                filter=filter, resume_token=token, heartbeat_interval=_watch.heartbeat()
            )
            return self._jobs.WatchJobs(request, timeout=_STREAM_SECONDS, metadata=self._metadata)

        async for message in _watch.change_messages(opening, resume_token, self._patience):
            yield message

    async def wait(self, name: str) -> job_pb2.Job:
        """The job, once it has ended: SUCCEEDED, FAILED or CANCELLED."""
        job = job_pb2.Job(name=name)
        async for message in self.watch(name, min_interval=timedelta(seconds=60)):
            if message.snapshot.terminal:
                job = message.snapshot.job
        return job

    async def download(
        self, url: str, to: Path, *, received: _save.Received = _save.nothing, **wishes: Any
    ) -> Path:
        """Create a job for *url*, wait for it, and save its media; where that is. *wishes*: see create.

        Raises JobFailed where the job did not succeed, and what ``save`` raises.
        """
        job = await self.wait((await self.create(url, **wishes)).name)
        if job.state != job_pb2.Job.SUCCEEDED or not job.artifacts:
            raise JobFailed(job)
        return await self.save(job.artifacts[0], to, received=received)

    async def save(
        self, artifact: media_pb2.ArtifactInfo, to: Path, *, received: _save.Received = _save.nothing
    ) -> Path:
        """Save a job's artifact as the file *to*, or into the folder *to*; where it is.

        It is verified before it has its name. An interrupted one is taken up where it was, also
        by a later call. *received* is told the bytes there are so far. Raises SaveFailed too.
        """

        def opening(request: storage_service_pb2.ReadArtifactRequest) -> Any:
            return self._storage.ReadArtifact(request, timeout=_STREAM_SECONDS, metadata=self._metadata)

        return await _save.save(opening, artifact, to, received, self._patience)

    async def _call(self, method: aio.UnaryUnaryMultiCallable[Any, job_pb2.Job], request: Any) -> job_pb2.Job:
        async def once() -> job_pb2.Job:
            return await method(request, timeout=_CALL_SECONDS, metadata=self._metadata)

        return await call_with_retries(once, self._patience)


def _duration(value: timedelta | None) -> duration_pb2.Duration | None:
    if value is None:
        return None
    made = duration_pb2.Duration()
    made.FromTimedelta(value)
    return made
