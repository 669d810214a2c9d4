"""Key authentication: REELHAUL_AUTH=keys. Every caller presents an API key, a token, or is a service."""

from __future__ import annotations

from collections.abc import Callable

from reelhaul.admin.v1.api_key_service_pb2 import VerifyApiKeyResponse
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.auth.credential_cache import CredentialCache
from reelhaul_runtime.auth.credentials import check_address, credential_of_key, find_credential
from reelhaul_runtime.auth.level_quotas import LevelQuotas
from reelhaul_runtime.auth.peers import (
    FORWARDED_KEY,
    AuthContext,
    Metadata,
    Peer,
    ServiceIdentifier,
    connection_address,
    is_address,
)
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.identity import ANONYMOUS, SYSTEM_TENANT, Caller

#: Metadata key of the caller that the gateway has authenticated by a credential that works once (a ticket):
#: a serialized VerifyApiKeyResponse. It is believed from services that pass a call on.
CALLER_KEY = "x-reelhaul-caller-bin"


class KeyAuthentication:
    """Authenticates callers by their keys and tokens, and services by the suite's credential.

    A call with both is the caller's, and so is one that a service passes on without a credential.
    """

    def __init__(
        self, services: ServiceIdentifier, credentials: CredentialCache, levels: LevelQuotas
    ) -> None:
        self._services, self._credentials, self._levels = services, credentials, levels

    def identify_peer(self, metadata: Metadata, connection: str, auth_context: AuthContext) -> Peer:
        """Return where a call with *metadata* comes from; only services report another address."""
        service = self._services.identify_service(metadata, auth_context)
        if not service:
            return Peer(connection_address(connection))
        reported = str(metadata.get("x-forwarded-for", ""))
        address = reported if is_address(reported) else connection_address(connection)
        return Peer(address, service, FORWARDED_KEY in metadata)

    async def identify(self, metadata: Metadata, peer: Peer) -> Caller:
        """Return the caller that sent *metadata*, ANONYMOUS without a credential.

        Raises CREDENTIAL_INVALID, ADDRESS_FORBIDDEN, SERVICE_UNAVAILABLE.
        """
        credential = find_credential(metadata)
        if credential:
            verified = await self._credentials.resolve(credential)
            check_address(verified, peer.address)
            return verified.caller
        if peer.forwarded:
            return self._read_reported_caller(metadata.get(CALLER_KEY), peer)
        return service_caller(peer.service) if peer.service else ANONYMOUS

    def knows(self, metadata: Metadata) -> bool:
        """Return whether the credential in *metadata* worked when it was verified last."""
        try:
            credential = find_credential(metadata)
        except ReelhaulError:
            return False
        return bool(credential) and self._credentials.knows(credential)

    def forget(self, name: str) -> None:
        """Verify the key *name*, or the keys of the tenant *name*, again at their next call."""
        self._credentials.drop(name)

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Call *listener* with the name of each key and tenant that changes from now on."""
        self._credentials.subscribe(listener)

    def _read_reported_caller(self, serialized: str | bytes | None, peer: Peer) -> Caller:
        if not isinstance(serialized, bytes):
            return ANONYMOUS
        verified = credential_of_key(VerifyApiKeyResponse.FromString(serialized), self._levels)
        self._credentials.check_expiry(verified)
        check_address(verified, peer.address)
        return verified.caller


def service_caller(service: str) -> Caller:
    """Return the caller that a service of the suite is."""
    return Caller(
        SYSTEM_TENANT,
        PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS,
        suite=True,
        principal=f"services/{service}",
    )
