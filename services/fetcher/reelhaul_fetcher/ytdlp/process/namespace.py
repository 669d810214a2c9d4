"""Network namespace of the engine, where the platform allows one: it contains nothing but the guard's socket.

A short-lived process creates a user and a network namespace, opens the guard's listening socket inside, and
hands all three over. A socket belongs to the network that it was created in, so the guard, outside, accepts
connections from inside, and no byte passes through another process.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reelhaul_fetcher.ytdlp.process import setns
from reelhaul_runtime.child_process import environment_without_settings, module_command

log = logging.getLogger(__name__)

NamespaceMode = Literal["off", "auto", "on"]

# ioctl(2): set the flags of an interface to up and running.
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41
_TIMEOUT_SECONDS = 20.0


class NamespaceUnavailable(OSError):
    """The platform does not allow a network namespace; the text says what it refused."""


@dataclass(frozen=True, slots=True)
class EngineNamespace:
    """Descriptors of a user and a network namespace, and the guard's listening socket inside."""

    user: int
    network: int
    listener: socket.socket


@asynccontextmanager
async def open_namespace(mode: NamespaceMode) -> AsyncIterator[EngineNamespace | None]:
    """Provide a namespace for the block; None if *mode* is ``off``, or if it is ``auto`` and refused.

    Raises NamespaceUnavailable if *mode* is ``on`` and the namespace is refused.
    """
    if mode == "off":
        yield None
        return
    try:
        namespace = await _create()
    except NamespaceUnavailable as error:
        if mode == "on":
            raise
        log.warning("the engine has no network of its own", extra={"cause": str(error)})
        yield None
        return
    log.info("the engine has a network of its own")
    try:
        yield namespace
    finally:
        namespace.listener.close()
        os.close(namespace.user)
        os.close(namespace.network)


async def _create() -> EngineNamespace:
    """Have a process create the namespaces, and take them over."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *module_command("reelhaul_fetcher.ytdlp.process.namespace", str(theirs.fileno())),
                env=environment_without_settings(),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
            )
        ours.settimeout(_TIMEOUT_SECONDS)
        try:
            message, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, ours, 4096, 3)
        except TimeoutError:
            process.kill()
            raise NamespaceUnavailable(f"it was not created within {_TIMEOUT_SECONDS:.0f} s") from None
        finally:
            await process.wait()
    if len(descriptors) != 3:
        raise NamespaceUnavailable(json.loads(message or '"the process that creates it died"'))
    user, network, listener = descriptors
    return EngineNamespace(user, network, socket.socket(fileno=listener))


def _create_here() -> list[int]:
    """Move this process into new namespaces; return descriptors of them and of a listener inside."""
    user, group = os.getuid(), os.getgid()
    setns.unshare()
    # The same user inside as outside: files keep their owners.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP_RUNNING))
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    namespaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("user", "net")]
    return [*namespaces, listener.detach()]


def main() -> None:
    """Create the namespaces and hand them over, or send the reason why not."""
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        try:
            socket.send_fds(channel, [b"{}"], _create_here())
        except OSError as error:
            channel.send(json.dumps(str(error)).encode())


if __name__ == "__main__":
    main()
