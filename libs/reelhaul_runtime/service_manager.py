"""Service manager: tells systemd when the process is ready and when it stops (``Type=notify``)."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

#: The variable that names the socket. Children do not get it: they are not what the manager started.
SOCKET_VARIABLE = "NOTIFY_SOCKET"

READY, STOPPING = "READY=1", "STOPPING=1"


def notify(state: str) -> None:
    """Tell the service manager *state*; without one, do nothing. sd_notify(3)"""
    address = os.environ.get(SOCKET_VARIABLE, "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        # An abstract socket.
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(state.encode(), address)
