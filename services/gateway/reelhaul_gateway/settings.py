"""Settings of the gateway, from ``REELHAUL_*``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from reelhaul_gateway.certificate import CertificateError, load_context
from reelhaul_runtime.settings import SuiteSettings


class Settings(SuiteSettings):
    """The settings of the suite and those of the gateway."""

    #: Largest request body in bytes, as sent and as inflated.
    gateway_max_request_bytes: int = Field(default=4 << 20, gt=0)
    #: Smallest response in bytes that is compressed for clients that accept gzip; 0: never.
    gateway_compress_from_bytes: int = Field(default=2048, ge=0)
    #: Processes that share the address. Each has an equal part of the limits below that are for all together.
    gateway_workers: int = Field(default=1, gt=0, le=64)
    #: host:port where each worker answers probes, comma separated, this worker's first. `serve` sets it for
    #: the workers that it starts.
    gateway_worker_addresses: str = ""
    #: Seconds that a connection may be idle between two requests.
    gateway_keep_alive_seconds: int = Field(default=75, gt=0)
    #: Connections in total, and of one peer (an IPv4 address or an IPv6 /64). The file descriptors of the
    #: process bound the total as well. Behind a reverse proxy all connections are of one peer.
    gateway_max_connections: int = Field(default=4096, gt=0)
    gateway_max_connections_per_peer: int = Field(default=2048, gt=0)
    #: Seconds that a client may take to send the head of a request, and its body.
    gateway_head_seconds: float = Field(default=10.0, gt=0)
    gateway_body_seconds: float = Field(default=120.0, gt=0)
    #: Bytes per second that a request body must reach on average, after five seconds; 0: none.
    gateway_min_body_rate: int = Field(default=256, ge=0)
    #: Bytes of all request bodies at a time, of requests that are not answered yet; beyond it: 503.
    gateway_max_total_body_bytes: int = Field(default=256 << 20, gt=0)
    #: The pages that may embed downloads: those of the same origin, of the same site, or all.
    gateway_resource_policy: Literal["same-origin", "same-site", "cross-origin"] = "same-origin"
    #: How artifacts are downloaded from /v1/artifacts/{artifact}:download unless the request says otherwise:
    #: through the gateway, or by a redirect to a signed link of storage.
    gateway_downloads: Literal["stream", "redirect"] = "stream"

    @model_validator(mode="after")
    def _check_certificate(self) -> Self:
        certificate, key = self.gateway_tls_certificate, self.gateway_tls_key
        if certificate is not None and key is not None:
            try:
                load_context(certificate, key)
            except CertificateError as error:
                name = "KEY" if error.file == key else "CERTIFICATE"
                raise ValueError(f"REELHAUL_GATEWAY_TLS_{name}: {error}") from None
        elif certificate is not None:
            raise ValueError("REELHAUL_GATEWAY_TLS_KEY is not set: TLS needs that of the certificate")
        elif key is not None:
            raise ValueError("REELHAUL_GATEWAY_TLS_CERTIFICATE is not set: TLS needs that of the key")
        return self
