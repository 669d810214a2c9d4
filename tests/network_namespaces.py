"""Network namespaces: two hosts with a link between them, for tests without privileges.

``python -m tests.network_namespaces`` runs in new namespaces (``unshare -Urn``): it links its own network
with that of a child, prints the child's pid, and keeps both until its input ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: The addresses of the two hosts.
SERVER_ADDRESS, CLIENT_ADDRESS = "10.77.0.1", "10.77.0.2"

_ROOT = Path(__file__).parents[1]
_MODULE = (sys.executable, "-m", "tests.network_namespaces")
_SERVER_LINK, _CLIENT_LINK = "server0", "client0"

# linux/sockios.h, linux/if.h, linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/veth.h
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_IFF_UP = 1
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
_NLMSG_ERROR, _RTM_NEWLINK = 2, 16
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_PID = 3, 18, 19
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFINFOMSG = struct.pack("BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Network:
    """Two hosts: the prefixes of commands that run on them."""

    server: tuple[str, ...]
    client: tuple[str, ...]


class NetworkUnavailable(Exception):
    """This platform does not let an ordinary user create namespaces and links between them."""


@contextmanager
def running_network() -> Iterator[Network]:
    """Create two hosts that are linked, and nothing else, until the end of the block.

    Raises NetworkUnavailable.
    """
    command = ["unshare", "-Urn", *_MODULE]
    try:
        process = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise NetworkUnavailable(str(error)) from error
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        client = process.stdout.readline()
        if not client:
            raise NetworkUnavailable(process.stderr.read().decode().strip().rpartition("\n")[2])
        yield Network(_enter(process.pid), _enter(int(client)))


def _enter(pid: int) -> tuple[str, ...]:
    return ("nsenter", f"--target={pid}", "--user", "--net", "--preserve-credentials", "--")


def _main(arguments: Sequence[str]) -> None:
    if arguments:
        sys.stdin.readline()
        configure_link("lo", "127.0.0.1", "255.0.0.0")
        configure_link(_CLIENT_LINK, CLIENT_ADDRESS, "255.255.255.0")
        print(os.getpid(), flush=True)
        sys.stdin.read()
        return
    configure_link("lo", "127.0.0.1", "255.0.0.0")
    with subprocess.Popen(
        ["unshare", "-n", *_MODULE, "client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        _wait_for_namespace(client.pid)
        _create_link(client.pid)
        configure_link(_SERVER_LINK, SERVER_ADDRESS, "255.255.255.0")
        client.stdin.write(b"linked\n")
        client.stdin.flush()
        print(int(client.stdout.readline()), flush=True)
        sys.stdin.read()


def _wait_for_namespace(pid: int) -> None:
    """Wait until the process *pid* has a network namespace of its own."""
    own = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{pid}/ns/net") == own:
        os.sched_yield()


def configure_link(link: str, address: str, mask: str) -> None:
    """Give *link* of this network namespace an address, and set it up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, mask)):
            sockaddr = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, struct.pack("16s16s", link.encode(), sockaddr))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", link.encode(), _IFF_UP))


def _create_link(pid: int) -> None:
    """Create a pair of links, one of them in the network namespace of the process *pid*. See veth(4)."""
    peer = _IFINFOMSG + _attribute(_IFLA_IFNAME, _CLIENT_LINK.encode() + b"\0")
    peer += _attribute(_IFLA_NET_NS_PID, struct.pack("=I", pid))
    info = _attribute(_IFLA_INFO_KIND, b"veth")
    info += _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, peer))
    body = _IFINFOMSG + _attribute(_IFLA_IFNAME, _SERVER_LINK.encode() + b"\0")
    body += _attribute(_IFLA_LINKINFO, info)
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), _RTM_NEWLINK, flags, 1, 0) + body)
        _, kind, _, _, _, error = struct.unpack_from("=IHHIIi", netlink.recv(4096))
    if kind != _NLMSG_ERROR or error:
        raise OSError(-error, f"no link: {os.strerror(-error)}")


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + bytes(-size % 4)


if __name__ == "__main__":
    _main(sys.argv[1:])
