"""Identity: who is calling, kept in a context variable for the request being served."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from reelhaul.admin.v1 import api_key_pb2, tenant_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import MethodPolicy, PermissionLevel
from reelhaul_runtime import logs
from reelhaul_runtime.errors import ReelhaulError

#: Metadata key of the suite's own credential.
SUITE_TOKEN_KEY = "x-reelhaul-suite-token"  # noqa: S105 - a name, not a secret

#: The tenant of all callers while REELHAUL_AUTH=none.
LOCAL_TENANT = "local"


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

    def check(self, policy: MethodPolicy) -> None:
        """Raise PERMISSION_INSUFFICIENT unless *policy* allows this caller."""
        if policy.internal_only and not self.suite:
            raise _insufficient("the suite's own credential", self.level)
        required = policy.permission or PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS
        if self.level < required:
            raise _insufficient(_level_name(required), self.level)


class NoAuthentication:
    """REELHAUL_AUTH=none: every caller is the local tenant; services still present the suite token.

    If no suite token is set, no caller counts as a service: internal RPCs are refused.
    """

    def __init__(self, suite_token: str) -> None:
        self._suite_token = suite_token.encode()

    async def identify(self, metadata: Mapping[str, str | bytes]) -> Caller:
        """Return the caller that sent *metadata*."""
        token = metadata.get(SUITE_TOKEN_KEY, "")
        token = token if isinstance(token, bytes) else token.encode()
        suite = bool(self._suite_token) and hmac.compare_digest(token, self._suite_token)
        return Caller(LOCAL_TENANT, PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS, suite)


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
