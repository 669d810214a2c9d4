"""API keys: their use cases, and the loop that deletes old ones for good."""

from __future__ import annotations

from datetime import timedelta

from reelhaul_jobs.model import api_key as model
from reelhaul_jobs.model.api_key import ApiKey, KeyString, Manager, check_etag
from reelhaul_jobs.ports.api_keys import ApiKeyStore, KeyChange, KeyPage, KeyQuery, KeyRule
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.access_changes import AccessChanges

_PURGED = 100


class ApiKeys:
    """Creates, reads and changes the keys of all tenants, as far as their manager may."""

    def __init__(self, store: ApiKeyStore, changes: AccessChanges, now: Clock) -> None:
        self._store = store
        self._changes = changes
        self._now = now

    async def check_new(self, key: ApiKey, manager: Manager) -> None:
        """Raise what ``create`` would raise for the permissions and the tenant of *key*."""
        manager.check_new(key)
        model.check_tenant(await self._store.find_tenant(key.tenant))

    async def create(self, key: ApiKey, manager: Manager, request: IdempotencyKey | None) -> KeyChange:
        """Store *key*.

        Raises PERMISSION_INSUFFICIENT, FIELD_INVALID (unknown tenant), STATE_CONFLICT (it is being deleted),
        QUOTA_EXCEEDED, REQUEST_ID_REUSED.
        """
        manager.check_new(key)
        return await self._store.add(key, request)

    async def get(self, key_id: str) -> ApiKey:
        """Return the key, also a deleted one. Raises ``NotFound``."""
        return await self._store.get(key_id)

    async def list_page(self, query: KeyQuery) -> KeyPage:
        """Return a page of keys."""
        return await self._store.list_page(query)

    async def update(self, present: ApiKey, wanted: ApiKey, manager: Manager) -> ApiKey:
        """Change *present* to *wanted*.

        Raises PERMISSION_INSUFFICIENT, ETAG_MISMATCH if it has changed since it was read, STATE_CONFLICT.
        """

        def rule(key: ApiKey) -> ApiKey:
            check_etag(key, present.etag)
            manager.check_update(key, wanted)
            return model.update(key, wanted, self._now())

        return await self._change(present.id, rule)

    async def delete(self, key_id: str, etag: str, manager: Manager) -> ApiKey:
        """Soft-delete the key. Raises PERMISSION_INSUFFICIENT, ETAG_MISMATCH, STATE_CONFLICT."""

        def rule(key: ApiKey) -> ApiKey:
            manager.check_level(key.permission)
            check_etag(key, etag)
            return model.delete(key, self._now())

        return await self._change(key_id, rule)

    async def undelete(self, key_id: str, manager: Manager) -> ApiKey:
        """Restore the key. Raises PERMISSION_INSUFFICIENT, STATE_CONFLICT."""

        def rule(key: ApiKey) -> ApiKey:
            manager.check_level(key.permission)
            return model.undelete(key, self._now())

        return await self._change(key_id, rule)

    async def rotate(
        self, key_id: str, grace: timedelta, manager: Manager, request: IdempotencyKey | None
    ) -> tuple[ApiKey, KeyString | None]:
        """Give the key a new string; return both, without the string if *request* is repeated.

        Raises PERMISSION_INSUFFICIENT, STATE_CONFLICT, REQUEST_ID_REUSED.
        """
        new = KeyString()

        def rule(key: ApiKey) -> ApiKey:
            manager.check_level(key.permission)
            return model.rotate(key, new, grace, self._now())

        change = await self._store.change(key_id, rule, self._now(), request)
        await self._changes.publish(change.key.name)
        return change.key, new if change.is_new else None

    async def _change(self, key_id: str, rule: KeyRule) -> ApiKey:
        change = await self._store.change(key_id, rule, self._now())
        await self._changes.publish(change.key.name)
        return change.key


class DeletedKeyPurger:
    """Deletes keys for good when they can no longer be undeleted."""

    def __init__(self, store: ApiKeyStore, now: Clock) -> None:
        self._store = store
        self._now = now

    async def step(self) -> bool:
        """Delete some keys; return whether more may be due at once."""
        return await self._store.purge(self._now() - model.UNDELETE_PERIOD, _PURGED) == _PURGED
