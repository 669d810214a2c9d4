"""What fetcher, parent and child say to each other: JSON frames, protobuf inside as base64."""

from __future__ import annotations

import base64
import json
import socket
import struct
from pathlib import Path
from typing import Any

from reelhaul.type.v1 import media_pb2
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

#: A frame longer than this is not ours: the child is fed by strangers.
MAX_FRAME = 16 * 1024 * 1024
HEADER = struct.Struct("!I")

Frame = dict[str, Any]

# Orders whose fields go as they are.
_KINDS: dict[type[EngineRequest], str] = {
    ProbeRequest: "probe",
    ExpandRequest: "expand",
    ExtractorListRequest: "sites",
}


def framed(frame: Frame) -> bytes:
    """*frame* with its length in front."""
    body = json.dumps(frame).encode()
    if len(body) > MAX_FRAME:
        raise ValueError(f"a frame of {len(body)} bytes")
    return HEADER.pack(len(body)) + body


def read(stream: socket.socket) -> Frame:
    """The next frame, blocking. EOFError at the end."""
    length = HEADER.unpack(_exactly(stream, HEADER.size))[0]
    if length > MAX_FRAME:
        raise ValueError(f"a frame of {length} bytes")
    frame: Frame = json.loads(_exactly(stream, length))
    return frame


def packed(message: Any) -> str:
    """A protobuf message as text."""
    return base64.b64encode(message.SerializeToString()).decode()


def unpacked(kind: Any, text: str) -> Any:
    """The message of *kind* that ``packed`` made *text* of."""
    return kind.FromString(base64.b64decode(text))


def order_frame(order: EngineRequest, access: EngineOptions) -> Frame:
    """*order*, and how sites are got at, as a frame."""
    told = {name: getattr(order, name) for name in order.__slots__}
    told |= {"access": {name: getattr(access, name) for name in EngineOptions.__slots__}}
    if isinstance(order, FetchRequest):
        return told | {"kind": "fetch", "format": packed(order.format), "folder": str(order.folder)}
    return told | {"kind": _KINDS[type(order)]}


def access_of(frame: Frame) -> EngineOptions:
    """How sites are got at, as *frame* tells."""
    told = frame["access"]
    return EngineOptions(**told | {"player_clients": tuple(told["player_clients"])})


def order_of(frame: Frame) -> EngineRequest:
    """The order that *frame* tells."""
    told = {key: value for key, value in frame.items() if key not in ("kind", "access")}
    for kind, name in _KINDS.items():
        if frame["kind"] == name:
            return kind(**told)
    told["format"] = unpacked(media_pb2.FormatSpec, told["format"])
    told["folder"] = Path(told["folder"])
    return FetchRequest(**told)


def report_frame(report: FetchResult) -> Frame:
    """*report* as a frame."""
    return {
        "type": "done",
        "media": packed(report.media),
        "got": packed(report.delivered),
        "products": [product_frame(product) for product in report.products],
        "warnings": [packed(warning) for warning in report.warnings],
    }


def report_of(frame: Frame) -> FetchResult:
    """The report that *frame* tells."""
    return FetchResult(
        media=unpacked(media_pb2.MediaInfo, frame["media"]),
        products=tuple(map(product_of, frame["products"])),
        delivered=unpacked(media_pb2.DeliveredMedia, frame["got"]),
        warnings=tuple(unpacked(media_pb2.Warning, text) for text in frame["warnings"]),
    )


def product_frame(product: Product) -> Frame:
    """*product* as a frame, or a part of one."""
    return {"path": str(product.path), "info": packed(product.info)}


def product_of(frame: Frame) -> Product:
    """The product that *frame* tells."""
    return Product(Path(frame["path"]), unpacked(media_pb2.ArtifactInfo, frame["info"]))


def _exactly(stream: socket.socket, length: int) -> bytes:
    body = bytearray()
    while len(body) < length:
        piece = stream.recv(length - len(body))
        if not piece:
            raise EOFError
        body += piece
    return bytes(body)
