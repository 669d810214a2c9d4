"""No tenant reads or changes what another one owns, by any RPC: a table over the descriptors."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api import resource_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from tests.callers import Callers
from tests.jobs.conftest import TOKEN, JobsService, run_service
from tests.servers import free_port, running_nats_server
from tests.storage.conftest import write_requests

from reelhaul.admin.v1 import api_key_service_pb2, audit_service_pb2, tenant_service_pb2
from reelhaul.downloads.v1 import download_service_pb2
from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.jobs.v1 import job_pb2, job_service_pb2, schedule_service_pb2, webhook_service_pb2
from reelhaul.storage.v1 import destination_service_pb2, storage_service_pb2, storage_service_pb2_grpc
from reelhaul.storage.v1.artifact_pb2 import Artifact
from reelhaul.type.v1 import method_policy_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_jobs.settings import Settings as JobsSettings
from reelhaul_runtime.rpc.channels import error_from_rpc, open_channel
from reelhaul_storage.app import running as running_storage
from reelhaul_storage.settings import Settings as StorageSettings

_FILES = (
    job_service_pb2,
    schedule_service_pb2,
    download_service_pb2,
    storage_service_pb2,
    destination_service_pb2,
    webhook_service_pb2,
    fetcher_service_pb2,
    api_key_service_pb2,
    tenant_service_pb2,
    audit_service_pb2,
)
#: Kinds of resources that are no tenant's, or that no other tenant can name; the tests of their services have
#: the rules for them.
_NOT_OWNED = {
    f"reelhaul.dev/{kind}"
    for kind in (
        "ApiKey",
        "Usage",
        "Tenant",
        "AuditEntry",
        "Extractor",
        "Upload",
        "Fetch",
    )
}
#: The parents of kinds of resources that lists name by their parent.
_PARENTS = {"reelhaul.dev/Attempt": "reelhaul.dev/Job", "reelhaul.dev/Delivery": "reelhaul.dev/Webhook"}
#: Kinds whose names are unique in the suite.
_SEEN_BY_ADMIN = {f"reelhaul.dev/{kind}" for kind in ("Job", "Attempt", "Artifact")}
_LEVELS, _PREFIX = ("READ_ONLY", "DOWNLOAD", "ADMIN"), "PERMISSION_LEVEL_"
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


@dataclass(frozen=True)
class Reference:
    """An RPC that names a resource, and the field of its request that does; ``""``: the resource itself."""

    method: MethodDescriptor
    field: str
    kind: str
    inner: str = ""

    @property
    def path(self) -> str:
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def levels(self) -> list[str]:
        """The levels that may call it and do not see all tenants' resources of this kind."""
        policy = self.method.GetOptions().Extensions[method_policy_pb2.policy]
        levels = [name for name in _LEVELS if PermissionLevel.Value(_PREFIX + name) >= policy.permission]
        return [name for name in levels if name != "ADMIN" or self.kind not in _SEEN_BY_ADMIN]

    def request(self, name: str) -> Message:
        """Return a request that names the resource *name*, with what else the RPC needs."""
        request = message_factory.GetMessageClass(self.method.input_type)()
        target = getattr(request, self.inner) if self.inner else request
        value = name.removeprefix("jobs/") if self.field == "job_id" else name
        if target.DESCRIPTOR.fields_by_name[self.field].is_repeated:
            getattr(target, self.field).append(value)
        else:
            setattr(target, self.field, value)
        return request


def references() -> Iterator[Reference]:
    """Yield each RPC of a caller that names a resource in its request."""
    for file in _FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if not method.GetOptions().Extensions[method_policy_pb2.policy].internal_only:
                    yield from _references_of(method)


def _references_of(method: MethodDescriptor) -> Iterator[Reference]:
    for each in method.input_type.fields:
        reference = each.GetOptions().Extensions[resource_pb2.resource_reference]
        if kind := reference.type or _PARENTS.get(reference.child_type, ""):
            yield Reference(method, each.name, kind)
        elif each.name == "job_id" and not method.name.startswith(("Create", "Batch")):
            # DownloadService names jobs by their bare ids.
            yield Reference(method, each.name, "reelhaul.dev/Job")
        elif method.name.startswith("Update") and each.type == FieldDescriptor.TYPE_MESSAGE:
            resource = each.message_type.GetOptions().Extensions[resource_pb2.resource]
            if resource.type:
                yield Reference(method, "name", resource.type, each.name)


@dataclass
class Suite:
    """Jobs and storage, with a resource of each kind that belongs to acme."""

    channels: dict[str, grpc.aio.Channel]
    callers: Callers
    resources: dict[str, str] = field(default_factory=dict)

    async def call(self, path: str, request: Message, caller: Sequence[tuple[str, str]]) -> Any:
        """Return the first response of the RPC at *path*, or the reason of its error."""
        service, _, name = path.removeprefix("/").rpartition("/")
        method = next(
            file.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods_by_name[name]
            for file in _FILES
            if service.rpartition(".")[2] in file.DESCRIPTOR.services_by_name
        )
        parse = message_factory.GetMessageClass(method.output_type).FromString
        channel = self.channels["storage" if service.startswith("reelhaul.storage") else "jobs"]
        try:
            if method.server_streaming:
                stream = channel.unary_stream(path, type(request).SerializeToString, parse)
                call = stream(request, metadata=caller)
                first = await anext(aiter(call))
                call.cancel()
                return first
            unary = channel.unary_unary(path, type(request).SerializeToString, parse)
            return await unary(request, metadata=caller)
        except grpc.aio.AioRpcError as error:
            return ErrorReason.Name(error_from_rpc(error, "server").reason)

    async def state(self) -> dict[str, bytes]:
        """Return all resources of acme as they are, serialized."""
        state, owner = dict[str, bytes](), self.callers.of("acme")
        for reference in references():
            if reference.method.name.startswith("Get") and reference.kind in self.resources:
                name = self.resources[reference.kind]
                response = await self.call(reference.path, reference.request(name), owner)
                state[name] = response.SerializeToString(deterministic=True)
        return state


@pytest.fixture
async def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Suite]:
    callers = Callers(monkeypatch)
    storage_settings = StorageSettings(
        data_dir=tmp_path,
        storage_address="127.0.0.1:0",
        storage_destination_networks=_LOOPBACK,
        storage_reserve_bytes=0,
        suite_token=TOKEN,
        drain_seconds=0,
    )
    async with (
        running_nats_server(tmp_path / "nats") as nats,
        running_storage(storage_settings) as storage_port,
        run_service(
            JobsSettings(
                data_dir=tmp_path,
                nats_url=nats.url,
                jobs_address="127.0.0.1:0",
                storage_address=f"127.0.0.1:{storage_port}",
                jobs_webhook_networks=_LOOPBACK,
                suite_token=TOKEN,
                drain_seconds=0,
            )
        ) as jobs,
        open_channel(f"127.0.0.1:{jobs.port}", []) as jobs_channel,
        open_channel(f"127.0.0.1:{storage_port}", []) as storage_channel,
        open_channel(f"127.0.0.1:{storage_port}", [], suite_token=TOKEN) as internal_channel,
    ):
        suite = Suite({"jobs": jobs_channel, "storage": storage_channel}, callers)
        storage = storage_service_pb2_grpc.StorageServiceStub(internal_channel)
        requests = write_requests(b"ours", artifact=Artifact(tenant="acme", file_name="ours"))
        suite.resources["reelhaul.dev/Artifact"] = (await storage.WriteArtifact(requests)).artifact.name
        await create_resources(suite, jobs)
        yield suite


async def create_resources(suite: Suite, jobs: JobsService) -> None:
    """Create a resource of each kind as acme: a job that runs, a schedule and a destination."""
    acme = suite.callers.of("acme")
    job = job_pb2.Job(url="https://videos.example/1")
    created = await jobs.jobs.CreateJob(job_service_pb2.CreateJobRequest(job=job), metadata=acme)
    slot = lease_pb2.Slot(pool="default", engine_version="1")
    claim = lease_service_pb2.ClaimRequest(
        job=created.name, attempt=1, worker="w", slot=slot, request_id=str(uuid.uuid4())
    )
    assert (await jobs.leases.Claim(claim)).lease.epoch
    suite.resources["reelhaul.dev/Job"] = created.name
    suite.resources["reelhaul.dev/Attempt"] = f"{created.name}/attempts/1"
    schedule = {"cron": "0 4 * * *", "job_template": job}
    request = schedule_service_pb2.CreateScheduleRequest(schedule_id="nightly", schedule=schedule)
    stub = "/reelhaul.jobs.v1.ScheduleService/CreateSchedule"
    suite.resources["reelhaul.dev/Schedule"] = (await suite.call(stub, request, acme)).name
    webhook = {"url": f"http://127.0.0.1:{free_port()}/", "event_types": ["job.succeeded"]}
    create_webhook = webhook_service_pb2.CreateWebhookRequest(webhook_id="hook", webhook=webhook)
    stub = "/reelhaul.jobs.v1.WebhookService/"
    suite.resources["reelhaul.dev/Webhook"] = (
        await suite.call(stub + "CreateWebhook", create_webhook, acme)
    ).name
    test = webhook_service_pb2.TestWebhookRequest(name="webhooks/hook")
    suite.resources["reelhaul.dev/Delivery"] = (await suite.call(stub + "TestWebhook", test, acme)).name
    destination = {
        "bucket": "media",
        "endpoint_url": "http://127.0.0.1:9",
        "access_key": {"access_key_id": "id", "secret_access_key": "secret"},
    }
    create = destination_service_pb2.CreateDestinationRequest(destination_id="media", destination=destination)
    acme = suite.callers.of("acme", "ADMIN")
    stub = "/reelhaul.storage.v1.DestinationService/CreateDestination"
    suite.resources["reelhaul.dev/Destination"] = (await suite.call(stub, create, acme)).name


def test_every_kind_of_resource_is_covered():
    """A new kind of resource that callers name is added to the table, or is stated to have no owner."""
    kinds = {reference.kind for reference in references()}
    owned = {
        f"reelhaul.dev/{kind}"
        for kind in ("Job", "Attempt", "Schedule", "Webhook", "Delivery", "Artifact", "Destination")
    }
    assert kinds - _NOT_OWNED == owned


async def test_tenant_isolation(suite: Suite):
    """What another tenant owns is RESOURCE_NOT_FOUND in every RPC, and stays as it is.

    Its owner finds it, and its jobs and artifacts, whose names are unique in the suite, are found by ADMIN.
    """
    owned = [each for each in references() if each.kind in suite.resources]
    # What the owner's calls delete is named last.
    owned.sort(key=lambda each: ("Delete" in each.method.name, each.kind == "reelhaul.dev/Job"))
    before, outcomes = await suite.state(), dict[str, Any]()
    for reference in owned:
        for level in reference.levels:
            request = reference.request(suite.resources[reference.kind])
            outcomes[f"{reference.path} {level}"] = await suite.call(
                reference.path, request, suite.callers.of("rival", level)
            )
    assert {path: result for path, result in outcomes.items() if result != "RESOURCE_NOT_FOUND"} == {}
    assert await suite.state() == before

    admin, owner = suite.callers.of("ops", "ADMIN"), suite.callers.of("acme", "ADMIN")
    for reference in owned:
        # Either may delete it, the other would not find it then.
        caller = admin if reference.kind in _SEEN_BY_ADMIN else owner
        request = reference.request(suite.resources[reference.kind])
        outcomes[reference.path] = await suite.call(reference.path, request, caller)
    found = {path for path, result in outcomes.items() if result != "RESOURCE_NOT_FOUND"}
    # Their resources were deleted by DeleteJob and DeleteArtifact.
    deleted = {each.path for each in owned if each.method.name in ("DeleteDownload", "BatchDeleteArtifacts")}
    assert {each.path for each in owned} - deleted <= found


async def test_lists_of_other_tenants(suite: Suite):
    """Lists and sums hold the caller's own tenant; ADMIN sees others by a filter that names them."""
    jobs, storage = "/reelhaul.jobs.v1.JobService/", "/reelhaul.storage.v1.StorageService/"
    list_jobs, list_artifacts = job_service_pb2.ListJobsRequest, storage_service_pb2.ListArtifactsRequest
    admin, rival = suite.callers.of("ops", "ADMIN"), suite.callers.of("rival")
    for caller, filter_, count in (
        (suite.callers.of("acme"), "", 1),
        (rival, "", 0),
        (admin, "", 0),
        (admin, 'tenant = "acme"', 1),
        (admin, 'tenant != "rival"', 1),
    ):
        listed = await suite.call(jobs + "ListJobs", list_jobs(filter=filter_), caller)
        assert len(listed.jobs) == count, filter_
        summary = job_service_pb2.SummarizeJobsRequest(filter=filter_)
        counted = (await suite.call(jobs + "SummarizeJobs", summary, caller)).total.state_counts
        assert sum(counted.values()) == count
        files = await suite.call(storage + "ListArtifacts", list_artifacts(filter=filter_), caller)
        assert len(files.artifacts) == count, filter_
        sums = storage_service_pb2.SummarizeArtifactsRequest(filter=filter_)
        assert (await suite.call(storage + "SummarizeArtifacts", sums, caller)).artifact_count == count
    foreign = list_jobs(filter='tenant = "acme"')
    assert await suite.call(jobs + "ListJobs", foreign, rival) == "FILTER_INVALID"
    # An ADMIN who lists without a tenant has its own downloads, not everyone's.
    downloads = download_service_pb2.ListDownloadsRequest()
    path = "/reelhaul.downloads.v1.DownloadService/ListDownloads"
    assert not (await suite.call(path, downloads, admin)).jobs
    assert (await suite.call(path, downloads, suite.callers.of("acme"))).jobs
    retry = job_service_pb2.BatchRetryJobsRequest(filter="state = RUNNING OR state = FAILED")
    assert not (await suite.call(jobs + "BatchRetryJobs", retry, admin)).jobs


async def test_page_token_of_another_tenant(suite: Suite):
    """A page token continues the list of the tenant that it was made for, and no other's."""
    acme, rival = suite.callers.of("acme"), suite.callers.of("rival")
    path = "/reelhaul.jobs.v1.JobService/"
    job = job_pb2.Job(url="https://videos.example/2")
    await suite.call(path + "CreateJob", job_service_pb2.CreateJobRequest(job=job), acme)
    first = await suite.call(path + "ListJobs", job_service_pb2.ListJobsRequest(page_size=1), acme)
    following = job_service_pb2.ListJobsRequest(page_size=1, page_token=first.next_page_token)
    assert await suite.call(path + "ListJobs", following, rival) == "PAGE_TOKEN_INVALID"
    assert len((await suite.call(path + "ListJobs", following, acme)).jobs) == 1


async def test_destination_of_another_tenant(suite: Suite):
    """A job delivers to a destination of its own tenant only, even if another one has that id."""
    path = "/reelhaul.jobs.v1.JobService/CreateJob"
    job = job_pb2.Job(url="https://videos.example/3", deliver_to="destinations/media")
    request = job_service_pb2.CreateJobRequest(job=job)
    assert await suite.call(path, request, suite.callers.of("rival")) == "FIELD_INVALID"
    assert (await suite.call(path, request, suite.callers.of("acme"))).tenant == "acme"
