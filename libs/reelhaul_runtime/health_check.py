"""``reelhaul health``: whether a service of this machine or container is ready, for container engines.

Engines run it every few seconds. It therefore imports neither gRPC nor the settings classes, which take a
quarter of a second of CPU: it speaks the one request of HTTP/2 that the check needs (RFC 9113, RFC 7541).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

#: The proto service whose health is that of a service; the gateway answers over HTTP.
_PROTO_SERVICES = {
    "jobs": "reelhaul.jobs.v1.JobService",
    "fetcher": "reelhaul.fetcher.v1.FetcherService",
    "storage": "reelhaul.storage.v1.StorageService",
}
_DEFAULT_ADDRESSES = {
    "gateway": "127.0.0.1:8080",
    "jobs": "127.0.0.1:50051",
    "fetcher": "127.0.0.1:50052",
    "storage": "127.0.0.1:50053",
}
NAMES = tuple(_DEFAULT_ADDRESSES)
#: Addresses that a server listens at and nobody connects to.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - replaced by loopback

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
#: A health response takes four or five frames; their default maximum size is 16 KiB.
_MAX_FRAMES, _MAX_FRAME_BYTES = 32, 16_384
_HEAD_BYTES = 9
_SERVING = b"\x08\x01"


class NotReady(Exception):
    """The service is not ready; the text says why."""


def check(service: str, seconds: float) -> None:
    """Return if *service* of this machine answers in *seconds* that it is ready.

    Its address and the files of TLS are those of its settings. Raises NotReady.
    """
    address = _setting(f"REELHAUL_{service.upper()}_ADDRESS") or _DEFAULT_ADDRESSES[service]
    try:
        with _connecting(service, address, seconds) as connection:
            if service == "gateway":
                _check_http(connection)
            else:
                _check_grpc(connection, _PROTO_SERVICES[service])
    except OSError as error:
        raise NotReady(f"no answer at {address}: {error.strerror or error or 'timeout'}") from error


def _setting(name: str) -> str:
    if (value := os.environ.get(name)) is not None:
        return value
    from dotenv import dotenv_values

    return dotenv_values(".env").get(name) or ""


@contextmanager
def _connecting(service: str, address: str, seconds: float) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not port.isdecimal():
        raise NotReady(f"REELHAUL_{service.upper()}_ADDRESS must be host:port")
    with socket.create_connection((_ANY.get(host, host), int(port)), timeout=seconds) as connection:
        prefix = "REELHAUL_GATEWAY_TLS" if service == "gateway" else "REELHAUL_TLS"
        if not (certificate := _setting(f"{prefix}_CERTIFICATE")):
            yield connection
            return
        import ssl

        # The certificate's name is that of clients, not of this address.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if service != "gateway":
            context.set_alpn_protocols(["h2"])
            context.load_cert_chain(certificate, _setting(f"{prefix}_KEY"))
        with context.wrap_socket(connection, server_hostname=host) as secured:
            yield secured


def _check_http(connection: socket.socket) -> None:
    connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    with connection.makefile("rb") as response:
        words = response.readline(_MAX_FRAME_BYTES).split()
    if len(words) < 2 or words[1] != b"200":
        raise NotReady("not ready" if words[1:2] == [b"503"] else "no HTTP response")


def _check_grpc(connection: socket.socket, proto_service: str) -> None:
    call = HealthCall(proto_service)
    connection.sendall(call.request)
    while call.is_serving is None:
        if reply := call.receive(connection.recv(_MAX_FRAME_BYTES)):
            connection.sendall(reply)
    if not call.is_serving:
        raise NotReady("not serving")


class HealthCall:
    """A call of grpc.health.v1.Health/Check for *proto_service* on a new connection of HTTP/2, without I/O.

    Send ``request``, then pass what arrives to ``receive`` until ``is_serving`` is known.
    """

    def __init__(self, proto_service: str) -> None:
        name = proto_service.encode()
        message = b"\x0a" + bytes([len(name)]) + name
        #: What to send first.
        self.request = (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, _request_headers())
            + _frame(_DATA, _END_STREAM, 1, b"\x00" + len(message).to_bytes(4, "big") + message)
        )
        #: Whether the service is SERVING; None until the server has answered.
        self.is_serving: bool | None = None
        self._received, self._body, self._frames = b"", b"", 0

    def receive(self, data: bytes) -> bytes:
        """Take the next bytes of the server; return what to send. Raises NotReady if there is no answer."""
        self._received += data
        reply = b""
        while self.is_serving is None and len(self._received) >= _HEAD_BYTES:
            size, kind, flags = int.from_bytes(self._received[:3], "big"), *self._received[3:5]
            if size > _MAX_FRAME_BYTES or self._frames == _MAX_FRAMES or kind in (_RST_STREAM, _GOAWAY):
                raise NotReady("the connection was closed")
            if len(self._received) < _HEAD_BYTES + size:
                break
            payload = self._received[_HEAD_BYTES : _HEAD_BYTES + size]
            self._received, self._frames = self._received[_HEAD_BYTES + size :], self._frames + 1
            if kind == _SETTINGS and not flags & _ACK:
                reply += _frame(_SETTINGS, _ACK, 0, b"")
            elif kind == _DATA:
                self._body += payload
            if kind in (_DATA, _HEADERS) and (self._body or flags & _END_STREAM):
                self.is_serving = self._body[5:] == _SERVING
        if not data and self.is_serving is None:
            raise NotReady("the connection was closed")
        return reply


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _request_headers() -> bytes:
    """Return the headers of a call of Check in HPACK: two indexed, the others as literals without Huffman."""

    def text(value: bytes) -> bytes:
        return bytes([len(value)]) + value

    return (
        b"\x83\x86"  # :method POST, :scheme http
        + b"\x04" + text(b"/grpc.health.v1.Health/Check")
        + b"\x01" + text(b"localhost")
        + b"\x0f\x10" + text(b"application/grpc")
        + b"\x00" + text(b"te") + text(b"trailers")
    )  # fmt: skip
