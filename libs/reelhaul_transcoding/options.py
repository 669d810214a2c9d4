"""Options of a transcoder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from google.api import http_pb2
from google.protobuf.descriptor import MethodDescriptor

from reelhaul_transcoding.errors import DescribeError, SelectHttpStatus
from reelhaul_transcoding.http.asgi import Scope
from reelhaul_transcoding.http.headers import HeaderPolicy
from reelhaul_transcoding.routing.percent import Unescape

#: Decides whether the request of a scope may call a method.
Authorize = Callable[[MethodDescriptor, Scope], Awaitable[None]]

_DEFAULT_TIMEOUT_SECONDS = 30.0


def _default_timeout(_: MethodDescriptor) -> float:
    return _DEFAULT_TIMEOUT_SECONDS


def _never(_: MethodDescriptor) -> bool:
    return False


@dataclass(frozen=True)
class Options:
    """What a transcoder accepts, rejects and writes. The defaults follow google/api/http.proto."""

    headers: HeaderPolicy = field(default_factory=HeaderPolicy)
    #: Longest duration of a call in seconds, by method; a client's own deadline may be shorter.
    max_timeout: Callable[[MethodDescriptor], float] = _default_timeout
    #: Returns details that come first in the Status of an error of the transcoder itself.
    describe_error: DescribeError | None = None
    #: Returns the HTTP status of a failure; None: that of its code (google/rpc/code.proto).
    http_status: SelectHttpStatus | None = None
    #: Rules of a service config, which replace annotations (``routing.service_config``); its
    #: fully_decode_reserved_expansion selects ALL_CHARACTERS_EXCEPT_SLASH.
    http: http_pb2.Http | None = None
    #: Match a path with a slash at its end as if it had none.
    ignore_trailing_slash: bool = False
    #: Serve methods without a rule as POST /package.Service/Method.
    auto_mapping: bool = False
    unescape: Unescape = Unescape.ALL_CHARACTERS_EXCEPT_SLASH

    #: Methods of which query parameters that match no field are ignored, instead of 400.
    ignore_unknown_parameters: Callable[[MethodDescriptor], bool] = _never
    #: Such parameters that every method ignores, e.g. ``prettyPrint``.
    ignored_parameters: frozenset[str] = frozenset()
    #: Ignore unknown names in a JSON body instead of 400.
    ignore_unknown_fields: bool = True
    #: Accept the names of enum values in any case, and without the enum's name as prefix.
    case_insensitive_enums: bool = False
    #: Reject a field that the path sets and the body or a parameter sets too: 400.
    #: Otherwise the path wins over the body, and both win over the parameter.
    reject_conflicts: bool = True
    #: Ignore a body if the binding takes none, instead of 400.
    ignore_unbound_body: bool = False

    #: Fill the update_mask of a PATCH without one from the fields in its body, except these fields.
    infer_update_mask: bool = True
    update_mask_exclusions: frozenset[str] = frozenset({"etag"})

    #: Request headers that set a string field of the request: header -> field.
    header_fields: Mapping[str, str] = field(default_factory=dict)
    #: What such a field holds instead of the header's value: header -> function, which raises
    #: ValueError for an invalid value.
    header_values: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    #: The field of streamed messages that becomes the SSE ``id``, and the field of the
    #: request that Last-Event-ID sets.
    event_id_field: str = ""
    #: The oneof of streamed messages whose set field names the SSE ``event``, by its JSON name;
    #: ``message`` where none is set. Empty: events have no names.
    event_name_oneof: str = ""

    #: Largest request body in bytes, as sent and as inflated.
    max_request_bytes: int = 4 * 1024 * 1024
    #: Smallest JSON response in bytes that is compressed for clients that accept gzip; 0: never.
    compress_from_bytes: int = 2048
    #: Bytes of messages and their JSON that are kept for responses that repeat, e.g. polled lists; 0: none.
    fragment_cache_bytes: int = 16 * 1024 * 1024
    #: Whether the responses of a method include fields without presence at their default.
    emit_defaults: Callable[[MethodDescriptor], bool] = _never
    #: Send a stream as one JSON array to clients that prefer application/json; otherwise as NDJSON.
    json_arrays: bool = False
    #: Seconds without a message after which the response of a stream starts, and between pings.
    stream_start_seconds: float = 1.0
    ping_seconds: float = 15.0
    #: Decides whether a request may call a method, before its body is read. Raises UpstreamError.
    authorize: Authorize | None = None
    #: WWW-Authenticate of a 401; empty: none.
    challenge: str = ""
