"""Destinations: the buckets of a tenant, and the delivery of artifacts to them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from reelhaul_runtime.errors import FieldInvalid, NotFound
from reelhaul_runtime.identity import caller
from reelhaul_storage.model import DeliveredObject, Destination
from reelhaul_storage.ports import DestinationBuckets, DestinationStore
from reelhaul_storage.service.artifacts import Artifacts

log = logging.getLogger(__name__)

# A change of one of these would send a stored secret, or a session of a role, elsewhere.
_BOUND_TO_CREDENTIALS = ("bucket", "endpoint_url")


@dataclass(frozen=True, slots=True)
class Credentials:
    """New credentials of a destination: a key pair, or a role."""

    access_key_id: str = ""
    secret: str = ""
    role_arn: str = ""


class Destinations:
    """Use cases of destinations. A caller has those of its tenant."""

    def __init__(
        self,
        store: DestinationStore,
        buckets: DestinationBuckets,
        artifacts: Artifacts,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._buckets = buckets
        self._artifacts = artifacts
        self._now = now

    async def create(self, id: str, attributes: Mapping[str, Any], credentials: Credentials) -> Destination:  # noqa: A002
        """Store a destination of the caller's tenant. Raises RESOURCE_EXISTS, QUOTA_EXCEEDED."""
        now = self._now()
        destination = Destination(
            tenant=caller().tenant, id=id, create_time=now, update_time=now, **attributes
        )
        destination = await self._with_credentials(destination, credentials)
        await self._check_endpoint(destination)
        await self._store.add(destination)
        return destination

    async def get(self, id: str, tenant: str = "") -> Destination:  # noqa: A002
        """Return the destination of the caller's tenant; the suite may name another *tenant*."""
        who = caller()
        if tenant and tenant != who.tenant and not who.suite:
            raise NotFound(f"destinations/{id}")
        return await self._store.get(tenant or who.tenant, id)

    async def list_page(self, after: str, limit: int) -> list[Destination]:
        """Return the destinations of the caller's tenant whose ids follow *after*."""
        return await self._store.list_page(caller().tenant, after, limit)

    async def update(
        self,
        id: str,  # noqa: A002
        etag: str,
        attributes: Mapping[str, Any],
        credentials: Credentials | None,
    ) -> Destination:
        """Change *attributes*, and *credentials* unless None. Raises ETAG_MISMATCH, FIELD_INVALID."""
        tenant, now = caller().tenant, self._now()
        current = await self._store.get(tenant, id)
        current.check_etag(etag)
        changed = replace(current, **attributes)
        if credentials is not None:
            changed = await self._with_credentials(changed, credentials)
        for name in _BOUND_TO_CREDENTIALS:
            if credentials is None and getattr(changed, name) != getattr(current, name):
                raise FieldInvalid(f"destination.{name}", "needs the credentials again when it changes")
        await self._check_endpoint(changed)

        def change(destination: Destination) -> Destination:
            # What was checked above is valid for this revision only.
            destination.check_etag(current.etag)
            if changed == destination:
                return destination
            return replace(changed, update_time=now, revision=destination.revision + 1)

        return await self._store.update(tenant, id, change)

    async def delete(self, id: str, etag: str) -> None:  # noqa: A002
        """Delete the destination and its secret. Raises ETAG_MISMATCH."""
        await self._store.delete(caller().tenant, id, lambda destination: destination.check_etag(etag))

    async def test(self, id: str) -> None:  # noqa: A002
        """Write, read and delete an object in the bucket; raises what is wrong."""
        await self._buckets.check(await self._store.get(caller().tenant, id))

    async def deliver(
        self,
        id: str,  # noqa: A002
        tenant: str,
        artifact_id: str,
        object_name: str,
    ) -> DeliveredObject:
        """Copy an artifact of *tenant* to its destination, and verify the object there."""
        destination = await self._store.get(tenant, id)
        artifact, content = await self._artifacts.read(artifact_id)
        async with aclosing(cast("AsyncGenerator[bytes, None]", content)):
            if artifact.tenant != tenant:
                raise NotFound(artifact.name)
            delivered = await self._buckets.deliver(destination, object_name, artifact, content)
        log.info("delivered", extra={"artifact": artifact.name, "destination": destination.name})
        return delivered

    async def _with_credentials(self, destination: Destination, credentials: Credentials) -> Destination:
        if credentials.role_arn:
            # A role stays with its external id; a new one belongs to this destination alone, so that no
            # other tenant can make the server assume the role.
            same = credentials.role_arn == destination.role_arn
            external_id = destination.external_id if same else secrets.token_hex(16)
            return replace(
                destination,
                access_key_id="",
                sealed_secret=b"",
                role_arn=credentials.role_arn,
                external_id=external_id,
            )
        return replace(
            destination,
            access_key_id=credentials.access_key_id,
            sealed_secret=await self._buckets.seal(credentials.secret),
            role_arn="",
            external_id="",
        )

    async def _check_endpoint(self, destination: Destination) -> None:
        if destination.endpoint_url and destination.role_arn:
            raise FieldInvalid("destination.assume_role", "is for AWS only: endpoint_url must be unset")
        if destination.endpoint_url:
            await self._buckets.check_endpoint(destination.endpoint_url)
