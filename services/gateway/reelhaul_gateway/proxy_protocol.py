"""PROXY protocol, versions 1 and 2: the client's address, which a TCP proxy sends before anything else.

https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt
"""

from __future__ import annotations

import ipaddress
import struct

#: Bytes within which a header ends; version 2 may carry extensions after the addresses.
MAX_HEADER_BYTES = 1024

_MAX_V1_BYTES = 107
_V1, _V2 = b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = struct.Struct("!12sBBH")
_VERSION_2, _LOCAL, _PROXY = 0x20, 0, 1
# Version 2: family and transport, and the lengths of one address and of the block.
_TCP = {0x11: (4, 12), 0x21: (16, 36)}


class ProxyHeaderError(ValueError):
    """A header of the PROXY protocol is malformed, incomplete or too long."""


def parse_header(start: bytes) -> tuple[int, str]:
    """Return the length of the header at the *start* of a connection, and the client's address in it.

    The address is empty if the proxy speaks for itself, or about no TCP connection. Without a header both are
    empty. The protocol requires that a header is sent at once, so it must be in *start* completely. Raises
    ProxyHeaderError.
    """
    if start.startswith(_V1):
        return _parse_v1(start)
    if start.startswith(_V2):
        return _parse_v2(start)
    if start and (_V1.startswith(start) or _V2.startswith(start)):
        raise ProxyHeaderError("the header is incomplete")
    return 0, ""


def _parse_v1(start: bytes) -> tuple[int, str]:
    end = start.find(b"\r\n", 0, _MAX_V1_BYTES)
    if end < 0:
        raise ProxyHeaderError("the line does not end")
    words = start[:end].split(b" ")
    if words[1] == b"UNKNOWN":
        return end + 2, ""
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise ProxyHeaderError("it is not PROXY, TCP4 or TCP6, two addresses and two ports")
    try:
        source, target = (ipaddress.ip_address(word.decode("ascii")) for word in words[2:4])
    except ValueError:
        raise ProxyHeaderError("an address is malformed") from None
    if not source.version == target.version == int(words[1][3:]):
        raise ProxyHeaderError("the addresses are not of the family that it names")
    if not all(1 <= len(port) <= 5 and port.isdigit() and int(port) < 1 << 16 for port in words[4:]):
        raise ProxyHeaderError("a port is malformed")
    return end + 2, str(source)


def _parse_v2(start: bytes) -> tuple[int, str]:
    if len(start) < _V2_FIXED.size:
        raise ProxyHeaderError("the header is incomplete")
    _, version_and_command, family, length = _V2_FIXED.unpack_from(start)
    size = _V2_FIXED.size + length
    command = version_and_command - _VERSION_2
    if command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError("the version or the command is unknown")
    if size > min(len(start), MAX_HEADER_BYTES):
        raise ProxyHeaderError("the header is incomplete or too long")
    if command == _LOCAL or family not in _TCP:
        return size, ""
    address_bytes, block_bytes = _TCP[family]
    if length < block_bytes:
        raise ProxyHeaderError("the addresses are incomplete")
    return size, str(ipaddress.ip_address(start[_V2_FIXED.size : _V2_FIXED.size + address_bytes]))
