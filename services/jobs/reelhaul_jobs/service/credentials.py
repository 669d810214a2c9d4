"""Credentials: whose key or ticket a call has, and when keys were last used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from reelhaul import api_keys
from reelhaul.admin.v1 import api_key_pb2
from reelhaul_jobs.model.api_key import ApiKey, KeyState, credential_invalid
from reelhaul_jobs.model.credential import (
    MAX_AGE,
    TICKET_LIFETIME,
    Principal,
    Ticket,
    create_ticket_text,
    hash_ticket_text,
)
from reelhaul_jobs.model.tenant import Tenant, TenantState
from reelhaul_jobs.ports.api_keys import ApiKeyStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.ports.tokens import TokenVerifier
from reelhaul_runtime.errors import Unavailable

log = logging.getLogger(__name__)

# Uses of many calls are written together.
_WRITE_SECONDS = 20.0


class Credentials:
    """Resolves keys and tickets, and records the use of keys."""

    def __init__(self, store: ApiKeyStore, now: Clock, tokens: TokenVerifier | None = None) -> None:
        self._store, self._tokens = store, tokens
        self._now = now
        #: By id of the key; to the minute.
        self._uses: dict[str, datetime] = {}

    async def verify(self, key_string: str) -> Principal:
        """Return whose *key_string* is, a key or a token of the identity provider.

        Raises CREDENTIAL_INVALID, whose text has nothing of it; of a token also PERMISSION_INSUFFICIENT and
        SERVICE_UNAVAILABLE.
        """
        if self._tokens is not None and not key_string.startswith(api_keys.PREFIX):
            return await self._verify_token(self._tokens, key_string)
        if problem := api_keys.describe_error(key_string):
            raise credential_invalid(problem)
        key_hash, now = api_keys.hash_key_string(key_string), self._now()
        found = await self._store.find(key_hash)
        if found is None or not found[0].matches(key_hash, now):
            raise credential_invalid("the API key is unknown, or was replaced by a new string")
        _check_works(*found, now)
        self._record_use(found[0], now)
        until = found[0].works_until(key_hash)
        return Principal(*found, MAX_AGE if until is None else min(MAX_AGE, until - now))

    async def _verify_token(self, tokens: TokenVerifier, text: str) -> Principal:
        token, now = await tokens.verify(text), self._now()
        tenant = await self._store.find_tenant(token.tenant)
        if tenant is None:
            raise credential_invalid("the tenant of the token does not exist")
        if tenant.state is not TenantState.ACTIVE:
            raise credential_invalid(f"the tenant of the token is {tenant.state.name.lower()}")
        grantee = api_key_pb2.ApiKey(
            name=f"users/{token.subject}", permission=token.level, tenant=tenant.name
        )
        grantee.expire_time.FromDatetime(token.expire_time)
        return Principal(grantee, tenant, max(timedelta(0), min(MAX_AGE, token.expire_time - now)))

    async def create_ticket(
        self, tenant: str, key_id: str, grantee: api_key_pb2.ApiKey | None
    ) -> tuple[str, Ticket]:
        """Store a new ticket of a key, or of a *grantee*: a caller without one. Return its text and it."""
        text, now = create_ticket_text(), self._now()
        ticket = Ticket(
            hash=hash_ticket_text(text),
            key=key_id,
            tenant=tenant,
            grantee=grantee,
            expire_time=now + TICKET_LIFETIME,
        )
        await self._store.add_ticket(ticket, now)
        return text, ticket

    async def redeem_ticket(self, text: str) -> Principal:
        """Consume the ticket and return whom it stands for.

        Raises CREDENTIAL_INVALID if it is unknown, used or expired, or its key no longer works.
        """
        ticket, now = await self._store.take_ticket(hash_ticket_text(text)), self._now()
        if ticket is None or ticket.expire_time <= now:
            raise credential_invalid("the ticket is unknown, used or expired: create another one")
        if ticket.grantee is not None:
            grantee = ticket.grantee
            if grantee.HasField("expire_time") and grantee.expire_time.ToDatetime(UTC) <= now:
                raise credential_invalid("the token of the ticket is expired")
            tenant = await self._store.find_tenant(ticket.tenant)
            if tenant is not None and tenant.state is not TenantState.ACTIVE:
                raise credential_invalid(f"{tenant.name} is {tenant.state.name.lower()}")
            return Principal(grantee, tenant)
        found = await self._store.find_by_id(ticket.key)
        if found is None:
            raise credential_invalid("the API key of the ticket is deleted")
        _check_works(*found, now)
        return Principal(*found)

    @asynccontextmanager
    async def writing_uses(self) -> AsyncIterator[None]:
        """Write the recorded uses to the store, now and then and at the end of the block."""
        task = asyncio.create_task(self._write_repeatedly())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self.write_uses()

    async def write_uses(self) -> None:
        """Write the recorded uses; if the database does not answer, they are kept for the next time."""
        uses, self._uses = self._uses, {}
        try:
            await self._store.record_uses(uses)
        except Unavailable as error:
            self._uses = uses | self._uses
            log.debug("uses of keys are not written yet", extra={"cause": error.text})

    async def _write_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            try:
                await self.write_uses()
            except Exception:
                log.exception("uses of keys cannot be written")

    def _record_use(self, key: ApiKey, now: datetime) -> None:
        minute = now.replace(second=0, microsecond=0)
        if key.last_use_time is None or key.last_use_time < minute:
            self._uses[key.id] = minute


def _check_works(key: ApiKey, tenant: Tenant, now: datetime) -> None:
    """Raise CREDENTIAL_INVALID unless *key* and its tenant are active."""
    if (state := key.state(now)) is not KeyState.ACTIVE:
        raise credential_invalid(f"the API key is {state.name.lower()}")
    if tenant.state is not TenantState.ACTIVE:
        raise credential_invalid(f"the tenant of the API key is {tenant.state.name.lower()}")
