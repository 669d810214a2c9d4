"""Verification: finds out what a key or token stands for, and opens the authenticator of a service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from grpc import aio

from reelhaul import api_keys
from reelhaul.admin.v1 import api_key_service_pb2, api_key_service_pb2_grpc
from reelhaul_runtime.auth.calls import Authenticator
from reelhaul_runtime.auth.credential_cache import CredentialCache
from reelhaul_runtime.auth.credentials import VerifiedCredential, credential_of_key, rejection
from reelhaul_runtime.auth.key_authentication import KeyAuthentication
from reelhaul_runtime.auth.level_quotas import LevelQuotas, level_quotas
from reelhaul_runtime.auth.peers import ServiceIdentifier
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.nats_security import NO_FILES, NatsSecurity
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.settings import InvalidSetting, SuiteSettings
from reelhaul_runtime.tasks import cancel_and_wait

if TYPE_CHECKING:
    from nats.aio.msg import Msg

log = logging.getLogger(__name__)

#: Subject on which jobs publishes the names of changed keys and tenants.
ACCESS_CHANGED = "access.changed"

_API_KEY_SERVICE = api_key_service_pb2.DESCRIPTOR.services_by_name["ApiKeyService"]
_RETRY_SECONDS = 1.0


class KeyVerifier(Protocol):
    """Verifies API keys."""

    async def verify(self, key_string: str) -> api_key_service_pb2.VerifyApiKeyResponse:
        """Return the key of *key_string* if it works now, with its tenant; of a token what stands for a key.

        Raises CREDENTIAL_INVALID, PERMISSION_INSUFFICIENT if a token has no level, or SERVICE_UNAVAILABLE if
        it cannot be verified now.
        """


class RemoteKeyVerifier:
    """KeyVerifier that calls jobs."""

    def __init__(self, channel: aio.Channel) -> None:
        self._jobs = api_key_service_pb2_grpc.ApiKeyServiceStub(channel)

    async def verify(self, key_string: str) -> api_key_service_pb2.VerifyApiKeyResponse:
        request = api_key_service_pb2.VerifyApiKeyRequest(key_string=key_string)
        with channels.status_as_errors("jobs"):
            response: api_key_service_pb2.VerifyApiKeyResponse = await self._jobs.VerifyApiKey(request)
        return response


class CredentialVerifier:
    """Verifies API keys, and with *accepts_tokens* the tokens of an identity provider.

    What cannot be one is rejected without a call.
    """

    def __init__(self, keys: KeyVerifier, levels: LevelQuotas, *, accepts_tokens: bool = False) -> None:
        self._keys, self._levels, self._accepts_tokens = keys, levels, accepts_tokens

    async def verify(self, credential: str) -> VerifiedCredential:
        """Return what *credential* stands for. Raises CREDENTIAL_INVALID or SERVICE_UNAVAILABLE."""
        is_token = self._accepts_tokens and not credential.startswith("rh_") and credential.count(".") == 2
        if not is_token and (problem := api_keys.describe_error(credential)):
            raise rejection(problem)
        return credential_of_key(await self._keys.verify(credential), self._levels)


@asynccontextmanager
async def open_authenticator(
    settings: SuiteSettings, service: str, keys: KeyVerifier | None = None
) -> AsyncIterator[Authenticator]:
    """Open the authenticator that *settings* select, for *service*, until the block exits.

    Keys are verified by *keys*, or else by jobs. What is kept of a key is forgotten as soon as the broker
    says that it changed. Raises InvalidSetting.
    """
    if settings.auth == "none":
        yield NoAuthentication(settings.suite_token, settings.tls_service_name)
        return
    async with AsyncExitStack() as stack:
        if keys is None:
            keys = RemoteKeyVerifier(await stack.enter_async_context(_channel_to_jobs(settings)))
        levels = level_quotas(settings.level_quotas)
        verifier = CredentialVerifier(keys, levels, accepts_tokens=bool(settings.oidc_issuer))
        credentials = CredentialCache(verifier.verify)
        if settings.nats_url:
            changes = asyncio.create_task(
                follow_changes(settings.nats_url, service, credentials, settings.nats_security)
            )
            stack.push_async_callback(cancel_and_wait, changes)
        else:
            log.warning("REELHAUL_NATS_URL is not set: this service learns of a revoked key after a minute")
        yield KeyAuthentication(
            ServiceIdentifier(settings.suite_token, settings.tls_service_name), credentials, levels
        )


def _channel_to_jobs(settings: SuiteSettings) -> AbstractAsyncContextManager[aio.Channel]:
    if not settings.suite_token:
        raise InvalidSetting(
            "REELHAUL_SUITE_TOKEN is not set: with REELHAUL_AUTH=keys services need it to verify keys at jobs"
        )
    return channels.open_channel(
        settings.jobs_target, [_API_KEY_SERVICE], suite_token=settings.suite_token, tls=settings.tls
    )


async def follow_changes(
    nats_url: str, service: str, credentials: CredentialCache, security: NatsSecurity = NO_FILES
) -> None:
    """Drop changed keys and tenants from *credentials*, for ever; all of them after an interruption."""
    # The client takes 10 MB, which a service without keys saves.
    from reelhaul_runtime import nats_client

    async def drop(message: Msg) -> None:
        credentials.drop(message.data.decode(errors="replace"))

    while True:
        closed = asyncio.Event()
        try:
            async with nats_client.connect(
                nats_url,
                f"{service}-access",
                closed=closed,
                on_reconnect=credentials.clear,
                security=security,
            ) as client:
                await client.subscribe(ACCESS_CHANGED, cb=drop)
                await client.flush()
                # Changes until now may have been missed.
                credentials.clear()
                await closed.wait()
        except Exception:
            log.exception("cannot follow changes of keys; trying again")
        credentials.clear()
        await asyncio.sleep(_RETRY_SECONDS)
