"""TenantService on both databases, with a clock that the test sets: who manages tenants, and their end."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import duration_pb2, field_mask_pb2
from tests.contracts.test_schedule_store import schedule
from tests.job_stores import NOW, SqlStore, job, postgresql_store, sqlite_store
from tests.jobs.calls import error_of
from tests.jobs.conftest import run_service
from tests.jobs.fake_bus import FakeBus

from reelhaul.admin.v1 import api_key_pb2
from reelhaul.admin.v1.api_key_pb2 import Quota
from reelhaul.admin.v1.api_key_service_pb2 import CreateApiKeyRequest
from reelhaul.admin.v1.api_key_service_pb2_grpc import ApiKeyServiceStub
from reelhaul.admin.v1.tenant_pb2 import Tenant
from reelhaul.admin.v1.tenant_service_pb2 import (
    CreateTenantRequest,
    DeleteTenantRequest,
    GetTenantRequest,
    ListTenantsRequest,
    UpdateTenantRequest,
)
from reelhaul.admin.v1.tenant_service_pb2_grpc import TenantServiceStub
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import CreateJobRequest, GetJobRequest
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.api.tenants.servicer import TenantServicer
from reelhaul_jobs.model.api_key import ApiKey, KeyString
from reelhaul_jobs.model.states import State
from reelhaul_jobs.service.access_changes import AccessChanges
from reelhaul_jobs.service.artifact_expiry_sync import ArtifactExpirySync
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.credentials import Credentials
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.quotas import Quotas
from reelhaul_jobs.service.tenants import CACHED_KEYS, TenantDeleter, Tenants
from reelhaul_jobs.settings import Settings
from reelhaul_jobs.store.quotas import SqlQuotaStore
from reelhaul_jobs.store.tables import metadata
from reelhaul_jobs.store.tenants import OWNED_TABLES, SqlTenantStore
from reelhaul_runtime import identity
from reelhaul_runtime.errors import NotFound, ReelhaulError, Unavailable
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.rpc.channels import open_channel

DOWNLOAD = PermissionLevel.PERMISSION_LEVEL_DOWNLOAD
RESOURCE_NOT_FOUND = ErrorReason.RESOURCE_NOT_FOUND
OPERATOR = Caller("local", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS)
ADMIN = Caller("ops", PermissionLevel.PERMISSION_LEVEL_ADMIN)
USER = Caller("acme", PermissionLevel.PERMISSION_LEVEL_READ_ONLY)
REQUEST_ID = "3f0c2d1e-0a4b-4c7d-9e8f-112233445566"


class FakeStorage:
    """What tenants have in storage: so many batches of artifacts."""

    def __init__(self) -> None:
        self.batches = dict[str, int]()
        self.deleted = list[str]()
        self.broken = set[str]()

    async def owns_resources(self, tenant: str) -> bool:
        return self.batches.get(tenant, 0) > 0

    async def delete_resources(self, tenant: str) -> bool:
        if tenant in self.broken:
            raise Unavailable("storage", "it cannot delete this")
        self.batches[tenant] = max(0, self.batches.get(tenant, 0) - 1)
        return self.batches[tenant] > 0

    async def delete_artifacts(self, artifacts: list[str]) -> None:
        self.deleted += artifacts


class TenantHarness:
    """The service on a database, without a server; each call is of a caller that the test names."""

    def __init__(self, store: SqlStore, tenants: SqlTenantStore) -> None:
        self.time, self.bus, self.store, self.tenants = NOW, FakeBus(), store, tenants
        self.storage: Any = FakeStorage()
        self.changes = AccessChanges(self.bus)
        use_cases = Tenants(tenants, self.storage, self.changes, self.now)
        quotas = Quotas(SqlQuotaStore(store.database), self.now)
        self.servicer = TenantServicer(use_cases, quotas, PageTokens("secret", self.now), self.now)
        notifier = ChangeNotifier(EventHub(), self.bus)
        self.deleter = TenantDeleter(tenants, store, self.storage, notifier, self.changes, self.now)
        self.expiry_sync = ArtifactExpirySync(store, self.storage, self.now)
        self.credentials = Credentials(store.api_keys, self.now)

    def now(self) -> datetime:
        return self.time

    async def call(self, method: str, request: Any, caller: Caller = OPERATOR) -> Any:
        """Call *method* as *caller*, in a context of its own."""
        context = contextvars.copy_context()
        context.run(identity.set_caller, caller)
        return await asyncio.create_task(getattr(self.servicer, method)(request, None), context=context)

    async def create(self, tenant_id: str = "acme", **fields: Any) -> Tenant:
        request = CreateTenantRequest(tenant_id=tenant_id, tenant=Tenant(**fields))
        created: Tenant = await self.call("CreateTenant", request)
        return created

    async def add_key(self, tenant: str) -> str:
        """Store a key of *tenant*; return its string."""
        string = KeyString()
        key = ApiKey(
            id=f"00000000-0000-7000-8000-{len(tenant):012d}",
            tenant=tenant,
            permission=PermissionLevel.PERMISSION_LEVEL_DOWNLOAD,
            hash=string.hash,
            key_prefix=string.prefix,
            create_time=NOW,
            update_time=NOW,
        )
        await self.store.api_keys.add(key)
        return string.text


@pytest.fixture(params=["sqlite", "postgresql"])
async def tenants(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TenantHarness]:
    async with sqlite_store(tmp_path) if request.param == "sqlite" else postgresql_store() as store:
        yield TenantHarness(store, store.tenants)


async def reason_of(call: Awaitable[object]) -> str:
    """Return the reason with which *call* fails."""
    with pytest.raises(ReelhaulError) as failure:
        await call
    return ErrorReason.Name(failure.value.reason)


async def test_create_and_read(tenants: TenantHarness):
    """A tenant is stored with its limits, its sites in one form; a repeated request returns the same one."""
    request = CreateTenantRequest(
        tenant_id="acme",
        request_id=REQUEST_ID,
        tenant=Tenant(
            display_name="Acme",
            contact="it@acme.example",
            quota=Quota(jobs_per_day=100),
            denied_sites=["YouTube.com.", "bücher.example"],
            retention=duration_pb2.Duration(seconds=3600),
        ),
    )
    created = await tenants.call("CreateTenant", request)
    assert created.name == "tenants/acme"
    assert created.state == Tenant.ACTIVE
    assert list(created.denied_sites) == ["youtube.com", "xn--bcher-kva.example"]
    assert await tenants.call("CreateTenant", request) == created
    assert await tenants.call("GetTenant", GetTenantRequest(name="tenants/acme")) == created
    assert tenants.bus.access_changes[0] == "tenants/acme"
    request.request_id = ""
    assert await reason_of(tenants.call("CreateTenant", request)) == "RESOURCE_EXISTS"
    request.validate_only = True
    assert await reason_of(tenants.call("CreateTenant", request)) == "RESOURCE_EXISTS"
    request.tenant_id = "other"
    assert (await tenants.call("CreateTenant", request)).name == "tenants/other"
    assert await tenants.tenants.find("other") is None


async def test_id_by_the_server(tenants: TenantHarness):
    """Without an id the server creates one."""
    assert (await tenants.create("")).name.startswith("tenants/t-")


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ("display_name", "x" * 101, "x" * 100),
        ("display_name", "a\nb", "a b"),
        ("contact", "x" * 255, "x" * 254),
        ("quota", Quota(jobs_per_day=-2), Quota(jobs_per_day=-1)),
        ("allowed_sites", ["https://youtube.com"], ["youtube.com"]),
        ("allowed_sites", [f"s{n}.example" for n in range(101)], [f"s{n}.example" for n in range(100)]),
        ("denied_sites", [""], []),
        ("retention", duration_pb2.Duration(), duration_pb2.Duration(seconds=1)),
    ],
)
@pytest.mark.parametrize("tenants", ["sqlite"], indirect=True)
async def test_bounds(tenants: TenantHarness, field: str, wrong: object, right: object):
    """A value out of bounds is FIELD_INVALID, the last one within is stored."""
    assert await reason_of(tenants.create(**{field: wrong})) == "FIELD_INVALID"
    await tenants.create(**{field: right})


@pytest.mark.parametrize("tenants", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("wrong", "right"), [("me", "me2"), ("Acme", "acme"), ("a" * 64, "a" * 63), ("a-", "a-b")]
)
async def test_ids(tenants: TenantHarness, wrong: str, right: str):
    """Ids are lower-case labels of at most 63 characters, and "me" is the caller's own tenant."""
    assert await reason_of(tenants.create(wrong)) == "FIELD_INVALID"
    assert (await tenants.create(right)).name == f"tenants/{right}"


async def test_who_reads(tenants: TenantHarness):
    """A caller reads its own tenant, also as "me"; ADMIN reads all, by name and in pages by name."""
    for tenant_id in ("acme", "beta", "gamma"):
        await tenants.create(tenant_id, contact=f"{tenant_id}@example")
    own = await tenants.call("GetTenant", GetTenantRequest(name="tenants/me"), USER)
    assert own.name == "tenants/acme"
    assert await tenants.call("GetTenant", GetTenantRequest(name="tenants/acme"), USER) == own
    foreign = GetTenantRequest(name="tenants/beta")
    assert await reason_of(tenants.call("GetTenant", foreign, USER)) == "RESOURCE_NOT_FOUND"
    assert (await tenants.call("GetTenant", foreign, ADMIN)).contact == "beta@example"
    request = ListTenantsRequest(page_size=2, filter="state = ACTIVE")
    first = await tenants.call("ListTenants", request, ADMIN)
    assert [each.name for each in first.tenants] == ["tenants/acme", "tenants/beta"]
    request.page_token = first.next_page_token
    rest = await tenants.call("ListTenants", request, ADMIN)
    assert [each.name for each in rest.tenants] == ["tenants/gamma", "tenants/local"]
    assert not rest.next_page_token
    found = await tenants.call("ListTenants", ListTenantsRequest(filter='contact = "be*"'), ADMIN)
    assert [each.name for each in found.tenants] == ["tenants/beta"]


async def test_update(tenants: TenantHarness):
    """Fields of the mask change, and only those; an old etag is refused, and so is to lock oneself out."""
    created = await tenants.create(contact="a@example", allowed_sites=["a.example"])
    mask = field_mask_pb2.FieldMask(paths=["allowed_sites", "disabled"])
    wanted = Tenant(name=created.name, disabled=True, etag=created.etag)
    update = UpdateTenantRequest(tenant=wanted, update_mask=mask)
    changed = await tenants.call("UpdateTenant", update)
    assert (changed.contact, list(changed.allowed_sites), changed.state) == ("a@example", [], Tenant.DISABLED)
    assert tenants.bus.access_changes == ["tenants/acme", "tenants/acme"]
    assert await reason_of(tenants.call("UpdateTenant", update)) == "ETAG_MISMATCH"
    own = UpdateTenantRequest(tenant=Tenant(name="tenants/local", disabled=True))
    assert await reason_of(tenants.call("UpdateTenant", own)) == "STATE_CONFLICT"
    own.tenant.disabled, own.tenant.contact = False, "me@example"
    assert (await tenants.call("UpdateTenant", own)).contact == "me@example"


async def test_disabled_tenant_has_no_working_key(tenants: TenantHarness):
    """Keys of a disabled tenant do not work, and work again once it is enabled."""
    await tenants.create()
    string = await tenants.add_key("acme")
    await tenants.credentials.verify(string)
    request = UpdateTenantRequest(tenant=Tenant(name="tenants/acme", disabled=True))
    await tenants.call("UpdateTenant", request)
    assert await reason_of(tenants.credentials.verify(string)) == "CREDENTIAL_INVALID"
    request.tenant.disabled = False
    request.update_mask.paths.append("disabled")
    await tenants.call("UpdateTenant", request)
    await tenants.credentials.verify(string)


@pytest.mark.parametrize("owned", ["key", "job", "schedule", "artifact"])
@pytest.mark.parametrize("tenants", ["sqlite"], indirect=True)
async def test_tenant_in_use(tenants: TenantHarness, owned: str):
    """A tenant that owns something is deleted with force only; one without is deleted without."""
    await tenants.create()
    await tenants.create("empty")
    if owned == "key":
        await tenants.add_key("acme")
    elif owned == "job":
        await tenants.store.add([job(1)])
    elif owned == "schedule":
        await tenants.store.schedules.add(schedule())
    else:
        tenants.storage.batches["acme"] = 1
    request = DeleteTenantRequest(name="tenants/acme")
    assert await reason_of(tenants.call("DeleteTenant", request)) == "STATE_CONFLICT"
    request.force = True
    assert (await tenants.call("DeleteTenant", request)).state == Tenant.DELETING
    empty = await tenants.call("DeleteTenant", DeleteTenantRequest(name="tenants/empty"))
    assert empty.state == Tenant.DELETING
    own = DeleteTenantRequest(name="tenants/local", force=True)
    assert await reason_of(tenants.call("DeleteTenant", own)) == "STATE_CONFLICT"


async def test_delete_with_everything(tenants: TenantHarness):
    """Its keys stop at once; jobs, files and rows go in steps that may be repeated; then the id is free."""
    created, other = await tenants.create(), await tenants.create("other")
    string = await tenants.add_key("acme")
    await tenants.store.add([job(1), job(2), job(3, tenant="other")])
    await tenants.store.schedules.add(schedule())
    tenants.storage.batches["acme"] = 2

    request = DeleteTenantRequest(name="tenants/acme", force=True, etag=created.etag)
    deleting = await tenants.call("DeleteTenant", request)
    assert await reason_of(tenants.credentials.verify(string)) == "CREDENTIAL_INVALID"
    request.etag = ""
    assert await tenants.call("DeleteTenant", request) == deleting
    update = UpdateTenantRequest(tenant=Tenant(name="tenants/acme", contact="x"))
    assert await reason_of(tenants.call("UpdateTenant", update)) == "STATE_CONFLICT"

    assert await tenants.deleter.step()
    assert not await tenants.store.schedules.list_all("acme")
    pending = await tenants.store.list_expiry_pending(tenants.time, 10)
    assert [(each.id, each.state) for each in pending] == [
        (job(1).id, State.CANCELLED),
        (job(2).id, State.CANCELLED),
    ]
    # A new leader, after a crash, continues.
    assert await tenants.deleter.step()
    assert not await tenants.deleter.step()
    # Rows of jobs are still there, and keys may still be cached: the tenant stays.
    tenants.time += CACHED_KEYS - timedelta(seconds=1)
    await tenants.expiry_sync.step()
    assert not await tenants.deleter.step()
    assert (await tenants.call("GetTenant", GetTenantRequest(name="tenants/acme"))).state == Tenant.DELETING
    tenants.time += timedelta(seconds=1)
    assert not await tenants.deleter.step()
    gone = GetTenantRequest(name="tenants/acme")
    assert await reason_of(tenants.call("GetTenant", gone)) == "RESOURCE_NOT_FOUND"
    with pytest.raises(NotFound):
        await tenants.store.api_keys.get("00000000-0000-7000-8000-000000000004")

    assert (await tenants.create()).etag == '"1"'
    assert await tenants.call("GetTenant", GetTenantRequest(name="tenants/other")) == other
    assert (await tenants.store.get(job(3).id)).state is State.QUEUED


async def test_one_tenant_delays_no_other(tenants: TenantHarness):
    """A tenant whose files cannot be deleted now does not stop the deletion of the others."""
    for name in ("acme", "other"):
        await tenants.create(name)
        await tenants.call("DeleteTenant", DeleteTenantRequest(name=f"tenants/{name}"))
        tenants.time += timedelta(seconds=1)
    tenants.storage.broken, tenants.time = {"acme"}, tenants.time + CACHED_KEYS
    with pytest.raises(Unavailable):
        await tenants.deleter.step()
    gone = GetTenantRequest(name="tenants/other")
    assert await reason_of(tenants.call("GetTenant", gone)) == "RESOURCE_NOT_FOUND"
    waiting = await tenants.call("GetTenant", GetTenantRequest(name="tenants/acme"))
    assert waiting.state == Tenant.DELETING


def test_deletion_covers_every_table():
    """Rows with a tenant are deleted with it, themselves or with their schedule or webhook."""
    with_tenant = {table for table in metadata.tables.values() if "tenant" in table.c}
    owned = set(OWNED_TABLES)
    cascading = {
        table
        for table in with_tenant
        if any(
            key.ondelete == "CASCADE" and key.referred_table in owned for key in table.foreign_key_constraints
        )
    }
    assert {table.name for table in with_tenant - owned - cascading} == {"jobs", "audit_entries"}


async def test_job_that_arrives_during_deletion(tenants: TenantHarness):
    """A job that was created by a cached key while its tenant is deleted goes with it."""
    await tenants.create()
    await tenants.call("DeleteTenant", DeleteTenantRequest(name="tenants/acme"))
    assert not await tenants.deleter.step()
    await tenants.store.add([job(1)])
    tenants.time += CACHED_KEYS
    assert await tenants.deleter.step()
    assert not await tenants.deleter.step()
    assert await tenants.tenants.find("acme") is not None
    await tenants.expiry_sync.step()
    await tenants.deleter.step()
    assert await tenants.tenants.find("acme") is None


async def test_tenants_with_keys(settings: Settings, tmp_path: Path):
    """A tenant's key has its jobs only, keeps to its sites, and ends when it is disabled or deleted."""
    first_key = tmp_path / "first.key"
    with_keys = settings.model_copy(update={"auth": "keys", "jobs_first_key_file": first_key})
    async with run_service(with_keys) as service, open_channel(f"127.0.0.1:{service.port}", []) as channel:
        stub, keys = TenantServiceStub(channel), ApiKeyServiceStub(channel)
        operator = bearer(first_key.read_text().strip())

        async def create_key(tenant: str) -> tuple[tuple[str, str], ...]:
            await stub.CreateTenant(CreateTenantRequest(tenant_id=tenant), metadata=operator)
            key = api_key_pb2.ApiKey(permission=DOWNLOAD, tenant=f"tenants/{tenant}")
            created = await keys.CreateApiKey(CreateApiKeyRequest(api_key=key), metadata=operator)
            return bearer(created.key_string)

        acme, rival = await create_key("acme"), await create_key("rival")
        create = CreateJobRequest(job=Job(url="https://videos.example/1"))
        created = await service.jobs.CreateJob(create, metadata=acme)
        assert created.tenant == "acme"
        get = GetJobRequest(name=created.name)
        assert (await error_of(service.jobs.GetJob(get, metadata=rival))).reason == RESOURCE_NOT_FOUND
        assert await service.jobs.GetJob(get, metadata=operator)
        own = await stub.GetTenant(GetTenantRequest(name="tenants/me"), metadata=acme)
        assert own.name == "tenants/acme"

        update = UpdateTenantRequest(tenant=Tenant(name="tenants/acme", denied_sites=["videos.example"]))
        await stub.UpdateTenant(update, metadata=operator)
        denied = await error_of(service.jobs.CreateJob(create, metadata=acme))
        assert denied.reason == ErrorReason.SITE_FORBIDDEN
        assert await service.jobs.CreateJob(create, metadata=rival)
        update = UpdateTenantRequest(tenant=Tenant(name="tenants/acme", disabled=True))
        await stub.UpdateTenant(update, metadata=operator)
        refused = await error_of(service.jobs.GetJob(get, metadata=acme))
        assert refused.reason == ErrorReason.CREDENTIAL_INVALID
        delete = DeleteTenantRequest(name="tenants/rival", force=True)
        assert (await stub.DeleteTenant(delete, metadata=operator)).state == Tenant.DELETING
        refused = await error_of(service.jobs.CreateJob(create, metadata=rival))
        assert refused.reason == ErrorReason.CREDENTIAL_INVALID


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of calls with *key*."""
    return (("authorization", f"Bearer {key}"),)
