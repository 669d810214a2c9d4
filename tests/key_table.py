"""A table of API keys in place of those of jobs: a KeyVerifier, and the internal RPCs of ApiKeyService."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from reelhaul import api_keys
from reelhaul.admin.v1 import api_key_service_pb2, api_key_service_pb2_grpc
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime import errors
from reelhaul_runtime.auth.credentials import rejection

API_KEY_SERVICE = api_key_service_pb2.DESCRIPTOR.services_by_name["ApiKeyService"]


@dataclass
class KeyTable:
    """A KeyVerifier over a table; counts its calls."""

    keys: dict[str, api_key_service_pb2.VerifyApiKeyResponse] = field(default_factory=dict)
    tickets: dict[str, api_key_service_pb2.VerifyApiKeyResponse] = field(default_factory=dict)
    calls: int = 0
    called: asyncio.Event = field(default_factory=asyncio.Event)
    available: bool = True
    #: If set, a verification waits for it.
    delay: asyncio.Event | None = None

    def add(
        self,
        level: PermissionLevel.ValueType = PermissionLevel.PERMISSION_LEVEL_DOWNLOAD,
        tenant: str = "acme",
        *,
        cidrs: tuple[str, ...] = (),
        expire_time: int = 0,
    ) -> str:
        """Add a key of *level* of *tenant*; return its string."""
        key_string, response = api_keys.create_key_string(), api_key_service_pb2.VerifyApiKeyResponse()
        response.api_key.name = f"apiKeys/{len(self.keys)}"
        response.api_key.permission = level
        response.api_key.tenant = tenant
        response.api_key.allowed_cidrs.extend(cidrs)
        if expire_time:
            response.api_key.expire_time.FromSeconds(expire_time)
        response.tenant.name = f"tenants/{tenant}"
        response.max_age.FromTimedelta(timedelta(seconds=60))
        self.keys[key_string] = response
        return key_string

    def add_ticket(self, key_string: str) -> str:
        """Return a ticket that stands for the key *key_string*."""
        ticket = secrets.token_urlsafe(32)
        self.tickets[ticket] = self.keys[key_string]
        return ticket

    async def verify(self, key_string: str) -> api_key_service_pb2.VerifyApiKeyResponse:
        self.calls += 1
        self.called.set()
        response = self.keys.get(key_string)
        if self.delay is not None:
            await self.delay.wait()
        if not self.available:
            raise errors.Unavailable("jobs", "jobs does not answer")
        if response is None:
            raise rejection("the key is unknown, disabled, deleted or expired")
        return response


class ApiKeyServicer(api_key_service_pb2_grpc.ApiKeyServiceServicer):
    """Verifies the keys and redeems the tickets of a table."""

    def __init__(self, table: KeyTable) -> None:
        self._table = table

    async def VerifyApiKey(self, request: Any, context: Any) -> Any:
        return await self._table.verify(request.key_string)

    async def RedeemTicket(self, request: Any, context: Any) -> Any:
        response = self._table.tickets.pop(request.ticket, None)
        if response is None:
            raise rejection("the ticket is unknown, used or expired")
        return response
