"""Who is calling: carried beside a request, not through every signature."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import MethodPolicy, PermissionLevel
from reelhaul_runtime.errors import ReelhaulError

#: Metadata key of the suite's own credential.
SUITE_TOKEN_KEY = "x-reelhaul-suite-token"  # noqa: S105 - a name, not a secret

#: The tenant of all callers while REELHAUL_AUTH=none.
LOCAL_TENANT = "local"


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller whose credential was checked."""

    tenant: str
    level: PermissionLevel.ValueType
    #: Whether it showed the suite's own credential: a service of ours.
    suite: bool = False

    def check(self, policy: MethodPolicy) -> None:
        """Raise PERMISSION_INSUFFICIENT unless *policy* lets this caller in."""
        if policy.internal_only and not self.suite:
            raise _insufficient("the suite's own credential", self.level)
        required = policy.permission or PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS
        if self.level < required:
            raise _insufficient(_level_name(required), self.level)


class NoAuthentication:
    """REELHAUL_AUTH=none: everyone is the local tenant; the suite still proves itself.

    Where no suite token is configured (one service run by hand on loopback) internal
    RPCs are open as well.
    """

    def __init__(self, suite_token: str) -> None:
        self._suite_token = suite_token.encode()

    async def identify(self, metadata: Mapping[str, str | bytes]) -> Caller:
        """The caller that *metadata* speaks of."""
        shown = metadata.get(SUITE_TOKEN_KEY, "")
        shown = shown if isinstance(shown, bytes) else shown.encode()
        suite = hmac.compare_digest(shown, self._suite_token)
        return Caller(LOCAL_TENANT, PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS, suite)


_caller: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Who made the request that is being served. LookupError outside of one."""
    return _caller.get()


def set_caller(who: Caller) -> None:
    """Remember *who* for the rest of the request."""
    _caller.set(who)


def _insufficient(required: str, granted: PermissionLevel.ValueType) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.PERMISSION_INSUFFICIENT,
        f"this call needs {required}",
        metadata={"required": required, "granted": _level_name(granted)},
    )


def _level_name(level: PermissionLevel.ValueType) -> str:
    return PermissionLevel.Name(level).removeprefix("PERMISSION_LEVEL_")
