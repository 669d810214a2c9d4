"""Sends a request to the transcoder and to Envoy, before one upstream, and compares what the two do."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httptools
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from tests import envoy
from tests.libs import asgi
from tests.servers import free_port, kill_group, wait_until_listening

from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.upstream import GrpcUpstream

#: Selects the API at Envoy.
_API_HEADER = "x-api"
_ENVOY_OPTIONS = {
    "print_options": {"stream_newline_delimited": True},
    "query_param_unescape_plus": True,
    "request_validation_options": {
        "reject_unknown_method": True,
        "reject_unknown_query_parameters": True,
        "reject_binding_body_field_collisions": True,
    },
}
# Envoy has neither an option to infer masks nor one to reject unknown JSON fields.
OPTIONS = Options(infer_update_mask=False, ignore_unknown_fields=True)


@dataclass(frozen=True)
class Request:
    """An HTTP request, and how the upstream answers it."""

    api: str
    method: str
    target: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Messages of the response; None: the first message of the request.
    messages: Sequence[bytes] | None = None
    status: status_pb2.Status | None = None


@dataclass(frozen=True)
class Outcome:
    """How a gateway handled a request."""

    status: int
    #: The called RPC and the messages that have arrived at the upstream, serialized deterministically.
    calls: list[tuple[str, list[bytes]]]
    #: The JSON values of a successful response, several if it is a stream, or the Status of the upstream.
    values: list[Any]


class Upstream(grpc.GenericRpcHandler):
    """Serves every RPC: records the call, and answers as the request in progress says.

    Messages are parsed and serialized again, since each gateway has an order of fields of its own.
    """

    def __init__(self, classes: Mapping[str, Any]) -> None:
        self._classes = classes
        self.request: Request | None = None
        self.calls: list[tuple[str, list[bytes]]] = []

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(functools.partial(self._answer, details.method))

    async def _answer(
        self, method: str, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        assert self.request is not None
        messages = [_canonical(self._classes[method], message) async for message in requests]
        self.calls.append((method, messages))
        for message in (messages[:1] or [b""]) if self.request.messages is None else self.request.messages:
            yield message
        if (status := self.request.status) is not None:
            code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
            await context.abort(code, status.message)


class Comparison:
    """The transcoder and Envoy, which serve the same APIs before one upstream."""

    def __init__(self, upstream: Upstream, transcoders: Mapping[str, Transcoder], port: int) -> None:
        self._upstream, self._transcoders, self._port = upstream, transcoders, port

    async def send(self, request: Request) -> tuple[Outcome, Outcome]:
        """Send *request* to the transcoder, and to Envoy; return how each handled it."""
        self._upstream.request = request
        outcomes = []
        for send in (self._send_to_transcoder, self._send_to_envoy):
            self._upstream.calls = []
            response = await send(request)
            outcomes.append(Outcome(response.status, self._upstream.calls, _values(response)))
        return outcomes[0], outcomes[1]

    async def _send_to_transcoder(self, request: Request) -> asgi.Response:
        return await asgi.request(
            self._transcoders[request.api],
            request.method,
            request.target,
            body=request.body,
            headers=request.headers,
        )

    async def _send_to_envoy(self, request: Request) -> asgi.Response:
        headers = {"host": "localhost", _API_HEADER: request.api, **request.headers}
        if request.body or request.method in ("POST", "PUT", "PATCH"):
            headers["content-length"] = str(len(request.body))
        lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + request.body)
            async with asyncio.timeout(10):
                return await _read_response(reader, head=request.method == "HEAD")
        finally:
            writer.close()


def differences(ours: Outcome, envoys: Outcome, *, exact_status: bool = False) -> list[str]:
    """Return which of status (by class unless *exact_status*), request and response differ."""
    result = []
    unit = 1 if exact_status else 100
    if ours.status // unit != envoys.status // unit:
        result.append("status")
    if ours.calls != envoys.calls:
        result.append("request")
    if not result and ours.calls and not _equal(ours.values, envoys.values):
        result.append("response")
    return result


def _equal(ours: Any, envoys: Any) -> bool:
    """Return whether two JSON values are equal; numbers may have different digits for the same float."""
    if isinstance(ours, dict) and isinstance(envoys, dict):
        return ours.keys() == envoys.keys() and all(_equal(ours[key], envoys[key]) for key in ours)
    if isinstance(ours, list) and isinstance(envoys, list):
        return len(ours) == len(envoys) and all(map(_equal, ours, envoys))
    if isinstance(ours, float | int) and isinstance(envoys, float | int) and not isinstance(ours, bool):
        return math.isclose(ours, envoys, rel_tol=1e-6)
    return bool(ours == envoys) and type(ours) is type(envoys)


def _canonical(message_class: Any, content: bytes) -> bytes:
    """Return *content* with its fields in the order of their numbers; as it is if it is no message."""
    try:
        serialized: bytes = message_class.FromString(content).SerializeToString(deterministic=True)
    except DecodeError:
        return content
    return serialized


def _values(response: asgi.Response) -> list[Any]:
    """Return the JSON values of a body: one, or one for each line. Statuses have no details in tests."""
    content_type = response.headers.get("content-type", "")
    if not content_type.startswith(("application/json", "application/x-ndjson")):
        return [response.body]
    values = [json.loads(line) for line in response.body.splitlines()]
    if response.status >= 300:
        return [{key: value for key, value in status.items() if key != "details"} for status in values]
    if content_type.startswith("application/x-ndjson"):
        # Ours are in an envelope that tells messages from an error.
        return [value.get("result", value) for value in values]
    return values


async def _read_response(reader: asyncio.StreamReader, *, head: bool) -> asgi.Response:
    """Read a response; it is not complete if the server closes the connection."""
    response = asgi.Response()

    class Events:
        def on_headers_complete(self) -> None:
            response.complete = head

        def on_header(self, name: bytes, value: bytes) -> None:
            response.headers[name.decode().lower()] = value.decode()

        def on_body(self, body: bytes) -> None:
            response.body += body

        def on_message_complete(self) -> None:
            response.complete = True

    parser = httptools.HttpResponseParser(Events())
    while not response.complete and (content := await reader.read(1 << 16)):
        parser.feed_data(content)
    response.status = parser.get_status_code()
    return response


@contextmanager
def running_comparison(
    folder: Path, apis: Mapping[str, Sequence[ServiceDescriptor]], options: Mapping[str, Options]
) -> Iterator[tuple[asyncio.Runner, Comparison]]:
    """Run the upstream and Envoy with *apis*, each a set of services by a name of its own.

    *options*: options of the transcoder for some of the APIs; Envoy unescapes paths in the same mode.
    """
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield runner, runner.run(stack.enter_async_context(_running(folder, apis, options)))
        finally:
            runner.run(stack.aclose())


@asynccontextmanager
async def _running(
    folder: Path, apis: Mapping[str, Sequence[ServiceDescriptor]], options: Mapping[str, Options]
) -> AsyncIterator[Comparison]:
    methods = [m for services in apis.values() for service in services for m in service.methods]
    upstream = Upstream(
        {f"/{m.containing_service.full_name}/{m.name}": GetMessageClass(m.input_type) for m in methods}
    )
    port = free_port()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([upstream])
    upstream_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    apis_of_envoy = {
        name: envoy.Api(
            services, {**_ENVOY_OPTIONS, "url_unescape_spec": options.get(name, OPTIONS).unescape.name}
        )
        for name, services in apis.items()
    }
    config = envoy.write_config(folder, apis_of_envoy, port=port, upstream_port=upstream_port)
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(envoy.command(config), stderr=log, start_new_session=True)  # noqa: ASYNC220
    try:
        try:
            await wait_until_listening(port, 30)
        except TimeoutError:
            raise RuntimeError((folder / "envoy.log").read_text()[-3000:]) from None
        async with grpc.aio.insecure_channel(f"127.0.0.1:{upstream_port}") as channel:
            transcoders = {
                name: Transcoder(
                    [(service, GrpcUpstream(channel)) for service in services], options.get(name, OPTIONS)
                )
                for name, services in apis.items()
            }
            yield Comparison(upstream, transcoders, port)
    finally:
        kill_group(process)
        await server.stop(None)


def build_service(name: str, routes: Sequence[str], request_type: str = "") -> ServiceDescriptor:
    """Return a service with a method for each of *routes*, e.g. ``GET /v1/{a.b}``.

    Its requests are of *request_type*, which is registered, or have a string field for each variable.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name}.proto", package=name, syntax="proto3", dependency=["google/api/annotations.proto"]
    )
    if request_type:
        file.dependency.append(descriptor_pool.Default().FindMessageTypeByName(request_type).file.name)
    else:
        paths = [path for route in routes for path in _variables(route)]
        _add_message(file.message_type.add(name="Request"), f"{name}.Request", paths)
    service = file.service.add(name="Service")
    for index, route in enumerate(routes):
        input_type = f".{request_type or f'{name}.Request'}"
        method = service.method.add(name=f"M{index}", input_type=input_type, output_type=input_type)
        method.options.Extensions[annotations_pb2.http].CopyFrom(_http_rule(route))
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(f"{name}.Service")


def _http_rule(route: str) -> http_pb2.HttpRule:
    verb, _, template = route.partition(" ")
    if verb.lower() in http_pb2.HttpRule.DESCRIPTOR.fields_by_name:
        return http_pb2.HttpRule(**{verb.lower(): template})
    return http_pb2.HttpRule(custom=http_pb2.CustomHttpPattern(kind=verb, path=template))


def _variables(route: str) -> list[list[str]]:
    """Return the field paths of the variables in *route*."""
    return [part.partition("}")[0].partition("=")[0].split(".") for part in route.split("{")[1:]]


def _add_message(message: Any, name: str, paths: Sequence[Sequence[str]]) -> None:
    """Add a field for the first name of each of *paths*: a string, or a message if the path goes on."""
    for number, first in enumerate(dict.fromkeys(path[0] for path in paths), 1):
        inner = [path[1:] for path in paths if path[0] == first and path[1:]]
        added = message.field.add(name=first, number=number, label=1, type=11 if inner else 9)
        if inner:
            nested = message.nested_type.add(name=first.capitalize())
            added.type_name = f".{name}.{nested.name}"
            _add_message(nested, f"{name}.{nested.name}", inner)
