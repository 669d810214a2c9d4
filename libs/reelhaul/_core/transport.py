"""Transport: what a client needs of the connection to the server; gRPC and REST implement it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from reelhaul._core.methods import Method
from reelhaul.downloads.v1.download_pb2 import File

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class Transport(Protocol):
    """Calls the server once, without retries. Every method raises CallFailed, with ``transient`` set."""

    async def call(self, method: Method[Q, R], request: Q) -> R:
        """Call a method that has one response."""

    def stream(self, method: Method[Q, R], request: Q, silence_seconds: float) -> AsyncGenerator[R, None]:
        """Yield the responses of one stream until it ends; fail after *silence_seconds* without any."""

    def read(self, file: File, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of *file* from *offset* on, in pieces."""

    async def close(self) -> None:
        """Close all connections."""
