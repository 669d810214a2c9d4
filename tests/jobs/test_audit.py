"""The audit log: who did what to which resource, stored before the answer, and never changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, status_pb2
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from tests.callers import Callers
from tests.job_stores import SqlStore, postgresql_store, sqlite_store
from tests.jobs.calls import create_job, error_of
from tests.jobs.conftest import JobsService, eventually, run_service
from tests.servers import free_port

from reelhaul.admin.v1 import audit_service_pb2_grpc
from reelhaul.admin.v1.audit_entry_pb2 import AuditEntry
from reelhaul.admin.v1.audit_service_pb2 import (
    GetAuditEntryRequest,
    ListAuditEntriesRequest,
    RecordAuditEntriesRequest,
)
from reelhaul.downloads.v1.download_service_pb2 import DeleteDownloadRequest
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import (
    BatchCancelJobsRequest,
    BatchRetryJobsRequest,
    BatchRetryJobsResponse,
    DeleteJobRequest,
    GetJobRequest,
)
from reelhaul.storage.v1.storage_service_pb2 import UpdateArtifactRequest
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import MethodPolicy, PermissionLevel
from reelhaul_jobs.ports.audit import AuditQuery
from reelhaul_jobs.service.housekeeping import AuditPurger
from reelhaul_jobs.store.audit import SqlAuditStore
from reelhaul_runtime.auth.audit_entries import entries_of
from reelhaul_runtime.auth.audit_log import MAX_WAITING, AuditRecorder, RemoteAuditStore
from reelhaul_runtime.auth.calls import IncomingCall
from reelhaul_runtime.auth.peers import Peer
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.uuid7 import new_id

DOWNLOAD = PermissionLevel.PERMISSION_LEVEL_DOWNLOAD
KEY = Caller("acme", DOWNLOAD, principal="apiKeys/0190")
PAST = datetime.now(UTC) - timedelta(days=3)


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with sqlite_store(tmp_path) if request.param == "sqlite" else postgresql_store() as opened:
        yield opened


def entry(number: int, time: datetime = PAST, **fields: Any) -> AuditEntry:
    """Return an entry of a call *number* seconds after *time*."""
    at = time + timedelta(seconds=number)
    built = AuditEntry(
        name=f"auditEntries/{new_id(at)}",
        principal="apiKeys/0190",
        api_key="apiKeys/0190",
        tenant="acme",
        method="reelhaul.jobs.v1.JobService/DeleteJob",
        resource=f"jobs/{number}",
        address="192.0.2.1",
        call_id="c",
    )
    built.create_time.FromDatetime(at)
    built.status.SetInParent()
    built.MergeFrom(AuditEntry(**fields))
    return built


async def test_calls_are_recorded(service: JobsService, monkeypatch: pytest.MonkeyPatch):
    """When a call is answered its entry is stored: principal, tenant, method, resource, address, outcome."""
    callers = Callers(monkeypatch)
    acme, rival = callers.metadata(KEY), callers.of("rival")
    admin, reader = callers.of("ops", "ADMIN"), callers.of("acme", "READ_ONLY")
    jobs = service.jobs
    created = await create_job(service)
    async with open_channel(f"127.0.0.1:{service.port}", []) as channel:
        audit = audit_service_pb2_grpc.AuditServiceStub(channel)

        async def newest() -> AuditEntry:
            listed = await audit.ListAuditEntries(ListAuditEntriesRequest(page_size=1), metadata=admin)
            newest_entry: AuditEntry = listed.audit_entries[0]
            return newest_entry

        request = DeleteJobRequest(name=created.name)
        assert (await error_of(jobs.DeleteJob(request, metadata=rival))).reason
        refused = await newest()
        assert refused.status.code == code_pb2.NOT_FOUND
        assert refused.status.details
        assert (refused.tenant, refused.resource) == ("rival", created.name)

        await jobs.DeleteJob(DeleteJobRequest(name=created.name, allow_missing=True), metadata=acme)
        allowed = await newest()
        assert allowed.method == "reelhaul.jobs.v1.JobService/DeleteJob"
        assert (allowed.principal, allowed.api_key) == ("apiKeys/0190", "apiKeys/0190")
        assert (allowed.tenant, allowed.status.code, allowed.address) == ("acme", 0, "127.0.0.1")
        assert allowed.call_id
        assert await audit.GetAuditEntry(GetAuditEntryRequest(name=allowed.name), metadata=admin) == allowed

        assert (await error_of(jobs.DeleteJob(request, metadata=reader))).reason
        assert (await newest()).status.code == code_pb2.PERMISSION_DENIED
        # What only reads is not recorded, nor what the suite's own services do.
        before = await newest()
        await error_of(jobs.GetJob(GetJobRequest(name=created.name), metadata=acme))
        assert await newest() == before
        for call in (
            audit.ListAuditEntries(ListAuditEntriesRequest(), metadata=acme),
            audit.GetAuditEntry(GetAuditEntryRequest(name=allowed.name), metadata=acme),
            audit.RecordAuditEntries(RecordAuditEntriesRequest(audit_entries=[before]), metadata=admin),
        ):
            assert (await error_of(call)).reason == ErrorReason.PERMISSION_INSUFFICIENT


def call_of(path: str, request: Any, response: Any = None, caller: Caller | None = KEY) -> IncomingCall:
    """Return the call of the RPC at *path* as the interceptor records it."""
    return IncomingCall(path, MethodPolicy(), request, Peer("192.0.2.1"), caller, (), response)


@pytest.mark.parametrize(
    ("request_", "response", "resources", "paths"),
    [
        (DeleteJobRequest(name="jobs/1"), None, ["jobs/1"], []),
        (DeleteDownloadRequest(job_id="1"), None, ["jobs/1"], []),
        (BatchCancelJobsRequest(names=["jobs/1", "jobs/2"]), None, ["jobs/1", "jobs/2"], []),
        (
            BatchRetryJobsRequest(filter="state = FAILED"),
            BatchRetryJobsResponse(jobs=[Job(name="jobs/3"), Job(name="jobs/4")]),
            ["jobs/3", "jobs/4"],
            [],
        ),
        (
            UpdateArtifactRequest(
                artifact={"name": "artifacts/1", "file_name": "secret"},
                update_mask={"paths": ["file_name", "name"]},
            ),
            None,
            ["artifacts/1"],
            ["file_name"],
        ),
        (UpdateArtifactRequest(artifact={"name": "artifacts/1", "etag": "e"}), None, ["artifacts/1"], []),
        (None, None, [""], []),
        (DeleteJobRequest(name="x" * 5000), None, ["x" * 300], []),
    ],
)
def test_entries_of_a_call(request_: Any, response: Any, resources: Sequence[str], paths: Sequence[str]):
    """There is one entry per resource, of the request or else the response; values of fields are not kept."""
    entries = entries_of(call_of("/a.B/C", request_, response), status_pb2.Status(), PAST)
    assert [each.resource for each in entries] == resources
    assert all(list(each.changed_paths) == paths for each in entries)
    assert len({each.name for each in entries}) == len(entries)
    assert all(b"secret" not in each.SerializeToString() for each in entries)


async def test_refused_calls_are_limited():
    """Callers without a credential cannot fill the log; allowed calls are all recorded."""
    stored, time = list[AuditEntry](), [0.0]

    async def store(entries: Sequence[AuditEntry]) -> None:
        stored.extend(entries)

    recorder = AuditRecorder(store, lambda: time[0])
    denied = status_pb2.Status(code=code_pb2.UNAUTHENTICATED)
    for _ in range(30):
        await recorder.record(call_of("/a.B/C", None, caller=None), denied)
    assert len(stored) == 10
    for _ in range(70):
        await recorder.record(call_of("/a.B/C", None), denied)
    assert len(stored) == 70
    for number in range(2000):
        call = call_of("/a.B/C", None, caller=None)
        call.peer.address = f"2001:db8::{number:x}"
        await recorder.record(call, denied)
    assert len(stored) == 660
    await recorder.record(call_of("/a.B/C", None), status_pb2.Status())
    assert len(stored) == 661
    time[0] = 60.0
    await recorder.record(call_of("/a.B/C", None, caller=None), denied)
    assert len(stored) == 662
    suite = Caller("local", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS, suite=True)
    await recorder.record(call_of("/a.B/C", None, caller=suite), status_pb2.Status())
    assert len(stored) == 662


@pytest.mark.parametrize("known", [True, False])
async def test_interrupted_calls_are_recorded(known: bool):
    """A caller cannot hide what it changes by cancelling its calls: they may have had their effect."""
    stored = list[AuditEntry]()

    async def store(entries: Sequence[AuditEntry]) -> None:
        stored.extend(entries)

    recorder = AuditRecorder(store)
    caller = KEY if known else None
    for _ in range(70):
        call = call_of("/a.B/C", None, caller=caller)
        await recorder.record(call, status_pb2.Status(code=code_pb2.CANCELLED))
    assert len(stored) == (70 if known else 10)


async def test_entry_that_cannot_be_stored(caplog: pytest.LogCaptureFixture):
    """If the store fails, the call is answered all the same, and the entry is in the service's log."""

    async def fail(entries: Sequence[AuditEntry]) -> None:
        raise NotFound("the database")

    await AuditRecorder(fail).record(call_of("/a.B/C", DeleteJobRequest(name="jobs/1")), status_pb2.Status())
    (record,) = caplog.records
    assert record.getMessage() == "audit entry not stored"
    assert vars(record)["resource"] == "jobs/1"


async def test_filters_and_pages(store: SqlStore):
    """Entries are listed newest first, in pages, by every field; a repeated one is stored once."""
    audit = SqlAuditStore(store.database)
    entries = [entry(number) for number in range(5)]
    other = entry(5, tenant="rival", address="2001:db8::1", status={"code": 7}, principal="users/1")
    await audit.add([*entries, other])
    await audit.add(entries)
    page = await audit.list_page(AuditQuery(limit=4))
    assert [each.resource for each in page] == ["jobs/5", "jobs/4", "jobs/3", "jobs/2", "jobs/1"]
    last = page[3]
    after = (last.create_time.ToDatetime(UTC), last.name.removeprefix("auditEntries/"))
    rest = await audit.list_page(AuditQuery(limit=4, after=after))
    assert [each.resource for each in rest] == ["jobs/1", "jobs/0"]
    assert rest[1] == entries[0]
    with pytest.raises(NotFound):
        await audit.get(new_id(PAST))


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE audit_entries SET principal = 'x'", "never changed"),
        ("DELETE FROM audit_entries", "kept for a day"),
    ],
)
async def test_append_only(store: SqlStore, statement: str, error: str):
    """The database refuses to change an entry, and to delete one of the last day."""
    await SqlAuditStore(store.database).add([entry(1, datetime.now(UTC) - timedelta(hours=1))])
    with pytest.raises(DBAPIError, match=error):
        await store.database.write(lambda connection: connection.execute(text(statement)))


async def test_entries_are_not_replaced(tmp_path: Path):
    """REPLACE, which is neither UPDATE nor DELETE for SQLite, changes no entry."""
    replacement = text(
        "REPLACE INTO audit_entries SELECT id, create_time, 'x', tenant, method, resource, address,"
        " status_code, status, changed_paths, call_id FROM audit_entries"
    )
    async with sqlite_store(tmp_path) as store:
        audit = SqlAuditStore(store.database)
        await audit.add([entry(1, datetime.now(UTC) - timedelta(hours=1))])
        await store.database.write(lambda connection: connection.execute(replacement))
        (kept,) = await audit.list_page(AuditQuery(limit=9))
        assert (kept.resource, kept.principal) == ("jobs/1", entry(1).principal)


async def test_entries_are_not_truncated():
    """TRUNCATE, for which PostgreSQL calls no trigger of rows, deletes no entry."""
    async with postgresql_store() as store:
        audit = SqlAuditStore(store.database)
        await audit.add([entry(1, datetime.now(UTC) - timedelta(hours=1))])
        with pytest.raises(DBAPIError, match="kept for a day"):
            await store.database.write(lambda connection: connection.execute(text("TRUNCATE audit_entries")))
        assert len(await audit.list_page(AuditQuery(limit=9))) == 1


async def test_retention(store: SqlStore):
    """Entries are deleted when their retention has ended, and those within it are not."""
    audit = SqlAuditStore(store.database)
    await audit.add([entry(1), entry(2, PAST + timedelta(days=2))])
    now = datetime.now(UTC)
    await AuditPurger(audit, lambda: now, timedelta(days=4)).step()
    assert len(await audit.list_page(AuditQuery(limit=9))) == 2
    await AuditPurger(audit, lambda: now, timedelta(days=2)).step()
    (kept,) = await audit.list_page(AuditQuery(limit=9))
    assert kept.resource == "jobs/2"


async def test_entries_of_other_services(settings: Any):
    """Entries of storage and fetchers wait while jobs is away, arrive in order, and none twice."""
    port = free_port()
    settings = settings.model_copy(update={"jobs_address": f"127.0.0.1:{port}"})
    entries = [entry(number, datetime.now(UTC)) for number in range(450)]
    async with (
        open_channel(f"127.0.0.1:{port}", [], suite_token=settings.suite_token) as channel,
        RemoteAuditStore.open(channel) as remote,
    ):
        await remote.add(entries)
        async with run_service(settings), open_channel(f"127.0.0.1:{port}", []) as public:
            audit = audit_service_pb2_grpc.AuditServiceStub(public)

            async def arrived() -> bool:
                request = ListAuditEntriesRequest(page_size=1000, filter='resource = "jobs/*"')
                listed = (await audit.ListAuditEntries(request)).audit_entries
                return [each.resource for each in reversed(listed)] == [each.resource for each in entries]

            await eventually(arrived)
            internal = audit_service_pb2_grpc.AuditServiceStub(channel)
            await internal.RecordAuditEntries(RecordAuditEntriesRequest(audit_entries=entries[:9]))
            assert await arrived()
            for wrong in ([], [AuditEntry()]):
                request = RecordAuditEntriesRequest(audit_entries=wrong)
                error = await error_of(internal.RecordAuditEntries(request))
                assert error.reason == ErrorReason.FIELD_INVALID


async def test_waiting_entries_are_bounded(caplog: pytest.LogCaptureFixture):
    """While jobs is away so many entries wait; further ones are in the service's log."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{free_port()}") as channel:
        remote = RemoteAuditStore(channel)
        await remote.add([entry(1)] * MAX_WAITING)
        await remote.add([entry(2)])
        (record,) = caplog.records
        assert vars(record)["resource"] == "jobs/2"
        await asyncio.wait_for(remote.close(), 30)
        assert caplog.records[-1].getMessage() == "audit entries lost"
