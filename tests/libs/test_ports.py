"""Ports that the supervisor reserves, and addresses at which no server can listen."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reelhaul_runtime import listeners
from reelhaul_runtime.listeners import AddressUnavailable
from reelhaul_runtime.up.ports import ReservedPorts


def listen(address: str, *options: int) -> socket.socket:
    """Return a socket that listens at *address*, with *options* of the level SOL_SOCKET."""
    host, _, port = address.rpartition(":")
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        for option in options:
            server.setsockopt(socket.SOL_SOCKET, option, 1)
        server.bind((host.strip("[]"), int(port)))
        server.listen()
    except BaseException:
        server.close()
        raise
    return server


OTHER_PROGRAMS: dict[str, tuple[int, ...]] = {
    "plain": (),
    "as servers do": (socket.SO_REUSEADDR,),
}


@pytest.mark.parametrize("options", OTHER_PROGRAMS.values(), ids=OTHER_PROGRAMS)
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "localhost"])
def test_no_program_takes_a_reserved_port(host: str, options: tuple[int, ...]):
    """Before a service listens, and while it restarts, no program takes its port; the service gets it."""
    with ReservedPorts() as ports:
        address = ports.reserve(f"{host}:0").replace("localhost", "127.0.0.1")
        for _ in range(2):
            with pytest.raises(OSError, match="Address already in use"):
                listen(address, *options)
            with (
                listen(address, socket.SO_REUSEADDR, socket.SO_REUSEPORT) as service,
                socket.create_connection(service.getsockname()),
                service.accept()[0],
            ):
                pass
    listen(address, socket.SO_REUSEADDR).close()


def test_other_users_do_not_share_a_reserved_port():
    """A program of another user does not get the port, even with SO_REUSEPORT."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    code = (
        "import socket, sys; other = socket.socket()\n"
        "other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        "other.bind(('127.0.0.1', int(sys.argv[1])))\n"
    )
    with ReservedPorts() as ports:
        port = ports.reserve("127.0.0.1:0").rpartition(":")[2]
        command = ["/usr/bin/env", "python3", "-c", code, port]
        assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0
        other = subprocess.run(command, check=False, user=65534, capture_output=True, text=True)
    assert "Address already in use" in other.stderr


def test_two_suites_of_a_user_get_different_ports():
    """A second suite cannot reserve a port of the first, although both would share it with their services."""
    with ReservedPorts() as first, ReservedPorts() as second:
        address = first.reserve("127.0.0.1:0")
        with pytest.raises(AddressUnavailable, match="used by another process"):
            second.reserve(address)
        second.reserve("127.0.0.1:0")
    with ReservedPorts() as third:
        assert third.reserve(address) == address


def test_connections_of_the_last_run_do_not_hold_an_address():
    """An address is reserved again at once, although connections of the last server are in TIME_WAIT."""
    with ReservedPorts() as ports:
        address = ports.reserve("127.0.0.1:0")
        with listen(address, socket.SO_REUSEADDR, socket.SO_REUSEPORT) as server:
            client = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
    accepted.close()  # the end that closes first is the one in TIME_WAIT
    assert client.recv(1) == b""
    client.close()
    with ReservedPorts() as ports:
        assert ports.reserve(address) == address
        with pytest.raises(AddressUnavailable, match="used by another process"):
            listeners.check(address)


def test_port_of_the_broker_is_not_ephemeral():
    """Port 0 becomes a free port that the kernel assigns to no outgoing connection."""
    with ReservedPorts() as ports:
        host, _, port = ports.reserve("127.0.0.1:0", share_with_any=True).rpartition(":")
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        assert host == "127.0.0.1"
        assert 1024 < int(port) < low
        with pytest.raises(OSError, match="Address already in use"):
            listen(f"127.0.0.1:{port}")
        listen(f"127.0.0.1:{port}", socket.SO_REUSEADDR).close()


def _reserve(address: str) -> None:
    with ReservedPorts() as ports:
        ports.reserve(address)


@pytest.mark.parametrize("use", [_reserve, listeners.check])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [("localhost", "localhost:0"), ("192.0.2.1:0", "127.0.0.1:0"), ("no-such-host.invalid:0", ":0")],
)
def test_address_of_no_server(use: Callable[[str], None], wrong: str, right: str):
    """An address that is not this machine's is refused with the form that it must have."""
    with pytest.raises(AddressUnavailable, match="host:port"):
        use(wrong)
    use(right)
