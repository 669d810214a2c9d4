"""Identity: who is calling, kept in a context variable for the request being served."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from reelhaul.admin.v1 import api_key_pb2, tenant_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import MethodPolicy, PermissionLevel
from reelhaul_runtime import logs
from reelhaul_runtime.auth.peers import (
    FORWARDED_KEY,
    AuthContext,
    Metadata,
    Peer,
    ServiceIdentifier,
    connection_address,
    is_address,
    is_loopback,
)
from reelhaul_runtime.errors import ReelhaulError

#: The tenant of all callers while REELHAUL_AUTH=none.
LOCAL_TENANT = "local"
#: The tenant of the services themselves with REELHAUL_AUTH=keys; no key belongs to it.
SYSTEM_TENANT = "system"


_TENANTS = "tenants/"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller."""

    tenant: str
    level: PermissionLevel.ValueType
    #: Whether it presented the suite's own credential: it is one of our services.
    suite: bool = False
    #: What it presented: "apiKeys/…", "users/…" of an identity provider, "services/…"; empty if nothing.
    principal: str = ""
    #: Its key with the limits that apply, and the tenant; None for services and without authentication.
    api_key: api_key_pb2.ApiKey | None = None
    tenant_resource: tenant_pb2.Tenant | None = None

    @property
    def sees_all_tenants(self) -> bool:
        """Whether it may name jobs and artifacts of every tenant: ADMIN and above, and services."""
        return self.suite or self.level >= PermissionLevel.PERMISSION_LEVEL_ADMIN

    def check(self, policy: MethodPolicy) -> None:
        """Raise CREDENTIAL_MISSING or PERMISSION_INSUFFICIENT unless *policy* allows this caller."""
        required = policy.permission or PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS
        if self.level >= required and (self.suite or not policy.internal_only):
            return
        if self.level <= PermissionLevel.PERMISSION_LEVEL_PUBLIC:
            raise ReelhaulError(
                ErrorReason.CREDENTIAL_MISSING,
                "this call needs an API key: send it as `authorization: Bearer <key>` or `x-api-key: <key>`",
            )
        needed = "the suite's own credential" if policy.internal_only else _level_name(required)
        raise _insufficient(needed, self.level)

    def is_or_belongs_to(self, name: str) -> bool:
        """Return whether *name* is the resource name of its key or tenant."""
        return name == self.principal or (
            name.startswith(_TENANTS) and name.removeprefix(_TENANTS) == self.tenant
        )


#: A caller without a credential.
ANONYMOUS = Caller("", PermissionLevel.PERMISSION_LEVEL_PUBLIC)


class NoAuthentication:
    """REELHAUL_AUTH=none: every caller is the local tenant; services still present the suite's credential.

    If none is configured, no caller counts as a service: internal RPCs are refused.
    """

    def __init__(self, suite_token: str, tls_service_name: str = "") -> None:
        self._services = ServiceIdentifier(suite_token, tls_service_name)

    def identify_peer(self, metadata: Metadata, connection: str, auth_context: AuthContext) -> Peer:
        """Return where a call with *metadata* comes from.

        Whom the gateway and services on this machine serve is what they report; others are not believed.
        """
        address = connection_address(connection)
        forwarded_for = str(metadata.get("x-forwarded-for", ""))
        if forwarded_for and is_loopback(address) and is_address(forwarded_for):
            address = forwarded_for
        service = self._services.identify_service(metadata, auth_context)
        return Peer(address, service, bool(service) and FORWARDED_KEY in metadata)

    def knows(self, metadata: Metadata) -> bool:
        """Return True: no credential is needed."""
        return True

    async def identify(self, metadata: Metadata, peer: Peer) -> Caller:
        """Return the caller that sent *metadata*."""
        return _LOCAL_SERVICE if peer.service and not peer.forwarded else _LOCAL_CALLER

    def forget(self, name: str) -> None:
        """Do nothing: there are no keys."""

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Do nothing: there are no keys that could change."""


_LOCAL_CALLER = Caller(LOCAL_TENANT, PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS)
_LOCAL_SERVICE = Caller(LOCAL_TENANT, PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS, suite=True)

_caller: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Return the caller of the request being served. Raises LookupError outside of one."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Set the caller for the rest of the request."""
    _caller.set(caller)
    logs.tenant.set(caller.tenant)


def _insufficient(required: str, granted: PermissionLevel.ValueType) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.PERMISSION_INSUFFICIENT,
        f"this call requires {required}",
        metadata={"required": required, "granted": _level_name(granted)},
    )


def _level_name(level: PermissionLevel.ValueType) -> str:
    return PermissionLevel.Name(level).removeprefix("PERMISSION_LEVEL_")
