"""Listeners: resolves addresses (host:port) of this machine, and checks whether a server can listen there."""

from __future__ import annotations

import errno
import logging
import socket
from typing import cast

from reelhaul_runtime.server_addresses import is_loopback

log = logging.getLogger(__name__)

#: Socket address of IPv4 or IPv6, as for ``bind``.
SocketAddress = tuple[str, int] | tuple[str, int, int, int]

#: A client that takes no bytes of its response for so long is disconnected by the kernel.
SEND_TIMEOUT_SECONDS = 60
_BACKLOG = 2048


class AddressUnavailable(Exception):
    """No server can listen at an address; the text says why, without the name of a setting."""

    #: The part of the setting's name behind that of the service.
    setting = "ADDRESS"


def listen(address: str, *, reuse_port: bool) -> socket.socket:
    """Return a socket of an HTTP server that listens at *address* (host:port; port 0: any free port).

    With *reuse_port* a process of the same user may hold the port. Raises AddressUnavailable.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse_port))
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted sockets inherit it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_TIMEOUT_SECONDS * 1000)
    try:
        listener.bind((host, int(port)))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise AddressUnavailable(describe(address, error)) from error
    listener.setblocking(False)
    return listener


def warn_of_plain_text(address: str) -> None:
    """Log a warning if *address*, where a server without TLS listens, can be reached from other machines."""
    if not is_loopback(address):
        log.warning(
            "keys and media pass in plain text: other machines can connect, and there is no certificate",
            extra={"address": address},
        )


def explain(address: str) -> str:
    """Return why listening at *address* failed just now."""
    try:
        check(address)
    except AddressUnavailable as error:
        return str(error)
    return f"{address} was used by another process: start again"


def check(address: str) -> None:
    """Check that a server can listen at *address* now. Raises AddressUnavailable."""
    host, _, port = address.rpartition(":")
    try:
        for family, sockaddr in resolve(host, int(port)):
            check_socket_address(family, sockaddr)
    except (OSError, ValueError) as error:
        raise AddressUnavailable(describe(address, error)) from error


def resolve(host: str, port: int) -> list[tuple[int, SocketAddress]]:
    """Return the families and socket addresses of *host* on this machine. Raises OSError if it has none."""
    found = socket.getaddrinfo(
        host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    usable: list[tuple[int, SocketAddress]] = []
    for family, _, _, _, sockaddr in found:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((sockaddr[0], 0, *sockaddr[2:]))
        except OSError:
            continue  # localhost is ::1 too, which not every machine has
        if family in (socket.AF_INET, socket.AF_INET6):
            usable.append((int(family), cast("SocketAddress", sockaddr)))
    if not usable:
        raise OSError(errno.EADDRNOTAVAIL, "it is not an address of this machine")
    return usable


def check_socket_address(family: int, sockaddr: SocketAddress) -> None:
    """Raise OSError if no server can listen at *sockaddr*. Connections of an ended server are ignored."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(sockaddr)
        probe.listen(1)


def describe(address: str, error: OSError | ValueError) -> str:
    """Return a text for the operator about *error*, raised by listening at *address*."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"{address} is used by another process: end that, or set another address"
    reason = error.strerror if isinstance(error, OSError) else None
    return f"no server can listen at {address} (host:port): {reason or error}"
