"""Calls as the interceptor sees them, and the checks that services may add to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from google.rpc import status_pb2

from reelhaul.type.v1.method_policy_pb2 import MethodPolicy
from reelhaul_runtime.auth.peers import AuthContext, Metadata, Peer
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.tracing.spans import NOT_RECORDED, Span


@dataclass(slots=True)
class IncomingCall:
    """A call of one of our RPCs."""

    #: ``/package.Service/Method``.
    path: str
    policy: MethodPolicy
    #: The request message, an iterator of a stream of them, or None if it is malformed.
    request: Any
    #: Where it comes from; unset before its metadata is read.
    peer: Peer = field(default_factory=Peer)
    #: None until the caller is authenticated, and if that fails.
    caller: Caller | None = None
    #: Metadata of the response that states the rate limits of the caller.
    limits: Sequence[tuple[str, str]] = ()
    #: The response of a unary call that succeeded, a message or its bytes; None otherwise.
    response: Any = None
    #: Whether it created a job, or returned the one of an earlier call with the same request id.
    creates_job: bool = False
    #: Its span, once its trace context is read.
    span: Span = NOT_RECORDED


class Authenticator(Protocol):
    """Authenticates callers."""

    def identify_peer(self, metadata: Metadata, connection: str, auth_context: AuthContext) -> Peer:
        """Return where a call with *metadata* comes from.

        *connection* is gRPC's address of the other end of the connection.
        """

    async def identify(self, metadata: Metadata, peer: Peer) -> Caller:
        """Return the caller that sent *metadata*, ANONYMOUS without a credential.

        Raises CREDENTIAL_INVALID, ADDRESS_FORBIDDEN, or SERVICE_UNAVAILABLE if the
        credential cannot be checked now.
        """

    def knows(self, metadata: Metadata) -> bool:
        """Return whether the credential in *metadata* worked when it was verified last: without any I/O."""

    def forget(self, name: str) -> None:
        """Forget what is kept of *name*, a key or tenant that changed: ``apiKeys/…`` or ``tenants/…``."""

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Call *listener* with the name of each key and tenant that changes from now on."""


class RateLimiter(Protocol):
    """Limits the rate of calls, where they enter the suite: not of forwarded ones, nor of services."""

    def check_attempt(self, call: IncomingCall, is_known: Callable[[], bool]) -> None:
        """Raise RATE_LIMIT_EXCEEDED if too many calls from the address of *call* had no valid credential.

        Not if *is_known* returns True: the credential of *call* worked before, it must not suffer from
        others behind the same address.
        """

    async def admit(self, call: IncomingCall) -> Sequence[tuple[str, str]]:
        """Take the cost of *call* from the budget of its caller; return metadata for the response.

        Raises RATE_LIMIT_EXCEEDED.
        """

    async def admit_failure(self, call: IncomingCall, error: ReelhaulError) -> None:
        """Count a call for its address that was refused with *error*: its credential is missing or wrong.

        Raises RATE_LIMIT_EXCEEDED, which the caller gets in place of *error*.
        """


class AuditLog(Protocol):
    """Records the calls of RPCs whose policy says audited."""

    async def record(self, call: IncomingCall, status: status_pb2.Status) -> None:
        """Record *call*, which ended with *status*: code 0 if it succeeded. Raises nothing.

        It is awaited before the status is sent.
        """
