"""Connections: those of one session to an endpoint, which another thread can break."""

from __future__ import annotations

import socket
import threading
from collections import deque
from contextlib import suppress

# More than a session uses at once.
_MAX = 32


class Connections:
    """The connections of one session. Any thread may call the methods.

    The timeouts of sockets do not end a response that arrives byte by byte.
    """

    def __init__(self) -> None:
        # Duplicates, as TLS takes the sockets over. Only the latest are in use.
        self._sockets: deque[socket.socket] = deque()
        self._lock = threading.Lock()
        self._broken = False

    def add(self, connection: socket.socket) -> None:
        """Add a new connection. After ``abort`` it is closed; raises OSError."""
        with self._lock:
            if self._broken:
                connection.close()
                raise ConnectionAbortedError
            self._sockets.append(connection.dup())
            if len(self._sockets) > _MAX:
                self._sockets.popleft().close()

    def abort(self) -> None:
        """Break all connections, and those that would follow."""
        with self._lock:
            self._broken = True
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free what ``abort`` needs."""
        with self._lock:
            while self._sockets:
                self._sockets.pop().close()
