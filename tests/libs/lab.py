"""The test API lab.v1: a service with fields of every type, and in-process upstreams for it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import google.rpc
import grpc_tools
from google.api import annotations_pb2, httpbody_pb2  # noqa: F401 - registers the imports of lab.proto
from google.protobuf import (  # noqa: F401 - registers the imports of lab.proto
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from grpc_tools import protoc

from reelhaul_transcoding.upstream import Call, UnaryResponse, UpstreamError

_GOOGLEAPIS_INCLUDE = str(Path(next(iter(google.rpc.__path__))).parent.parent)
_PROTOBUF_INCLUDE = str(Path(grpc_tools.__file__).parent / "_proto")


@cache
def _compile() -> descriptor_pb2.FileDescriptorSet:
    """Compile lab.proto and return its file and those that it imports, itself last."""
    folder = Path(__file__).parent
    with tempfile.TemporaryDirectory() as out_folder:
        out = os.path.join(out_folder, "lab.binpb")
        exit_code = protoc.main(
            [
                "protoc",
                f"-I{folder}",
                f"-I{_GOOGLEAPIS_INCLUDE}",
                f"-I{_PROTOBUF_INCLUDE}",
                "--include_imports",
                f"--descriptor_set_out={out}",
                "lab.proto",
            ]
        )
        assert exit_code == 0, "lab.proto does not compile"
        return descriptor_pb2.FileDescriptorSet.FromString(Path(out).read_bytes())


@cache
def _descriptor_pool() -> descriptor_pool.DescriptorPool:
    """Return the default pool with lab.proto."""
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(_compile().file[-1].SerializeToString())
    return pool


def descriptor_set(*, with_imports: bool = True, without_rules: bool = False) -> bytes:
    """Return lab.proto as a serialized FileDescriptorSet."""
    files = descriptor_pb2.FileDescriptorSet()
    files.CopyFrom(_compile())
    if not with_imports:
        del files.file[:-1]
    if without_rules:
        for method in files.file[-1].service[0].method:
            method.ClearField("options")
    return files.SerializeToString()


def message_class(name: str) -> Any:
    """Return the class of the message *name*, e.g. ``lab.v1.All``."""
    return GetMessageClass(_descriptor_pool().FindMessageTypeByName(name))


def service() -> ServiceDescriptor:
    """Return the descriptor of the service lab.v1.Lab."""
    return _descriptor_pool().FindServiceByName("lab.v1.Lab")


class EchoUpstream:
    """Answers with the request, and records the calls and the messages of client streams."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.messages: list[bytes] = []

    async def unary(self, call: Call) -> UnaryResponse:
        self.calls.append(call)
        if call.messages is not None:
            async for message in call.messages:
                self.messages.append(message)
        return UnaryResponse(call.message)

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        yield (await self.unary(call)).message


class CannedUpstream:
    """Answers with *messages*, and then with *error* if there is one."""

    def __init__(self, messages: Sequence[bytes], error: status_pb2.Status | None = None) -> None:
        self._messages, self._error = messages, error

    async def unary(self, call: Call) -> UnaryResponse:
        if self._error is not None:
            raise UpstreamError(self._error)
        return UnaryResponse(self._messages[0])

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        for message in self._messages:
            yield message
        if self._error is not None:
            raise UpstreamError(self._error)
