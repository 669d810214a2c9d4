"""What the transcoder itself refuses: told to callers as google.rpc.Status, never as plain text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from google.rpc import code_pb2

_MAX_FIELD = 300


class Kind(Enum):
    """What a fault is about; the host application may tell its callers more by it."""

    #: A field of the request, in path, query, body or header.
    FIELD = "field"
    #: No route leads there.
    ROUTE = "route"
    #: The path exists, the method does not.
    METHOD = "method"
    #: The body is of a media type, or in an encoding, that is not taken.
    MEDIA_TYPE = "media-type"
    #: Body or answer is larger than what is allowed.
    SIZE = "size"
    #: The server is about to leave.
    DRAINING = "draining"
    #: The upstream answered what cannot be told in JSON, or we have a bug.
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request; ``field`` is a path of proto names, e.g. ``job.url``."""

    field: str
    description: str


class Fault(Exception):
    """A request that the transcoder does not pass on.

    ``code`` is a google.rpc.Code and ``subject`` what the fault is about where it is no
    field, e.g. ``GET /nowhere``; ``http_status`` overrides the status that follows from
    it, and ``headers`` go with the answer.
    """

    def __init__(
        self,
        kind: Kind,
        code: int,
        text: str,
        *,
        violations: Iterable[Violation] = (),
        subject: str = "",
        http_status: int | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.code = code
        self.text = text
        self.violations = tuple(violations)
        self.subject = subject
        self.http_status = http_status
        self.headers = tuple(headers)


class FieldFault(Fault):
    """A field that cannot be taken as it was given: 400."""

    def __init__(self, field: str, description: str) -> None:
        # Names of map entries and of unknown fields are the caller's, of any length.
        field = field[:_MAX_FIELD]
        super().__init__(
            Kind.FIELD,
            code_pb2.INVALID_ARGUMENT,
            f"{field}: {description}" if field else description,
            violations=[Violation(field, description)],
        )


class NoRoute(Fault):
    """Nothing is bound to the path: 404."""

    def __init__(self, method: str, path: str) -> None:
        super().__init__(
            Kind.ROUTE,
            code_pb2.NOT_FOUND,
            f"nothing is served at {path[:_MAX_FIELD]}",
            subject=f"{method} {path[:_MAX_FIELD]}",
        )


class MethodNotAllowed(Fault):
    """Something is bound to the path, for other methods: 405, and Allow names them."""

    def __init__(self, method: str, path: str, allowed: Iterable[str]) -> None:
        self.allowed = tuple(allowed)
        listed = ", ".join(self.allowed)
        super().__init__(
            Kind.METHOD,
            code_pb2.UNIMPLEMENTED,
            f"{method} is not served here; allowed: {listed}",
            subject=f"{method} {path[:_MAX_FIELD]}",
            http_status=405,
            headers=[(b"allow", listed.encode())],
        )


class TooLarge(Fault):
    """The body passes the limit: 413."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            Kind.SIZE,
            code_pb2.INVALID_ARGUMENT,
            f"the body is larger than {limit} bytes",
            subject="body",
            http_status=413,
            # What is left unread of the body must not be taken for the next request.
            headers=[(b"connection", b"close")],
        )


class Unsupported(Fault):
    """The body's media type or encoding is not taken: 415."""

    def __init__(self, text: str) -> None:
        super().__init__(
            Kind.MEDIA_TYPE, code_pb2.INVALID_ARGUMENT, text, subject="content-type", http_status=415
        )


class Draining(Fault):
    """The server leaves: a stream ends here and may be resumed elsewhere. 503."""

    def __init__(self) -> None:
        super().__init__(Kind.DRAINING, code_pb2.UNAVAILABLE, "the server is draining; come back")
