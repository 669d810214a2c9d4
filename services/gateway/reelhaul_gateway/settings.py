"""Settings of the gateway, from ``REELHAUL_*``."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from reelhaul_runtime.addresses import Network
from reelhaul_runtime.settings import SuiteSettings, split_networks
from reelhaul_runtime.tls_settings import check_pair

#: The value of ``gateway_cors_origins`` that allows the pages of every origin.
ANY_ORIGIN = "*"

# An origin as browsers write it; extensions and native web views have schemes of their own.
_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.\-]{0,30})://(?:\[[0-9a-f:.]{2,45}\]|[a-z0-9._\-]{1,255})(?::([0-9]{1,5}))?"
)
_HOST = re.compile(r"(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63}){0,8}")
_DEFAULT_PORTS = {("http", "80"), ("https", "443")}


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
    #: Seconds of ``drain_seconds`` in which /readyz fails and requests are still accepted, so that load
    #: balancers notice before connections are closed.
    gateway_unready_seconds: float = Field(default=0.0, ge=0)
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
    #: Whether the web console is served at ``/``.
    gateway_console: bool = True
    #: The pages that may embed downloads: those of the same origin, of the same site, or all.
    gateway_resource_policy: Literal["same-origin", "same-site", "cross-origin"] = "same-origin"
    #: How artifacts are downloaded from /v1/artifacts/{artifact}:download unless the request says otherwise:
    #: through the gateway, or by a redirect to a signed link of storage.
    gateway_downloads: Literal["stream", "redirect"] = "stream"
    #: The origins whose pages may call the gateway by scripts (CORS), comma separated, or ``*``: all.
    gateway_cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    #: Whether such pages may send cookies and HTTP authentication, for a proxy that needs them.
    gateway_cors_credentials: bool = False
    #: Seconds for which browsers remember that an origin is allowed.
    gateway_cors_max_age_seconds: int = Field(default=600, ge=0, le=86400)
    #: Host names by which clients address the gateway, comma separated; ``*.example.org``: all below
    #: example.org. Others are refused, but IP addresses and localhost are not. Empty: all with
    #: REELHAUL_AUTH=keys, none further with ``none``.
    gateway_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    #: Networks of reverse proxies, comma separated, whose X-Forwarded-For, -Proto and -Host are believed.
    gateway_trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = ()
    #: Whether these proxies may begin a connection with the PROXY protocol (version 1 or 2), which says for
    #: whom they connect.
    gateway_proxy_protocol: bool = False

    @field_validator("gateway_cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        return tuple(part if part == ANY_ORIGIN else _parse_origin(part) for part in parts)

    @field_validator("gateway_allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        hosts = tuple(part.strip().lower() for part in value.split(",") if part.strip())
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"{host[:100]} is not a host name: write media.example.org or *.example.org, without a"
                    " scheme and a port"
                )
        return hosts

    @field_validator("gateway_trusted_proxies", mode="before")
    @classmethod
    def _split_networks_of_proxies(cls, value: object) -> object:
        return split_networks(value)

    @model_validator(mode="after")
    def _check_proxy_protocol(self) -> Self:
        if self.gateway_proxy_protocol and not self.gateway_trusted_proxies:
            raise ValueError(
                "REELHAUL_GATEWAY_TRUSTED_PROXIES is not set: REELHAUL_GATEWAY_PROXY_PROTOCOL needs the"
                " networks of the proxies that may use it"
            )
        return self

    @model_validator(mode="after")
    def _check_cors(self) -> Self:
        if ANY_ORIGIN in self.gateway_cors_origins:
            if len(self.gateway_cors_origins) > 1:
                raise ValueError("REELHAUL_GATEWAY_CORS_ORIGINS: write * alone, or the origins without it")
            if self.gateway_cors_credentials:
                raise ValueError(
                    "REELHAUL_GATEWAY_CORS_CREDENTIALS: with REELHAUL_GATEWAY_CORS_ORIGINS=* every page could"
                    " act as its visitor; list the origins"
                )
        return self

    @model_validator(mode="after")
    def _check_unready_seconds(self) -> Self:
        if self.gateway_unready_seconds > self.drain_seconds:
            raise ValueError("REELHAUL_GATEWAY_UNREADY_SECONDS must be at most REELHAUL_DRAIN_SECONDS")
        return self

    @model_validator(mode="after")
    def _check_certificate(self) -> Self:
        check_pair("REELHAUL_GATEWAY_TLS", self.gateway_tls_certificate, self.gateway_tls_key)
        return self


def _parse_origin(text: str) -> str:
    """Return the origin in *text* as browsers send it. Raises ValueError."""
    origin = text.lower()
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        raise ValueError(
            f"{text[:100]} is not an origin: write scheme://host or scheme://host:port, without a path or a"
            " slash at the end, for example https://app.example"
        )
    return origin.rpartition(":")[0] if (match[1], match[2]) in _DEFAULT_PORTS else origin
