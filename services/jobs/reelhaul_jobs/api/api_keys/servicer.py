"""ApiKeyService: converts each request, calls one use case, and converts its result."""

from __future__ import annotations

from datetime import timedelta

from reelhaul.admin.v1 import api_key_pb2, api_key_service_pb2, api_key_service_pb2_grpc
from reelhaul_jobs.api import fields, usage
from reelhaul_jobs.api.api_keys import listing, messages
from reelhaul_jobs.api.api_keys.validation import validate_and_normalize
from reelhaul_jobs.model import ids
from reelhaul_jobs.model.api_key import MAX_GRACE, KeyString, check_etag
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.api_keys import ApiKeys
from reelhaul_jobs.service.credentials import Credentials
from reelhaul_jobs.service.quotas import Quotas
from reelhaul_runtime import identity
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.validation.violations import FieldViolations


class ApiKeyServicer(api_key_service_pb2_grpc.ApiKeyServiceServicer):
    """reelhaul.admin.v1.ApiKeyService."""

    def __init__(
        self,
        keys: ApiKeys,
        credentials: Credentials,
        quotas: Quotas,
        page_tokens: PageTokens,
        now: Clock,
    ) -> None:
        self._keys = keys
        self._quotas = quotas
        self._credentials = credentials
        self._page_tokens = page_tokens
        self._now = now

    async def CreateApiKey(
        self, request: api_key_service_pb2.CreateApiKeyRequest, context: object
    ) -> api_key_pb2.ApiKey:
        now, caller, string = self._now(), identity.caller(), KeyString()
        idempotency = fields.idempotency_key(request, "CreateApiKey", caller.tenant, now)
        message = validate_and_normalize(request.api_key, now)
        key = messages.key_from_proto(message, ids.new_id(now), string, caller.tenant, now)
        if request.validate_only:
            await self._keys.check_new(key, messages.manager_of(caller))
            return messages.preview_to_proto(key, now)
        change = await self._keys.create(key, messages.manager_of(caller), idempotency)
        return messages.key_to_proto(change.key, now, string if change.is_new else None)

    async def GetApiKey(
        self, request: api_key_service_pb2.GetApiKeyRequest, context: object
    ) -> api_key_pb2.ApiKey:
        key = await self._keys.get(messages.readable_key_id(request.name))
        return messages.key_to_proto(key, self._now())

    async def ListApiKeys(
        self, request: api_key_service_pb2.ListApiKeysRequest, context: object
    ) -> api_key_service_pb2.ListApiKeysResponse:
        query = listing.query_from_request(request, self._page_tokens, self._now())
        return listing.list_response(request, query, await self._keys.list_page(query), self._page_tokens)

    async def UpdateApiKey(
        self, request: api_key_service_pb2.UpdateApiKeyRequest, context: object
    ) -> api_key_pb2.ApiKey:
        now = self._now()
        present = await self._keys.get(messages.parse_key_id(request.api_key.name, "api_key.name"))
        check_etag(present, request.api_key.etag)
        message = validate_and_normalize(messages.merge_update(present, request, now), now, present)
        wanted = messages.updated_from_proto(present, message, now)
        key = await self._keys.update(present, wanted, messages.manager_of(identity.caller()))
        return messages.key_to_proto(key, now)

    async def DeleteApiKey(
        self, request: api_key_service_pb2.DeleteApiKeyRequest, context: object
    ) -> api_key_pb2.ApiKey:
        key_id, manager = messages.parse_key_id(request.name), messages.manager_of(identity.caller())
        return messages.key_to_proto(await self._keys.delete(key_id, request.etag, manager), self._now())

    async def UndeleteApiKey(
        self, request: api_key_service_pb2.UndeleteApiKeyRequest, context: object
    ) -> api_key_pb2.ApiKey:
        key_id, manager = messages.parse_key_id(request.name), messages.manager_of(identity.caller())
        return messages.key_to_proto(await self._keys.undelete(key_id, manager), self._now())

    async def RotateApiKey(
        self, request: api_key_service_pb2.RotateApiKeyRequest, context: object
    ) -> api_key_pb2.ApiKey:
        now, caller = self._now(), identity.caller()
        idempotency = fields.idempotency_key(request, "RotateApiKey", caller.tenant, now)
        violations = FieldViolations()
        violations.check_duration("grace", request.grace, timedelta(0), MAX_GRACE)
        violations.raise_if_any()
        key_id, grace = messages.parse_key_id(request.name), request.grace.ToTimedelta()
        key, string = await self._keys.rotate(key_id, grace, messages.manager_of(caller), idempotency)
        return messages.key_to_proto(key, now, string)

    async def GetUsage(
        self, request: api_key_service_pb2.GetUsageRequest, context: object
    ) -> api_key_pb2.Usage:
        key = await self._keys.get(messages.readable_key_id(usage.parent_of(request.name)))
        return usage.usage_to_proto(key.name, await self._quotas.get_usage(key.name))

    async def VerifyApiKey(
        self, request: api_key_service_pb2.VerifyApiKeyRequest, context: object
    ) -> api_key_service_pb2.VerifyApiKeyResponse:
        return await self.verify(request.key_string)

    async def verify(self, key_string: str) -> api_key_service_pb2.VerifyApiKeyResponse:
        """Return whose *key_string* is: for the interceptor of this service too. CREDENTIAL_INVALID."""
        return messages.principal_to_proto(await self._credentials.verify(key_string), self._now())

    async def CreateTicket(
        self, request: api_key_service_pb2.CreateTicketRequest, context: object
    ) -> api_key_service_pb2.Ticket:
        caller = identity.caller()
        key_id, grantee = messages.own_key_id(caller), messages.grantee_of(caller)
        text, ticket = await self._credentials.create_ticket(caller.tenant, key_id, grantee)
        expire_time = fields.to_timestamp(ticket.expire_time)
        return api_key_service_pb2.Ticket(ticket=text, expire_time=expire_time)

    async def RedeemTicket(
        self, request: api_key_service_pb2.RedeemTicketRequest, context: object
    ) -> api_key_service_pb2.VerifyApiKeyResponse:
        principal = await self._credentials.redeem_ticket(request.ticket)
        return messages.principal_to_proto(principal, self._now())
