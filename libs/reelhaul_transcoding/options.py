"""Options: how one gateway differs from another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from google.protobuf.descriptor import MethodDescriptor

from reelhaul_transcoding.http.headers import HeaderPolicy
from reelhaul_transcoding.http.status import Describe
from reelhaul_transcoding.routing.percent import Unescape

_DEFAULT_TIMEOUT_SECONDS = 30.0


def _default_timeout(_: MethodDescriptor) -> float:
    return _DEFAULT_TIMEOUT_SECONDS


def _no(_: MethodDescriptor) -> bool:
    return False


@dataclass(frozen=True)
class Options:
    """What a gateway takes, refuses and says. The defaults follow google/api/http.proto."""

    headers: HeaderPolicy = field(default_factory=HeaderPolicy)
    #: Seconds that a call of a method may take at most; a caller's own deadline may be shorter.
    timeout_of: Callable[[MethodDescriptor], float] = _default_timeout
    #: Details to put first into the Status of what the transcoder refuses itself.
    describe: Describe | None = None
    unescape: Unescape = Unescape.ALL_CHARACTERS_EXCEPT_SLASH

    #: Parameters that name no field: pass over instead of 400; or pass over only these.
    ignore_unknown_parameters: bool = False
    ignored_parameters: frozenset[str] = frozenset()
    #: Names in a body that name no field: pass over instead of 400.
    ignore_unknown_fields: bool = True
    #: A field set by the path and otherwise by the body, or by a parameter besides: 400.
    #: Else the path wins over the body, and both over the parameter.
    refuse_conflicts: bool = True
    #: A body where the binding takes none: pass over instead of 400.
    ignore_unbound_body: bool = False

    #: Whether a PATCH without update_mask gets one of what its body holds, but for these fields.
    patch_masks: bool = True
    unmasked_fields: frozenset[str] = frozenset({"etag"})

    #: Request headers that set a string field of the request: header -> field.
    header_fields: Mapping[str, str] = field(default_factory=dict)
    #: The field of a stream's messages that is SSE's ``id``, and the field of its request
    #: that Last-Event-ID sets.
    event_id_field: str = ""

    #: Bytes of a request's body, and of what it inflates to.
    max_request_bytes: int = 4 * 1024 * 1024
    #: JSON answers from this size on are compressed for those who take gzip; 0: never.
    compress_from_bytes: int = 2048
    #: Whether a method's answers print fields without presence at their defaults.
    emits_defaults: Callable[[MethodDescriptor], bool] = _no
    #: Seconds of silence after which a stream is begun, and those between signs of life.
    begin_after_seconds: float = 1.0
    ping_seconds: float = 15.0
    #: What a 401 asks for in WWW-Authenticate; empty: nothing.
    challenge: str = ""
