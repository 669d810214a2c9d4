"""What a tenant has in storage: whether there is any, and its deletion with the tenant."""

from __future__ import annotations

from reelhaul_runtime.errors import NotFound
from reelhaul_storage.model import Query
from reelhaul_storage.ports import Catalog, DestinationStore
from reelhaul_storage.service.artifacts import Artifacts
from reelhaul_storage.service.uploads import Uploads

_BATCH = 200


class TenantResources:
    """Artifacts, uploads and destinations of one tenant, for the suite, which sees all tenants."""

    def __init__(
        self, catalog: Catalog, destinations: DestinationStore, artifacts: Artifacts, uploads: Uploads
    ) -> None:
        self._catalog = catalog
        self._destinations = destinations
        self._artifacts = artifacts
        self._uploads = uploads

    async def exist(self, tenant: str) -> bool:
        """Return whether *tenant* has any."""
        return bool(
            await self._catalog.list_artifacts(Query(limit=1, tenant=tenant))
            or await self._catalog.list_uploads(tenant, None, 1)
            or await self._destinations.list_page(tenant, "", 1)
        )

    async def delete_some(self, tenant: str) -> bool:
        """Delete some of them; return whether others may be left."""
        artifacts = await self._catalog.list_artifacts(Query(limit=_BATCH, tenant=tenant))
        try:
            await self._artifacts.delete([artifact.id for artifact in artifacts])
        except NotFound:
            return True  # one expired in the meantime
        for upload in await self._catalog.list_uploads(tenant, None, _BATCH):
            await self._uploads.delete(upload.id)
        for destination in await self._destinations.list_page(tenant, "", _BATCH):
            await self._destinations.delete(tenant, destination.id, lambda _: None)
        return await self.exist(tenant)
