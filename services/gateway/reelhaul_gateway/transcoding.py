"""Transcoding: the choices that this gateway makes where google.api.http leaves them open."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.descriptor import MethodDescriptor

from reelhaul.downloads.v1 import download_service_pb2
from reelhaul_gateway.error_reasons import described
from reelhaul_gateway.routes import SERVICES
from reelhaul_gateway.settings import Settings
from reelhaul_runtime.rpc.policy import max_deadline_of
from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.http.headers import HeaderPolicy
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.upstream import Upstream

_SIMPLE = download_service_pb2.DESCRIPTOR.services_by_name["DownloadService"]

#: What passes from a request to the services: who calls, and which request it belongs to. The
#: suite's own names (x-reelhaul-…) never come from outside.
HEADERS = HeaderPolicy(
    allowed=("authorization", "x-api-key", "x-request-id", "traceparent", "tracestate", "x-forwarded-for"),
    denied=("x-reelhaul-",),
    plain=("location", "etag", "retry-after", "ratelimit", "ratelimit-policy"),
)


def transcoder(settings: Settings, upstreams: Mapping[str, Upstream]) -> Transcoder:
    """All annotated methods, each answered by the upstream of its service."""
    options = Options(
        headers=HEADERS,
        timeout_of=_timeout,
        describe=described,
        emits_defaults=_is_simple,
        ignore_unknown_fields=False,
        header_fields={"idempotency-key": "request_id"},
        event_id_field="resume_token",
        max_request_bytes=settings.gateway_max_request_bytes,
        compress_from_bytes=settings.gateway_compress_from_bytes,
        challenge='Bearer realm="reelhaul"',
    )
    served = [(service, upstreams[owner]) for owner, services in SERVICES.items() for service in services]
    return Transcoder(served, options)


def _is_simple(method: MethodDescriptor) -> bool:
    """Whether *method* is of the door for scripts: they read fields without asking for them first."""
    return bool(method.containing_service.full_name == _SIMPLE.full_name)


def _timeout(method: MethodDescriptor) -> float:
    return max_deadline_of(f"/{method.containing_service.full_name}/{method.name}")
