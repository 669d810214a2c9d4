"""Authorization: whether a call may be made. The same for services and for the gateway."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime import errors, identity
from reelhaul_runtime.auth.calls import Authenticator, IncomingCall, RateLimiter
from reelhaul_runtime.auth.peers import Metadata
from reelhaul_runtime.metrics.instruments import AUTHENTICATION_FAILURES

# Failures that count as failed attempts to authenticate.
_FAILED_AUTHENTICATION = (
    ErrorReason.CREDENTIAL_MISSING,
    ErrorReason.CREDENTIAL_INVALID,
    ErrorReason.ADDRESS_FORBIDDEN,
)
# A first burst raises an alert only if the series is there before it.
for _reason in _FAILED_AUTHENTICATION:
    AUTHENTICATION_FAILURES.labels(ErrorReason.Name(_reason))


async def authorize(
    call: IncomingCall,
    metadata: Metadata,
    authenticator: Authenticator,
    rate_limiter: RateLimiter | None = None,
) -> Sequence[tuple[str, str]]:
    """Authenticate the caller of *call*, check the policy of its RPC, and take its cost from the budget.

    Sets the caller of the request, and the caller and the rate limits of *call*, which it returns: metadata
    for the response. Credentials are not looked at for RPCs that need none: they work while the service
    that verifies credentials is away. Raises CREDENTIAL_MISSING, CREDENTIAL_INVALID, ADDRESS_FORBIDDEN,
    PERMISSION_INSUFFICIENT, RATE_LIMIT_EXCEEDED, SERVICE_UNAVAILABLE.
    """
    try:
        if call.policy.permission == PermissionLevel.PERMISSION_LEVEL_PUBLIC:
            call.caller = identity.ANONYMOUS
        else:
            if rate_limiter is not None:
                rate_limiter.check_attempt(call, partial(authenticator.knows, metadata))
            call.caller = await authenticator.identify(metadata, call.peer)
        call.caller.check(call.policy)
    except errors.ReelhaulError as error:
        if error.reason in _FAILED_AUTHENTICATION:
            AUTHENTICATION_FAILURES.labels(ErrorReason.Name(error.reason)).inc()
        if rate_limiter is not None:
            if error.reason in _FAILED_AUTHENTICATION:
                await rate_limiter.admit_failure(call, error)
            elif error.reason == ErrorReason.PERMISSION_INSUFFICIENT:
                call.limits = await rate_limiter.admit(call)
        raise
    identity.set_caller(call.caller)
    if rate_limiter is not None:
        call.limits = await rate_limiter.admit(call)
    return call.limits


def combine_metadata(pairs: Iterable[tuple[str, str | bytes]]) -> dict[str, str | bytes]:
    """Return *pairs* by key; texts of a repeated key are joined by commas, as in HTTP (RFC 9110 section 5.3).

    A repeated credential is thus malformed, instead of one of the two being ignored.
    """
    pairs = tuple(pairs)
    combined = dict(pairs)
    if len(combined) < len(pairs):
        values: dict[str, list[str | bytes]] = {}
        for key, value in pairs:
            values.setdefault(key, []).append(value)
        for key, repeated in values.items():
            if len(repeated) > 1:
                combined[key] = ",".join(text for text in repeated if isinstance(text, str)) or repeated[-1]
    return combined
