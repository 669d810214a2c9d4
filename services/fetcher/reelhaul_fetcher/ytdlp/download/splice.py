"""Bytes that come quickly go from their socket to the file within the kernel, one copy less on the way."""

from __future__ import annotations

import fcntl
import os
import select
import socket
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from io import BufferedReader

from yt_dlp.networking.exceptions import TransportError

_ROOM = 1 << 20
# More than a reader has read ahead: all of that comes at once.
_AHEAD = 64 * 1024


class Pipe:
    """The rest of an answer's body: ``take`` some of it, then ``put`` that."""

    def __init__(self, sock: socket.socket, ahead: bytes) -> None:
        self._socket, self._ahead = sock, ahead
        self._out, self._into = os.pipe()
        # Users have a share of pipe memory; where it is used up the small default must do.
        with suppress(OSError):
            fcntl.fcntl(self._into, fcntl.F_SETPIPE_SZ, _ROOM)

    def take(self, most: int) -> int:
        """Wait for *most* bytes, or fewer at the end; how many there are. Raises TransportError."""
        if self._ahead:
            return min(most, len(self._ahead))
        taken, waited = 0, False
        while taken < most:
            try:
                count = os.splice(self._socket.fileno(), self._into, most - taken, flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                # Something is there and does not go in: the pipe is full.
                if taken and waited:
                    break
                self._wait()
                waited = True
                continue
            except OSError as error:
                raise TransportError(cause=error) from error
            if not count:
                break
            taken, waited = taken + count, False
        return taken

    def put(self, file: int, place: int, count: int) -> None:
        """Write *count* of the bytes taken at *place* of *file*; what else was taken is lost."""
        while count:
            if self._ahead:
                written = os.pwrite(file, self._ahead[:count], place)
                self._ahead = self._ahead[written:]
            else:
                written = os.splice(self._out, file, count, offset_dst=place)
            place, count = place + written, count - written

    def close(self) -> None:
        """Leave both ends."""
        os.close(self._out)
        os.close(self._into)

    def _wait(self) -> None:
        seconds, ear = self._socket.gettimeout(), select.poll()
        ear.register(self._socket, select.POLLIN)
        if not ear.poll(None if seconds is None else seconds * 1000):
            raise TransportError(cause=TimeoutError("timed out"))


def pipe_of(body: object) -> Pipe | None:
    """A pipe for the rest of *body*; None where that is coded, encrypted, or of unknown length.

    From then on *body* itself must not be read. Raises TransportError.
    """
    if not hasattr(os, "splice") or not isinstance(body, HTTPResponse) or body.chunked or not body.length:
        return None
    reader = body.fp
    sock = getattr(getattr(reader, "raw", None), "_sock", None)
    # Exactly: one that decrypts is a socket as well.
    if not isinstance(reader, BufferedReader) or type(sock) is not socket.socket:
        return None
    try:
        return Pipe(sock, body.read1(_AHEAD))
    except (OSError, HTTPException, ValueError) as error:
        raise TransportError(cause=error) from error
