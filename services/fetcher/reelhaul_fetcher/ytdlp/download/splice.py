"""Zero-copy download: splice(2) moves bytes from a socket to a file within the kernel."""

from __future__ import annotations

import fcntl
import os
import select
import socket
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from io import BufferedReader

from yt_dlp.networking.exceptions import TransportError

_PIPE_BYTES = 1 << 20
# More than a reader buffers: one read returns all that it has buffered.
_BUFFERED_BYTES = 64 * 1024


class Pipe:
    """The rest of a response's body: ``take`` some bytes from the socket, then ``put`` them into a file."""

    def __init__(self, sock: socket.socket, buffered: bytes) -> None:
        self._socket, self._buffered = sock, buffered
        self._read_end, self._write_end = os.pipe()
        # Pipe memory is limited per user; where it is used up, the small default must do.
        with suppress(OSError):
            fcntl.fcntl(self._write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def take(self, most: int) -> int:
        """Wait for *most* bytes, fewer at the end; return how many were taken. Raises TransportError."""
        if self._buffered:
            return min(most, len(self._buffered))
        moved, waited = 0, False
        while moved < most:
            try:
                count = os.splice(
                    self._socket.fileno(), self._write_end, most - moved, flags=os.SPLICE_F_NONBLOCK
                )
            except BlockingIOError:
                # The socket was readable and still nothing moved: the pipe is full.
                if moved and waited:
                    break
                self._wait()
                waited = True
                continue
            except OSError as error:
                raise TransportError(cause=error) from error
            if not count:
                break
            moved, waited = moved + count, False
        return moved

    def put(self, file: int, offset: int, count: int) -> None:
        """Write *count* of the bytes taken at *offset* of *file*. The other bytes taken are lost."""
        while count:
            if self._buffered:
                written = os.pwrite(file, self._buffered[:count], offset)
                self._buffered = self._buffered[written:]
            else:
                written = os.splice(self._read_end, file, count, offset_dst=offset)
            offset, count = offset + written, count - written

    def close(self) -> None:
        """Close both ends."""
        os.close(self._read_end)
        os.close(self._write_end)

    def _wait(self) -> None:
        seconds, poll = self._socket.gettimeout(), select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(None if seconds is None else seconds * 1000):
            raise TransportError(cause=TimeoutError("timed out"))


def open_pipe(body: object) -> Pipe | None:
    """Return a pipe for the rest of *body*; None if that is encoded, encrypted, or of unknown length.

    Afterwards *body* itself must not be read. Raises TransportError.
    """
    if not hasattr(os, "splice") or not isinstance(body, HTTPResponse) or body.chunked or not body.length:
        return None
    reader = body.fp
    sock = getattr(getattr(reader, "raw", None), "_sock", None)
    # Exactly this type: a socket that decrypts is a subclass.
    if not isinstance(reader, BufferedReader) or type(sock) is not socket.socket:
        return None
    try:
        return Pipe(sock, body.read1(_BUFFERED_BYTES))
    except (OSError, HTTPException, ValueError) as error:
        raise TransportError(cause=error) from error
