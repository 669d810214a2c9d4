"""The lab: a service with fields of every kind, and upstreams in this process that answer it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import google.rpc
import grpc_tools
from google.api import annotations_pb2, httpbody_pb2  # noqa: F401 - registers what lab.proto imports
from google.protobuf import (  # noqa: F401 - the same
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

from reelhaul_transcoding.upstream import Answer, Call, UpstreamError

_INCLUDE = str(Path(next(iter(google.rpc.__path__))).parent.parent)

_WELL_KNOWN = str(Path(grpc_tools.__file__).parent / "_proto")


@cache
def _loaded() -> descriptor_pool.DescriptorPool:
    """The default pool, lab.proto in it."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "lab.binpb")
        wrong = protoc.main(
            [
                "protoc",
                f"-I{here}",
                f"-I{_INCLUDE}",
                f"-I{_WELL_KNOWN}",
                f"--descriptor_set_out={out}",
                "lab.proto",
            ]
        )
        assert wrong == 0, "lab.proto does not compile"
        files = descriptor_pb2.FileDescriptorSet.FromString(Path(out).read_bytes())
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(files.file[0].SerializeToString())
    return pool


def message(name: str) -> Any:
    """The class of the message called *name*, ``lab.v1.All``."""
    return GetMessageClass(_loaded().FindMessageTypeByName(name))


def service() -> ServiceDescriptor:
    """The service Lab."""
    return _loaded().FindServiceByName("lab.v1.Lab")


class Mirror:
    """Answers with the request; remembers each call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def unary(self, call: Call) -> Answer:
        """The request, as the answer."""
        self.calls.append(call)
        return Answer(call.messages[0])

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        """The request, once."""
        yield (await self.unary(call)).message


class Recorded:
    """Answers with messages made beforehand, and then with *error* if there is one."""

    def __init__(self, messages: Sequence[bytes], error: status_pb2.Status | None = None) -> None:
        self._messages, self._error = messages, error

    async def unary(self, call: Call) -> Answer:
        """The first message, or the error."""
        if self._error is not None:
            raise UpstreamError(self._error)
        return Answer(self._messages[0])

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        """All messages, then the error."""
        for each in self._messages:
            yield each
        if self._error is not None:
            raise UpstreamError(self._error)
