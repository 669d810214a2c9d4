"""A network of the engine's own, where the platform allows one: it holds nothing but the guard's door.

A short-lived process makes a user and a network namespace, opens the guard's listening socket
inside, and hands all three over. A socket belongs to the network that it was made in: so the
guard, outside, accepts what knocks inside, and no byte passes anyone on the way.
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

from reelhaul_fetcher.ytdlp.process.setns import leave

log = logging.getLogger(__name__)

NamespaceMode = Literal["off", "auto", "on"]

_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x41
_PATIENCE_SECONDS = 20.0


class NamespaceUnavailable(OSError):
    """The platform refuses a network of its own; the text says what it refused."""


@dataclass(frozen=True, slots=True)
class EngineNamespace:
    """A network without any way out but *listener*, on which the guard accepts."""

    user: int
    network: int
    listener: socket.socket


@asynccontextmanager
async def open_namespace(wanted: NamespaceMode) -> AsyncIterator[EngineNamespace | None]:
    """The namespace, for the block; None where it is ``off``, or ``auto`` and refused.

    Raises ``NoNamespace`` where it is ``on`` and refused.
    """
    if wanted == "off":
        yield None
        return
    try:
        found = await _made()
    except NamespaceUnavailable as refused:
        if wanted == "on":
            raise
        log.warning("the engine has no network of its own", extra={"cause": str(refused)})
        yield None
        return
    log.info("the engine has a network of its own")
    try:
        yield found
    finally:
        found.listener.close()
        os.close(found.user)
        os.close(found.network)


async def _made() -> EngineNamespace:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "reelhaul_fetcher.ytdlp.process.namespace",
                    str(theirs.fileno()),
                ),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
            )
        ours.settimeout(_PATIENCE_SECONDS)
        try:
            told, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, ours, 4096, 3)
        except TimeoutError:
            process.kill()
            raise NamespaceUnavailable("making it takes too long") from None
        finally:
            await process.wait()
    if len(descriptors) != 3:
        raise NamespaceUnavailable(json.loads(told or '"it died while it was made"'))
    user, network, listener = descriptors
    return EngineNamespace(user, network, socket.socket(fileno=listener))


def _make() -> list[int]:
    """Leave for namespaces of our own; they, and a listener inside, as descriptors."""
    user, group = os.getuid(), os.getgid()
    leave()
    # Whoever we are outside, we are inside: files keep their owners.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP_AND_RUNNING))
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    spaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("user", "net")]
    return [*spaces, listener.detach()]


def main() -> None:
    """Make it, and hand it over; or tell why not."""
    with socket.socket(fileno=int(sys.argv[1])) as line:
        try:
            socket.send_fds(line, [b"{}"], _make())
        except OSError as refused:
            line.send(json.dumps(str(refused)).encode())


if __name__ == "__main__":
    main()
