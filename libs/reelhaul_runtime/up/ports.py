"""Ports: chosen for the processes of a suite, and reserved until the suite ends."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

from reelhaul_runtime import listeners
from reelhaul_runtime.listeners import AddressUnavailable

# Below the kernel's range for outgoing connections (from 32768): a client that dials an ephemeral port while
# its server restarts could be given that very port as its own.
_PORTS = range(10_000, 32_000)
_ATTEMPTS = 100


class ReservedPorts:
    """Ports that this process holds until the end of the block, by sockets that are bound and do not listen.

    A process of ours listens at a reserved port with SO_REUSEPORT, also after it was restarted; the kernel
    gives the port to no other user, and to no program without SO_REUSEPORT.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._sockets:
            each.close()

    @property
    def descriptors(self) -> list[int]:
        """The file descriptors of the sockets."""
        return [each.fileno() for each in self._sockets]

    def reserve(self, address: str, *, share_with_any: bool = False) -> str:
        """Reserve *address* (host:port), with port 0 replaced by a free one; return it.

        *share_with_any* is for a server that cannot set SO_REUSEPORT, such as nats-server: until it listens,
        any program that sets SO_REUSEADDR can listen at the port instead. Raises AddressUnavailable.
        """
        option = socket.SO_REUSEADDR if share_with_any else socket.SO_REUSEPORT
        host, _, port = address.rpartition(":")
        if port != "0":
            self._hold(host, port, option, fixed=True)
            return address
        listeners.check(address)
        for candidate in random.sample(_PORTS, _ATTEMPTS):
            with suppress(AddressUnavailable):
                self._hold(host, str(candidate), option, fixed=False)
                return f"{host}:{candidate}"
        raise AddressUnavailable(f"no port below {_PORTS.stop} is free on {host or 'this machine'}")

    def _hold(self, host: str, port: str, option: int, *, fixed: bool) -> None:
        held: list[socket.socket] = []
        try:
            for family, sockaddr in listeners.resolve(host, int(port)):
                held.append(_bind(family, sockaddr, fixed=fixed))
        except (OSError, ValueError) as error:
            for each in held:
                each.close()
            raise AddressUnavailable(listeners.describe(f"{host}:{port}", error)) from error
        for each in held:
            # Set after bind, which would share the port with another suite of this user otherwise.
            each.setsockopt(socket.SOL_SOCKET, option, 1)
        self._sockets += held


def find_free_port() -> int:
    """Return a loopback port that is free at this moment, and that no outgoing connection gets later."""
    with ReservedPorts() as ports:
        return int(ports.reserve("127.0.0.1:0").rpartition(":")[2])


def _bind(family: int, sockaddr: listeners.SocketAddress, *, fixed: bool) -> socket.socket:
    """Return a socket bound to *sockaddr*; a *fixed* port may have connections of an ended server."""
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            holder.bind(sockaddr)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not fixed:
                raise
            listeners.check_socket_address(family, sockaddr)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(sockaddr)
            # The option would also allow other servers to listen here.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        holder.close()
        raise
    return holder
