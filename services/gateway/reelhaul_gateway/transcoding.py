"""Transcoding: the services that the gateway serves as REST, its options, and its error reasons."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from reelhaul.admin.v1 import api_key_service_pb2, audit_service_pb2, tenant_service_pb2
from reelhaul.downloads.v1 import download_service_pb2
from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.jobs.v1 import job_service_pb2, schedule_service_pb2, webhook_service_pb2
from reelhaul.storage.v1 import destination_service_pb2, storage_service_pb2
from reelhaul.system.v1 import system_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway.settings import Settings
from reelhaul_runtime import errors, logs
from reelhaul_runtime.rpc.policy import max_deadline_seconds
from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.binding.request_body import HTTP_BODY
from reelhaul_transcoding.errors import ErrorKind, TranscodingError
from reelhaul_transcoding.http.asgi import Scope
from reelhaul_transcoding.http.headers import HeaderPolicy
from reelhaul_transcoding.options import Authorize, Options
from reelhaul_transcoding.routing.rules import http_rules
from reelhaul_transcoding.upstream import Upstream

_FILES = {
    "jobs": (
        download_service_pb2,
        job_service_pb2,
        schedule_service_pb2,
        webhook_service_pb2,
        api_key_service_pb2,
        audit_service_pb2,
        tenant_service_pb2,
    ),
    "storage": (storage_service_pb2, destination_service_pb2),
    "fetcher": (fetcher_service_pb2,),
    "gateway": (system_service_pb2,),
}

#: The proto services that the gateway serves, by the service of the suite that answers them.
SERVICES: dict[str, list[ServiceDescriptor]] = {
    owner: [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    for owner, files in _FILES.items()
}

#: What passes from a request to the services: the caller's credential and the request's identity.
#: The suite's own metadata (x-reelhaul-…) is never accepted from outside.
HEADERS = HeaderPolicy(
    allowed=("authorization", "x-api-key", "x-request-id", "traceparent", "tracestate", "x-forwarded-for"),
    denied=("x-reelhaul-",),
    plain=("location", "etag", "retry-after", "ratelimit", "ratelimit-policy"),
)

_DOWNLOAD_SERVICE = download_service_pb2.DESCRIPTOR.services_by_name["DownloadService"]

# RPCs that are a GET in HTTP, but start a probe of a site, or write a file to test storage.
_READS_WITH_EFFECTS = frozenset(
    {
        "reelhaul.downloads.v1.DownloadService.GetInfo",
        "reelhaul.fetcher.v1.FetcherService.ProbeMedia",
        "reelhaul.system.v1.SystemService.ReportHealth",
    }
)

_HEALTH_CHECKS = frozenset(
    {"reelhaul.system.v1.SystemService.CheckHealth", "reelhaul.system.v1.SystemService.ReportHealth"}
)

# As long as the keys of other APIs may be. https://docs.stripe.com/api/idempotent_requests
_MAX_KEY_LENGTH = 255
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# Never changes: a repeated key must have the same request_id.
_KEY_NAMESPACE = uuid.UUID("6c1f7d1e-0f0b-5d2a-9a53-6f5f0b8a2c41")

# The `cause` of an UPSTREAM_UNAVAILABLE that is the fault of the suite's own egress.
_EGRESS = "egress"

_REASONS: dict[ErrorKind, ErrorReason.ValueType] = {
    ErrorKind.FIELD: ErrorReason.FIELD_INVALID,
    ErrorKind.MEDIA_TYPE: ErrorReason.FIELD_INVALID,
    ErrorKind.SIZE: ErrorReason.FIELD_INVALID,
    # Distinguishes an unknown path from a missing resource, which is RESOURCE_NOT_FOUND.
    ErrorKind.ROUTE: ErrorReason.ROUTE_UNKNOWN,
    ErrorKind.METHOD: ErrorReason.METHOD_UNSUPPORTED,
    ErrorKind.DRAINING: ErrorReason.OVERLOADED,
    ErrorKind.INTERNAL: ErrorReason.INTERNAL_ERROR,
}


def build_transcoder(
    settings: Settings, upstreams: Mapping[str, Upstream], authorize: Authorize | None = None
) -> Transcoder:
    """Return the transcoder of all annotated methods; *upstreams* are by the owners of SERVICES.

    *authorize* decides about requests; without it all are served.
    """
    options = Options(
        headers=HEADERS,
        max_timeout=_max_timeout,
        describe_error=_describe_error,
        http_status=http_status,
        emit_defaults=_emit_defaults,
        ignore_unknown_fields=False,
        ignore_unknown_parameters=_is_health_check,
        # As in the command line.
        case_insensitive_enums=True,
        header_fields={"idempotency-key": "request_id"},
        header_values={"idempotency-key": to_request_id},
        event_id_field="resume_token",
        event_name_oneof="event",
        json_arrays=True,
        max_request_bytes=settings.gateway_max_request_bytes,
        compress_from_bytes=settings.gateway_compress_from_bytes,
        authorize=authorize,
        challenge='Bearer realm="reelhaul"',
    )
    return Transcoder(
        [(service, upstreams[owner]) for owner, services in SERVICES.items() for service in services], options
    )


def has_effects(transcoder: Transcoder, scope: Scope) -> bool:
    """Return whether a GET or HEAD does more than read a resource: it occupies a slot, or opens a stream."""
    method = transcoder.find_method(scope)
    return method is not None and (method.full_name in _READS_WITH_EFFECTS or _is_watch(method))


def _is_watch(method: MethodDescriptor) -> bool:
    return bool(method.server_streaming and method.output_type.full_name != HTTP_BODY)


def list_routes() -> list[str]:
    """Return every route as ``METHOD path package.Service.Method``, sorted."""
    services = [service for services in SERVICES.values() for service in services]
    return sorted(f"{rule.http_method} {rule.template} {rule.name}" for rule in http_rules(services))


def _describe_error(error: TranscodingError) -> list[Message]:
    """Return the ErrorInfo of *error*, with the metadata that its reason requires."""
    reason = _REASONS[error.kind]
    metadata = dict.fromkeys(errors.error_spec(reason).metadata_keys, "")
    if reason == ErrorReason.FIELD_INVALID:
        field = error.violations[0].field if error.violations else error.subject
        metadata["field"] = field or "body"
    elif reason == ErrorReason.ROUTE_UNKNOWN:
        metadata["path"] = error.subject.partition(" ")[2]
    elif reason == ErrorReason.METHOD_UNSUPPORTED:
        metadata["method"] = error.subject
    elif reason == ErrorReason.INTERNAL_ERROR:
        metadata["requestId"] = logs.request_id.get()
    return [
        error_details_pb2.ErrorInfo(reason=ErrorReason.Name(reason), domain=errors.DOMAIN, metadata=metadata)
    ]


def http_status(status: status_pb2.Status) -> int | None:
    """Return the HTTP status of a failure if its reason has another than its code.

    A failure of a site is no 5xx, on which operators set alerts; one of the suite's own egress is 502.
    """
    error = errors.from_status(status)
    if error.metadata.get("cause") == _EGRESS:
        return 502
    return errors.error_spec(error.reason).http_status or None


def to_request_id(key: str) -> str:
    """Return the request_id, a UUID (AIP-155), of an Idempotency-Key; another string gets a UUID of its own.

    Raises ValueError if *key* is too long.
    """
    if len(key) > _MAX_KEY_LENGTH:
        raise ValueError(f"must have at most {_MAX_KEY_LENGTH} characters, not {len(key)}")
    return key if _UUID.fullmatch(key) else str(uuid.uuid5(_KEY_NAMESPACE, key))


def _is_health_check(method: MethodDescriptor) -> bool:
    """Return whether *method* is called by probes, which often add parameters of their own."""
    return method.full_name in _HEALTH_CHECKS


def _emit_defaults(method: MethodDescriptor) -> bool:
    """Return whether *method* is of the flat API: its callers, often scripts, expect every field."""
    return bool(method.containing_service.full_name == _DOWNLOAD_SERVICE.full_name)


def _max_timeout(method: MethodDescriptor) -> float:
    return max_deadline_seconds(f"/{method.containing_service.full_name}/{method.name}")
