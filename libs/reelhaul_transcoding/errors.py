"""Errors of the transcoder: requests that it rejects before or instead of an upstream call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2

_MAX_NAME_LENGTH = 300


class ErrorKind(Enum):
    """What an error is about; the host application may add details by it."""

    #: A field of the request, in path, query, body or header.
    FIELD = "field"
    #: No route matches the path.
    ROUTE = "route"
    #: A route matches the path, but not the method.
    METHOD = "method"
    #: The body has an unsupported media type or encoding.
    MEDIA_TYPE = "media-type"
    #: The body or the response is larger than allowed.
    SIZE = "size"
    #: The server is shutting down.
    DRAINING = "draining"
    #: The upstream's response cannot be written as JSON, or the transcoder has a bug.
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One problem of a request; ``field`` is a path of proto names, e.g. ``job.url``."""

    field: str
    description: str


class TranscodingError(Exception):
    """A request that the transcoder rejects.

    ``code`` is a google.rpc.Code. ``subject`` says what the error is about if it is not a
    field, e.g. ``GET /nowhere``. ``http_status`` overrides the HTTP status of the code, and
    ``headers`` are added to the response.
    """

    def __init__(
        self,
        kind: ErrorKind,
        code: int,
        message: str,
        *,
        violations: Iterable[FieldViolation] = (),
        subject: str = "",
        http_status: int | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.message = message
        self.violations = tuple(violations)
        self.subject = subject
        self.http_status = http_status
        self.headers = tuple(headers)


#: Returns the details that the host application adds to the Status of an error.
DescribeError = Callable[[TranscodingError], Sequence[Message]]
#: Returns the HTTP status of a failure, e.g. by the reason in its details; None: that of its code.
SelectHttpStatus = Callable[[status_pb2.Status], int | None]


class FieldError(TranscodingError):
    """A field has an invalid value: 400."""

    def __init__(self, field: str, description: str) -> None:
        # Names of map entries and unknown fields come from the caller and may have any length.
        field = field[:_MAX_NAME_LENGTH]
        super().__init__(
            ErrorKind.FIELD,
            code_pb2.INVALID_ARGUMENT,
            f"{field}: {description}" if field else description,
            violations=[FieldViolation(field, description)],
        )


class RouteNotFound(TranscodingError):
    """No route matches the path: 404."""

    def __init__(self, method: str, path: str) -> None:
        super().__init__(
            ErrorKind.ROUTE,
            code_pb2.NOT_FOUND,
            f"no route matches {path[:_MAX_NAME_LENGTH]}",
            subject=f"{method} {path[:_MAX_NAME_LENGTH]}",
        )


class MethodNotAllowed(TranscodingError):
    """Routes match the path, but only with other methods: 405 with Allow."""

    def __init__(self, method: str, path: str, allowed: Iterable[str]) -> None:
        self.allowed = tuple(allowed)
        allow = ", ".join(self.allowed)
        super().__init__(
            ErrorKind.METHOD,
            code_pb2.UNIMPLEMENTED,
            f"method {method} is not allowed; allowed: {allow}",
            subject=f"{method} {path[:_MAX_NAME_LENGTH]}",
            http_status=405,
            headers=[(b"allow", allow.encode())],
        )


class BodyTooLarge(TranscodingError):
    """The body exceeds the limit: 413."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            ErrorKind.SIZE,
            code_pb2.INVALID_ARGUMENT,
            f"the body is larger than {limit} bytes",
            subject="body",
            http_status=413,
            # The unread rest of the body must not be parsed as the next request.
            headers=[(b"connection", b"close")],
        )


class MessageTooLarge(TranscodingError):
    """A message of a client stream exceeds the limit: 413."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            ErrorKind.SIZE,
            code_pb2.INVALID_ARGUMENT,
            f"a message of the stream is larger than {limit} bytes",
            subject="body",
            http_status=413,
        )


class RequestTooLarge(TranscodingError):
    """The message of the request exceeds what the upstream accepts: 413."""

    def __init__(self) -> None:
        super().__init__(
            ErrorKind.SIZE,
            code_pb2.INVALID_ARGUMENT,
            "the request is larger than its service accepts",
            subject="body",
            http_status=413,
        )


class ResponseTooLarge(TranscodingError):
    """The message of the response exceeds what the channel to the upstream accepts: 502."""

    def __init__(self) -> None:
        super().__init__(
            ErrorKind.INTERNAL,
            code_pb2.INTERNAL,
            "the response is larger than this server passes on; request less, e.g. a smaller page",
            http_status=502,
        )


class UnsupportedMediaType(TranscodingError):
    """The media type or encoding of the body is not supported: 415."""

    def __init__(self, message: str) -> None:
        super().__init__(
            ErrorKind.MEDIA_TYPE, code_pb2.INVALID_ARGUMENT, message, subject="content-type", http_status=415
        )


class Draining(TranscodingError):
    """The server is shutting down; the client may resume the stream on another one: 503."""

    def __init__(self) -> None:
        super().__init__(
            ErrorKind.DRAINING, code_pb2.UNAVAILABLE, "the server is shutting down; reconnect to resume"
        )
