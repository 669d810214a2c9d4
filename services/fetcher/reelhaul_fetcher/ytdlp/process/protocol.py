"""Messages between the fetcher and a child process: length-delimited protobuf.

The messages and their meaning are in reelhaul/work/v1/engine.proto.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import traceback
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from reelhaul.type.v1.media_pb2 import MediaInfo, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul.work.v1 import engine_pb2
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import (
    EngineRequest,
    ExpandRequest,
    ExtractorListRequest,
    FetchRequest,
    FetchResult,
    ProbeRequest,
    Product,
)
from reelhaul_runtime.errors import from_status

#: Longer frames are refused: a site may control the child.
MAX_FRAME_BYTES = 16 * 1024 * 1024
HEADER = struct.Struct("!I")
_MAX_STACK = 20_000

_M = TypeVar("_M", bound=Message)

_OPERATIONS: dict[type[EngineRequest], str] = {
    FetchRequest: "fetch",
    ProbeRequest: "probe",
    ExpandRequest: "expand",
    ExtractorListRequest: "list_extractors",
}
_REQUESTS = {name: request for request, name in _OPERATIONS.items()}
# Fields that all requests have; the others are fields of the operation.
_COMMON_FIELDS = ("url", "proxy_url", "cpu_seconds", "memory_bytes")


def encode_frame(message: Message) -> bytes:
    """Return *message* with its length in front. Raises ValueError if it is too long."""
    body = message.SerializeToString()
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(body)} bytes")
    return HEADER.pack(len(body)) + body


def read_message(stream: socket.socket, kind: type[_M]) -> _M:
    """Block until a message of type *kind* is there, and return it.

    Raises EOFError at the end, ValueError if the message is too long.
    """
    length = HEADER.unpack(_read_exactly(stream, HEADER.size))[0]
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    return kind.FromString(_read_exactly(stream, length))


def request_to_proto(request: EngineRequest, options: EngineOptions) -> engine_pb2.EngineRequest:
    """Return *request* as a message, with what of *options* holds for it."""
    values: dict[str, Any] = {name: getattr(request, name) for name in _COMMON_FIELDS}
    # Cookies are among the options of the request.
    own = [field.name for field in fields(request) if field.name not in (*_COMMON_FIELDS, "cookies")]
    operation = {name: getattr(request, name) for name in own}
    if isinstance(request, FetchRequest):
        operation["folder"] = str(request.folder)
    options = options.for_request(request.url, request.cookies)
    names = engine_pb2.EngineOptions.DESCRIPTOR.fields_by_name
    values["options"] = {name: getattr(options, name) for name in names}
    values[_OPERATIONS[type(request)]] = operation
    return engine_pb2.EngineRequest(**values)


def request_from_proto(message: engine_pb2.EngineRequest) -> tuple[EngineRequest, EngineOptions]:
    """Return the request in *message*, and its options. The inverse of ``request_to_proto``."""
    name = message.WhichOneof("operation")
    assert name is not None
    operation = getattr(message, name)
    values = {field: getattr(message, field) for field in _COMMON_FIELDS}
    values |= {field: getattr(operation, field) for field in operation.DESCRIPTOR.fields_by_name}
    if "folder" in values:
        values["folder"] = Path(values["folder"])
    options = {field: getattr(message.options, field) for field in message.options.DESCRIPTOR.fields_by_name}
    options["player_clients"] = tuple(options["player_clients"])
    return _REQUESTS[name](**values), EngineOptions(**options)


def product_to_proto(product: Product) -> engine_pb2.EngineFile:
    """Return *product* as a message."""
    return engine_pb2.EngineFile(path=str(product.path), info=product.info)


def product_from_proto(message: engine_pb2.EngineFile) -> Product:
    """Return the product in *message*."""
    return Product(Path(message.path), message.info)


def fetch_result_to_proto(result: FetchResult) -> engine_pb2.EngineResult:
    """Return *result* as a message."""
    return engine_pb2.EngineResult(
        media=result.media,
        products=map(product_to_proto, result.products),
        delivered=result.delivered,
        warnings=result.warnings,
    )


def fetch_result_from_proto(message: engine_pb2.EngineResult) -> FetchResult:
    """Return the result in *message*."""
    products = tuple(map(product_from_proto, message.products))
    return FetchResult(message.media, products, message.delivered, tuple(message.warnings))


class FetcherChannel:
    """The child's end of its socket to the fetcher. Thread-safe.

    The process ends if the fetcher is gone.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._stop_reason: MediaWarning.Reason.ValueType = MediaWarning.REASON_UNSPECIFIED

    def on_progress(self, progress: Progress) -> None:
        """Send the newest progress."""
        self.send(engine_pb2.EngineEvent(progress=progress))

    def on_media(self, media: MediaInfo) -> None:
        """Send metadata, once it is read."""
        self.send(engine_pb2.EngineEvent(media=media))

    def on_media_file(self, product: Product) -> None:
        """Tell that the media file is complete; it is still to be verified."""
        self.send(engine_pb2.EngineEvent(media_file=product_to_proto(product)))

    def on_recording(self) -> None:
        """Tell that a recording begins, which ``stop_reason`` may end."""
        self.send(engine_pb2.EngineEvent(recording=True))

    def on_resumed(self, count: int) -> None:
        """Tell that this attempt continues from *count* more bytes of an earlier one."""
        self.send(engine_pb2.EngineEvent(resumed_bytes=count))

    def on_entries(self, entries: Sequence[PlaylistEntry]) -> None:
        """Send the next entries of a playlist."""
        self.send(engine_pb2.EngineEvent(entries=engine_pb2.EngineEntries(entries=entries)))

    def log(self, level: int, text: str, error: BaseException | None = None) -> None:
        """Send a line for the log, of DEBUG or INFO, with the stack of *error*."""
        line = engine_pb2.EngineLogLine(level=level, message=_printable(text))
        if error is not None:
            line.exception_type = type(error).__name__
            line.stack = _printable("".join(traceback.format_exception(error)))[-_MAX_STACK:]
        self.send(engine_pb2.EngineEvent(log_line=line))

    def stop_reason(self) -> MediaWarning.Reason.ValueType:
        """Return why the recording is to end now; REASON_UNSPECIFIED if it is to continue."""
        with self._lock:
            if not self._stop_reason and select.select([self._stream], [], [], 0)[0]:
                self._read_command()
        return self._stop_reason

    def translate(self, texts: list[str], source: str, target: str) -> list[str]:
        """Return *texts* of the language *source* in *target*. Raises TRANSLATION_UNAVAILABLE."""
        request = engine_pb2.EngineTranslationRequest(texts=texts, source=source, target=target)
        self.send(engine_pb2.EngineEvent(translation_request=request))
        while (command := self._read_command()).WhichOneof("command") != "translation":
            pass
        if command.translation.HasField("failure"):
            raise from_status(command.translation.failure)
        return list(command.translation.texts)

    def send(self, event: engine_pb2.EngineEvent) -> None:
        """Send *event*."""
        with self._lock:
            try:
                self._stream.sendall(encode_frame(event))
            except OSError:
                os._exit(1)

    def _read_command(self) -> engine_pb2.EngineCommand:
        command = read_message(self._stream, engine_pb2.EngineCommand)
        if command.WhichOneof("command") == "stop_recording":
            self._stop_reason = command.stop_recording
        return command


def _printable(text: str) -> str:
    """Return *text* with what is no UTF-8, which protobuf refuses, replaced."""
    return text.encode(errors="replace").decode()


def _read_exactly(stream: socket.socket, length: int) -> bytes:
    body = bytearray()
    while len(body) < length:
        piece = stream.recv(length - len(body))
        if not piece:
            raise EOFError
        body += piece
    return bytes(body)
