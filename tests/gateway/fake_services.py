"""Fake services behind a real gateway: gRPC servers on loopback whose responses tests control."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import empty_pb2, timestamp_pb2
from tests.key_table import API_KEY_SERVICE, ApiKeyServicer, KeyTable

from reelhaul.admin.v1 import (
    api_key_service_pb2_grpc,
    audit_entry_pb2,
    audit_service_pb2,
    audit_service_pb2_grpc,
)
from reelhaul.fetcher.v1 import fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul.storage.v1 import (
    artifact_pb2,
    storage_service_pb2,
    storage_service_pb2_grpc,
    upload_pb2,
)
from reelhaul.type.v1 import media_pb2
from reelhaul_gateway.app import running
from reelhaul_gateway.settings import Settings
from reelhaul_runtime.auth.calls import Authenticator
from reelhaul_runtime.auth.credential_cache import CredentialCache
from reelhaul_runtime.auth.key_authentication import KeyAuthentication
from reelhaul_runtime.auth.peers import ServiceIdentifier
from reelhaul_runtime.auth.verification import CredentialVerifier
from reelhaul_runtime.errors import NotFound, ReelhaulError, Unavailable
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.server import Servicer, serving

SUITE_TOKEN = "the suite's own"
CONTENT = bytes(range(256)) * 8192
#: The link that the fake storage signs.
LINK = "https://media.example/artifacts/video/%C3%9Cber.mp4?expires=1&signature=secret"
_CHUNK_BYTES = 512 * 1024
#: The size of a message of a watch of ``flood``, and their number: 1 GiB in total.
FLOOD_BYTES, FLOOD_MESSAGES = 32 << 10, 32 << 10


class FakeJobs(job_service_pb2_grpc.JobServiceServicer):
    """Jobs that behave as their IDs say, and those that are stored.

    The IDs are ``missing``, ``breaks``, and ``slow``, ``endless`` and ``flood`` with any suffix.
    """

    def __init__(self) -> None:
        #: The jobs of the calls in progress that end only when they are cancelled.
        self.waiting: set[str] = set()
        #: Messages that the watches of ``flood`` could send, of FLOOD_BYTES each.
        self.flooded = 0
        self.stored: dict[str, job_pb2.Job] = {}
        #: What GetJob raises, by the name of the job.
        self.failures: dict[str, ReelhaulError] = {}
        self.create_requests: list[job_service_pb2.CreateJobRequest] = []
        self.watch_requests: list[job_service_pb2.WatchJobRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def GetJob(self, request, context):
        self.metadata.append(dict(context.invocation_metadata()))
        if request.name == "jobs/missing":
            raise NotFound(request.name)
        if request.name in self.failures:
            raise self.failures[request.name]
        if request.name.startswith("jobs/slow"):
            await self._wait_for_cancel(request.name)
        return self.stored.get(request.name) or _job(request.name)

    async def CreateJob(self, request, context):
        self.create_requests.append(request)
        return job_pb2.Job(name="jobs/new", url=request.job.url, labels=request.job.labels)

    async def ListJobs(self, request, context):
        if request.filter:
            batch = [job for job in self.stored.values() if _is_succeeded_in(request.filter, job)]
            start = int(request.page_token or 0)
            stop = start + request.page_size
            token = str(stop) if stop < len(batch) else ""
            return job_service_pb2.ListJobsResponse(jobs=batch[start:stop], next_page_token=token)
        return job_service_pb2.ListJobsResponse(jobs=[_job(f"jobs/{n}") for n in range(100)], total_size=100)

    async def UpdateJob(self, request, context):
        return job_pb2.Job(name=request.job.name, labels={"mask": ",".join(request.update_mask.paths)})

    async def WatchJob(self, request, context):
        self.watch_requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if request.name == "jobs/missing":
            raise NotFound(request.name)
        if request.resume_token == END_TOKEN:
            return
        yield _snapshot(1, _job(request.name))
        if request.name == "jobs/breaks":
            raise Unavailable("jobs", "the database went away")
        if request.name.startswith("jobs/flood"):
            async for message in self._flood(request.name):
                yield message
        if request.name.startswith("jobs/endless"):
            await self._wait_for_cancel(request.name)
        yield _snapshot(2, _job(request.name), terminal=True)

    async def _wait_for_cancel(self, name):
        self.waiting.add(name)
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.waiting.discard(name)

    async def _flood(self, name):
        self.waiting.add(name)
        message = _snapshot(1, job_pb2.Job(name=name, labels={"x": "x" * FLOOD_BYTES}))
        try:
            for _ in range(FLOOD_MESSAGES):
                yield message
                self.flooded += 1
        finally:
            self.waiting.discard(name)


def _job(name: str) -> job_pb2.Job:
    return job_pb2.Job(
        name=name,
        url="https://media.example/watch?v=1",
        state=job_pb2.Job.State.RUNNING,
        progress=media_pb2.Progress(percent=50, downloaded_bytes=1 << 33),
        create_time=timestamp_pb2.Timestamp(seconds=1_700_000_000),
    )


def _is_succeeded_in(filter_: str, job: job_pb2.Job) -> bool:
    expected = f'batch_id = "{job.batch_id}" AND state = SUCCEEDED'
    return filter_ == expected and job.state == job_pb2.Job.State.SUCCEEDED


def _snapshot(sequence, job, *, terminal=False):
    return job_service_pb2.WatchJobResponse(
        sequence=sequence,
        resume_token=f"token-{sequence}",
        snapshot=job_service_pb2.WatchJobResponse.Snapshot(job=job, terminal=terminal),
    )


#: The resume_token of the last message of a watch.
END_TOKEN = "token-2"


class FakeStorage(storage_service_pb2_grpc.StorageServiceServicer):
    """The artifact ``video``, and those that are uploaded."""

    def __init__(self) -> None:
        self.artifacts = {"artifacts/video": _artifact("artifacts/video", CONTENT, "Über „uns“ 100%.mp4")}
        self.contents = {"artifacts/video": CONTENT}
        self.uploads: dict[str, upload_pb2.Upload] = {}
        self.deleted: list[str] = []
        self.sign_requests: list[storage_service_pb2.SignArtifactUrlRequest] = []
        self.sign_metadata: dict[str, Any] = {}
        #: The offset at which reads fail.
        self.fail_at: int | None = None

    async def GetArtifact(self, request, context):
        if request.name not in self.artifacts:
            raise NotFound(request.name)
        return self.artifacts[request.name]

    async def ReadArtifact(self, request, context):
        artifact, content = self.artifacts[request.name], self.contents[request.name]
        stop = request.read_offset + request.read_limit if request.read_limit else len(content)
        for offset in range(request.read_offset, stop, _CHUNK_BYTES):
            if self.fail_at is not None and offset >= self.fail_at:
                raise Unavailable("storage", "the disk went away")
            chunk = content[offset : min(offset + _CHUNK_BYTES, stop)]
            yield storage_service_pb2.ReadArtifactResponse(artifact=artifact, offset=offset, content=chunk)

    async def GetStorageStatus(self, request, context):
        return storage_service_pb2.StorageStatus(
            backend="local", free_bytes=10, total_bytes=20, latency={"nanos": 5_000_000}
        )

    async def SignArtifactUrl(self, request, context):
        self.sign_requests.append(request)
        self.sign_metadata = dict(context.invocation_metadata())
        return storage_service_pb2.SignArtifactUrlResponse(url=LINK)

    async def CreateUpload(self, request, context):
        name = f"uploads/{uuid.uuid4()}"
        self.uploads[name] = request.upload
        return upload_pb2.Upload(name=name, artifact=request.upload.artifact)

    async def WriteArtifact(self, request_iterator, context):
        async for request in request_iterator:
            self.contents[request.upload] = request.content
        return storage_service_pb2.WriteArtifactResponse(persisted_size=len(self.contents[request.upload]))

    async def FinishUpload(self, request, context):
        name = f"artifacts/{uuid.uuid4()}"
        self.contents[name] = self.contents.pop(request.name)
        self.artifacts[name] = _artifact(name, self.contents[name], "written.bin")
        return self.artifacts[name]

    async def DeleteArtifact(self, request, context):
        self.deleted.append(request.name)
        return empty_pb2.Empty()


def _artifact(name: str, content: bytes, file_name: str) -> artifact_pb2.Artifact:
    return artifact_pb2.Artifact(
        name=name,
        file_name=file_name,
        media_type="video/mp4",
        size_bytes=len(content),
        checksums=media_pb2.Checksums(sha256=hashlib.sha256(content).digest()),
    )


class FakeAudit(audit_service_pb2_grpc.AuditServiceServicer):
    """Keeps the audit entries that it receives."""

    def __init__(self) -> None:
        self.entries = list[audit_entry_pb2.AuditEntry]()
        self.received = asyncio.Event()

    async def RecordAuditEntries(self, request, context):
        self.entries += request.audit_entries
        self.received.set()
        return audit_service_pb2.RecordAuditEntriesResponse()


@dataclass
class GatewayHarness:
    """A running gateway and its fake services."""

    url: str
    jobs: FakeJobs
    storage: FakeStorage
    #: Where the fake services listen: the settings of a gateway before them.
    addresses: dict[str, str]
    #: Closing a stack stops that service: ``jobs``, ``storage``, ``fetcher``, ``gateway``.
    stacks: dict[str, AsyncExitStack] = field(default_factory=dict)
    #: The keys that work with ``auth="keys"``.
    keys: KeyTable = field(default_factory=KeyTable)
    audit: FakeAudit = field(default_factory=FakeAudit)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the gateway."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)


@asynccontextmanager
async def running_gateway(**settings: Any) -> AsyncIterator[GatewayHarness]:
    """Run a gateway and its fake services on free ports of this process; *settings* override its own."""
    jobs, storage, keys, audit, stacks = FakeJobs(), FakeStorage(), KeyTable(), FakeAudit(), {}
    authenticator: Authenticator = NoAuthentication(SUITE_TOKEN)
    if settings.get("auth") == "keys":
        cache = CredentialCache(CredentialVerifier(keys, {}).verify)
        authenticator = KeyAuthentication(ServiceIdentifier(SUITE_TOKEN), cache, {})
    servicers = {
        "jobs": (job_service_pb2_grpc.add_JobServiceServicer_to_server, jobs, job_service_pb2, "JobService"),
        "storage": (
            storage_service_pb2_grpc.add_StorageServiceServicer_to_server,
            storage,
            storage_service_pb2,
            "StorageService",
        ),
        "fetcher": (
            fetcher_service_pb2_grpc.add_FetcherServiceServicer_to_server,
            fetcher_service_pb2_grpc.FetcherServiceServicer(),
            fetcher_service_pb2,
            "FetcherService",
        ),
    }
    async with AsyncExitStack() as all_stacks:
        addresses = {}
        for name, (add, servicer, file, service) in servicers.items():
            stacks[name] = await all_stacks.enter_async_context(AsyncExitStack())
            full_name = file.DESCRIPTOR.services_by_name[service].full_name
            port = await stacks[name].enter_async_context(
                serving(
                    "127.0.0.1:0",
                    [(add, servicer, full_name), *(_access_servicers(keys, audit) if name == "jobs" else ())],
                    authenticator=authenticator,
                    checks={f"{name}.{part}": _pass for part in ("database", "nats", "backend")},
                    drain_seconds=0,
                )
            )
            addresses[f"{name}_address"] = f"127.0.0.1:{port}"
        defaults = {
            "gateway_address": "127.0.0.1:0",
            "suite_token": SUITE_TOKEN,
            "drain_seconds": 1,
            **addresses,
        }
        stacks["gateway"] = await all_stacks.enter_async_context(AsyncExitStack())
        port = await stacks["gateway"].enter_async_context(running(Settings(**(defaults | settings))))
        yield GatewayHarness(f"http://127.0.0.1:{port}", jobs, storage, addresses, stacks, keys, audit)


def _access_servicers(keys: KeyTable, audit: FakeAudit) -> list[Servicer]:
    add_keys = api_key_service_pb2_grpc.add_ApiKeyServiceServicer_to_server
    add_audit = audit_service_pb2_grpc.add_AuditServiceServicer_to_server
    name = audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name
    return [(add_keys, ApiKeyServicer(keys), API_KEY_SERVICE.full_name), (add_audit, audit, name)]


async def _pass() -> None:
    return None
