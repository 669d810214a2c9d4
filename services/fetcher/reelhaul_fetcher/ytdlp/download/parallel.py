"""The connections that fetch one file, each in a thread, and the one who watches over them."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from io import FileIO
from pathlib import Path

from yt_dlp.networking.exceptions import CertificateVerifyError, HTTPError, IncompleteRead, RequestError

from reelhaul.backoff import exponential_delay
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.model.byte_ranges import ByteRange, RangeAllocator
from reelhaul_fetcher.model.connection_tuner import Pace
from reelhaul_fetcher.ytdlp.download.remote_file import OpenRange, Remote, RemoteFileChanged, Version
from reelhaul_runtime.errors import ReelhaulError

#: Told of the bytes here, and of all that there are where that is known; what it raises is the end.
Hear = Callable[[int, int | None], None]

_TRIES = 6
_LONGEST_PAUSE = 10.0
# Statuses that time may cure.
_PASSING = frozenset({408, 425, 429, *range(500, 600)})
_TICK = 0.1
# A server that slows long answers down is slow: no need to measure it.
_FIRST_OF_SLOWED = 8
_BLOCK, _SMALLEST_BLOCK, _LARGEST_BLOCK = 64 * 1024, 16 * 1024, 256 * 1024
# How long a block should take: slow sites are to be seen moving.
_QUICK, _LONG = 0.002, 0.1


class ParallelDownload:
    """Fetches what is left in *spans* of the file at *remote* into *file*."""

    def __init__(
        self, remote: Remote, file: FileIO, spans: RangeAllocator, version: Version, hear: Hear
    ) -> None:
        self.spans, self.version = spans, version
        self._remote, self._file, self._hear = remote, file, hear
        #: What is here can be gone on from, and parts be asked for.
        self.resumable = bool(version.validator)
        self._writeback = Writeback(file.fileno())
        self._turn = threading.Condition()
        self._working = 0
        self._failure: BaseException | None = None
        self._over = False

    def work(self, most: int) -> None:
        """Return when all is here, having come over at most *most* connections. Raises what ended it."""
        first = _FIRST_OF_SLOWED if self._remote.chunk else 1
        self._pace = Pace(most, time.monotonic(), first)
        with self._turn:
            try:
                while not self.spans.complete and self._failure is None:
                    self.start_workers()
                    self._turn.wait(_TICK)
            finally:
                # Who hangs in a read finds this afterwards, touches nothing more, and closes the file.
                self._over = True
                self.spans.release()
                if self._failure is None:
                    self._file.truncate(self.spans.received)
                if not self._working:
                    self._file.close()
        if self._failure is not None:
            raise self._failure

    def start_workers(self) -> None:
        """Have as many at work as are wanted."""
        wanted = self._pace.wanted(time.monotonic(), self.spans.received, self.spans.left)
        while self._working < wanted and self.spans.divisible and (self.resumable or not self._working):
            if self._working == 1 and self.version.total:
                self._file.truncate(self.version.total)
            self._working += 1
            threading.Thread(target=self._fetch_on, name=f"piece {self._working}", daemon=True).start()

    def _fetch_on(self) -> None:
        """Span after span, until there is none or one too many is at work."""
        span: ByteRange | None = None
        buffer = memoryview(bytearray(_LARGEST_BLOCK))
        try:
            while (span := self._next(span)) is not None:
                try:
                    self._fetch(span, buffer)
                except RequestError as error:
                    if not self._goes_on(span, error):
                        break
        except BaseException as error:
            with self._turn:
                self._failure = self._failure or error
        with self._turn:
            self._working -= 1
            if span is not None and not self._over:
                self.spans.give_back(span)
            if self._over and not self._working:
                self._file.close()
            self._turn.notify_all()

    def _next(self, span: ByteRange | None) -> ByteRange | None:
        """*span* where there is more of it, another one, or none."""
        with self._turn:
            if span is not None and not self._over:
                if span.stop is None or span.left:
                    return span
                self.spans.give_back(span)
            if self._over or (span is not None and self._working > self._pace.limit):
                return None
            return self.spans.take()

    def _fetch(self, span: ByteRange, buffer: memoryview) -> None:
        """What one request brings of *span*."""
        opening = self._opened(span)
        try:
            if not span.start:
                self._hear(0, self.version.total)
            block, pipe = _BLOCK, None
            while room := self._room(span, opening, block):
                began = time.monotonic()
                if pipe is None and block == _LARGEST_BLOCK:
                    pipe = opening.pipe()
                count = pipe.take(room) if pipe else opening.read_into(buffer[:room])
                if not count:
                    self._ended(span, opening)
                    break
                if not self._keep(span, count, pipe.put if pipe else partial(_put, buffer)):
                    break
                block = _fitting(block, time.monotonic() - began)
        finally:
            opening.close()

    def _opened(self, span: ByteRange) -> OpenRange:
        if self.resumable:
            return self._remote.go_on(span.start, span.stop, self.version)
        # Begun, or begun once more: of what came before, nothing can be known to be of the same file.
        opening = self._remote.begin()
        with self._turn:
            self.spans.rewind(span)
            span.stop, self.version, self.resumable = (
                opening.version.total,
                opening.version,
                opening.divisible,
            )
        self._hear(0, span.stop)
        return opening

    def _room(self, span: ByteRange, opening: OpenRange, block: int) -> int:
        """How much to read next."""
        with self._turn:
            ends = [stop - span.start for stop in (span.stop, opening.stop) if stop is not None]
            return 0 if self._over else max(0, min(block, *ends)) if ends else block

    def _keep(self, span: ByteRange, count: int, put: Callable[[int, int, int], None]) -> bool:
        """Have *count* bytes *put* into the file at their place; False where that is not wanted any more."""
        with self._turn:
            if self._over:
                return False
            place, total = span.start, self.version.total
            count = count if span.stop is None else min(count, span.left)
        put(self._file.fileno(), place, count)
        self._writeback.put(count)
        with self._turn:
            if self._over:
                return False
            self.spans.advance(span, count)
            received = self.spans.received
        self._hear(received, total)
        return True

    def _ended(self, span: ByteRange, opening: OpenRange) -> None:
        """The answer is over. Raises IncompleteRead where more was promised."""
        if opening.stop is not None:
            raise IncompleteRead(partial=span.start, expected=opening.stop - span.start)
        with self._turn:
            span.stop = span.start

    def _goes_on(self, span: ByteRange, error: RequestError) -> bool:
        """Whether to try *span* again here, having waited. Raises *error* where that is no use."""
        status = error.status if isinstance(error, HTTPError) else 0
        for_good = bool(status) and status not in _PASSING
        with self._turn:
            tries = span.fail()
            if tries >= _TRIES or isinstance(error, CertificateVerifyError):
                raise error
            if status and self._working > 1:
                # Too many at a time, it may be. Another one fetches this, later.
                self._pace.refused(time.monotonic(), self.spans.received, self._working, for_good=for_good)
                return False
            if for_good:
                raise error
        time.sleep(_pause(tries, error))
        return True


def _put(buffer: memoryview, file: int, place: int, count: int) -> None:
    written = 0
    while written < count:
        written += os.pwrite(file, buffer[written:count], place + written)


def _pause(tries: int, error: RequestError) -> float:
    """Seconds to wait after *tries* failures, the last of them *error*."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HTTPError) else ""
    least = float(asked) if asked.isdecimal() else 0.0
    return min(max(exponential_delay(tries, 0.1, _LONGEST_PAUSE), least), _LONGEST_PAUSE)


def _fitting(block: int, seconds: float) -> int:
    """The size of the next block, after one of *block* bytes took *seconds*."""
    if seconds < _QUICK:
        return min(2 * block, _LARGEST_BLOCK)
    return max(block // 2, _SMALLEST_BLOCK) if seconds > _LONG else block


_WRITE = 2
_EVERY = 16 * 1024 * 1024
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


class Writeback:
    """Begins to write out a file each time that so many bytes were put into it. Waits for nothing."""

    def __init__(self, file: int) -> None:
        self._file, self._put = file, 0

    def put(self, count: int) -> None:
        """*count* bytes more. A count lost between threads does no harm."""
        self._put += count
        if self._put >= _EVERY and _sync_file_range is not None:
            self._put = 0
            # From the first byte to the last, whatever of it is not on its way yet.
            _sync_file_range(self._file, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE)


# Side by side, alone, and without asking for parts at all.
_STARTS = 3


class FileDownload:
    """The file at *path*, fetched over at most *most* connections, telling *hear*."""

    def __init__(self, path: Path, most: int, hear: Hear) -> None:
        self.path = path
        self._most, self._hear = most, hear
        self._spans: RangeAllocator | None = None
        self._version = Version()

    def receive(self, remote: Remote) -> None:
        """Fetch all of it, or the rest of it from a fresh URL after a failure.

        Raises RequestError, OSError, what *hear* raises, VERIFICATION_FAILED for a file that never stays.
        """
        for start in range(_STARTS):
            if start == _STARTS - 1:
                remote.forget_ranges()
            try:
                return self._received(remote, self._most if start == 0 else 1)
            except RemoteFileChanged:
                self.forget()
        text = "the file changed each time that it was fetched"
        raise ReelhaulError(ErrorReason.VERIFICATION_FAILED, text, metadata={"check": "version"})

    def forget(self) -> None:
        """Begin anew at the next ``receive``."""
        self._spans, self._version = None, Version()

    def _received(self, remote: Remote, most: int) -> None:
        if self._spans is None:
            # Not the old one emptied: who still writes into that must not reach the new one.
            self.path.unlink(missing_ok=True)
        file = FileIO(self.path, "x+" if self._spans is None else "r+")
        crew = ParallelDownload(remote, file, self._spans or RangeAllocator(), self._version, self._hear)
        try:
            crew.work(most)
        finally:
            self._spans, self._version = (crew.spans if crew.resumable else None), crew.version
