"""A tenant's end in storage: all that it has is deleted, and nothing of another tenant."""

from __future__ import annotations

import grpc
import pytest
from tests.storage.conftest import StartStorage, error_details

from reelhaul.storage.v1 import destination_service_pb2, destination_service_pb2_grpc
from reelhaul.storage.v1 import storage_service_pb2 as pb


async def test_delete_tenant_resources(start_storage: StartStorage):
    """Artifacts, uploads and destinations of the tenant go, and the same content of another one stays."""
    async with start_storage() as storage:
        for tenant in ("acme", "acme", "other"):
            artifact = await storage.write_artifact(b"same", tenant=tenant)
        await storage.create_upload(b"unfinished", tenant="acme")
        destinations = destination_service_pb2_grpc.DestinationServiceStub(storage.channel)
        create = destination_service_pb2.CreateDestinationRequest(
            destination_id="media",
            destination={
                "bucket": "media",
                "access_key": {"access_key_id": "id", "secret_access_key": "secret"},
            },
        )
        await destinations.CreateDestination(create)

        delete = pb.DeleteTenantResourcesRequest(tenant="acme", validate_only=True)
        assert (await storage.suite.DeleteTenantResources(delete)).remaining
        assert await tenants_of(storage) == {"acme": 2, "other": 1}
        delete.validate_only = False
        assert not (await storage.suite.DeleteTenantResources(delete)).remaining
        assert await tenants_of(storage) == {"other": 1}
        assert not (await storage.suite.ListUploads(pb.ListUploadsRequest())).uploads
        assert await storage.read(artifact.name) == b"same"

        local = pb.DeleteTenantResourcesRequest(tenant="local", validate_only=True)
        assert (await storage.suite.DeleteTenantResources(local)).remaining
        local.validate_only = False
        assert not (await storage.suite.DeleteTenantResources(local)).remaining
        request = destination_service_pb2.ListDestinationsRequest()
        assert not (await destinations.ListDestinations(request)).destinations


async def test_only_the_suite_deletes_tenants(start_storage: StartStorage):
    """No caller deletes what a tenant has, and no tenant is an error."""
    async with start_storage() as storage:
        for stub, tenant, reason in (
            (storage.client, "acme", "PERMISSION_INSUFFICIENT"),
            (storage.suite, "", "FIELD_INVALID"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stub.DeleteTenantResources(pb.DeleteTenantResourcesRequest(tenant=tenant))
            assert error_details(failure.value).reason == reason


async def tenants_of(storage) -> dict[str, int]:
    """Return the number of artifacts by tenant."""
    summary = await storage.suite.SummarizeArtifacts(pb.SummarizeArtifactsRequest())
    return {usage.tenant: usage.artifact_count for usage in summary.tenants}
