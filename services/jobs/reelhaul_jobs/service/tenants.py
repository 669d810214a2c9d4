"""Tenants: their use cases, and the loop that deletes what a deleted tenant owns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

from reelhaul_jobs.model import queue_transitions
from reelhaul_jobs.model import tenant as model
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.tenant import Tenant, check_etag
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import IdempotencyKey, JobStore
from reelhaul_jobs.ports.services import Clock, Storage
from reelhaul_jobs.ports.tenants import TenantQuery, TenantStore
from reelhaul_jobs.service.access_changes import AccessChanges
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_runtime.errors import NotFound

log = logging.getLogger(__name__)

_TENANTS, _JOBS = 20, 200
#: Calls of a key may be accepted that long after its tenant's deletion began, by a service that the notice of
#: it did not reach.
CACHED_KEYS = timedelta(seconds=60)


class Tenants:
    """Creates, reads and changes tenants."""

    def __init__(self, store: TenantStore, storage: Storage, changes: AccessChanges, now: Clock) -> None:
        self._store = store
        self._storage = storage
        self._changes = changes
        self._now = now

    async def create(self, tenant: Tenant, request: IdempotencyKey | None) -> Tenant:
        """Store *tenant*. Raises RESOURCE_EXISTS, REQUEST_ID_REUSED."""
        created = await self._store.add(tenant, request)
        # A service may have found that there is no such tenant.
        await self._changes.publish(created.name)
        return created

    async def check_new(self, tenant: Tenant) -> None:
        """Raise RESOURCE_EXISTS if there is a tenant of that id."""
        if await self._store.find(tenant.id) is not None:
            raise model.already_exists(tenant)

    async def get(self, tenant: str) -> Tenant:
        """Return the tenant (by id). Raises ``NotFound``."""
        return await self._store.get(tenant)

    async def list_page(self, query: TenantQuery) -> Sequence[Tenant]:
        """Return the tenants of a page, and one more if others follow."""
        return await self._store.list_page(query)

    async def update(self, present: Tenant, wanted: Tenant) -> Tenant:
        """Change *present* to *wanted*. Raises STATE_CONFLICT, and ETAG_MISMATCH if it has changed since."""

        def rule(tenant: Tenant) -> Tenant:
            check_etag(tenant, present.etag)
            return model.update(tenant, wanted, self._now())

        changed = await self._store.change(present.id, rule, self._now())
        await self._changes.publish(changed.name)
        return changed

    async def delete(self, tenant: str, etag: str, *, force: bool) -> Tenant:
        """Begin the deletion of a tenant (by id): none of its keys works from now on.

        Raises ``NotFound``, ETAG_MISMATCH, and STATE_CONFLICT if it owns resources and *force* is not set.
        """
        if not force:
            present = await self._store.get(tenant)
            check_etag(present, etag)
            if present.delete_time is None and await self._owns_resources(tenant):
                raise model.in_use(present)

        def rule(tenant: Tenant) -> Tenant:
            check_etag(tenant, etag)
            return model.delete(tenant, self._now())

        changed = await self._store.change(tenant, rule, self._now())
        await self._changes.publish(changed.name)
        return changed

    async def _owns_resources(self, tenant: str) -> bool:
        return await self._store.owns_resources(tenant) or await self._storage.owns_resources(tenant)


class TenantDeleter:
    """Deletes what tenants own whose deletion has begun, and then the tenants.

    Each step may be repeated, so that the next leader continues after a crash.
    """

    def __init__(
        self,
        tenants: TenantStore,
        jobs: JobStore,
        storage: Storage,
        notifier: ChangeNotifier,
        changes: AccessChanges,
        now: Clock,
    ) -> None:
        self._tenants = tenants
        self._jobs = jobs
        self._storage = storage
        self._notifier = notifier
        self._changes = changes
        self._now = now

    async def step(self) -> bool:
        """Delete some of what such tenants own; return whether more is to be done at once."""
        has_more, failures = False, list[Exception]()
        for tenant in await self._tenants.list_deleting(_TENANTS):
            # One tenant that cannot be deleted now delays no other.
            try:
                has_more |= await self._delete(tenant)
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return has_more

    async def _delete(self, tenant: Tenant) -> bool:
        """Delete some of what *tenant* owns; return whether more can be deleted at once."""
        await self._tenants.delete_schedules(tenant.id)
        ids = await self._tenants.list_jobs(tenant.id, _JOBS)
        await asyncio.gather(*map(self._delete_job, ids))
        if ids:
            return True
        more = await self._storage.delete_resources(tenant.id)
        is_quiet = tenant.delete_time is not None and self._now() >= tenant.delete_time + CACHED_KEYS
        if more or not is_quiet or not await self._tenants.remove(tenant.id):
            return more
        log.info("tenant deleted", extra={"tenant": tenant.id})
        await self._changes.publish(tenant.name)
        return False

    async def _delete_job(self, job_id: str) -> None:
        def rule(job: Job) -> Transition:
            return queue_transitions.delete(job, self._now())

        try:
            transition = await self._jobs.change(job_id, rule)
        except NotFound:
            return
        await self._notifier.notify(transition)
