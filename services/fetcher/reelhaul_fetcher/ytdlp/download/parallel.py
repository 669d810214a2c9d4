"""Download of one plain file: over one connection, or over several threads where one is slow.

Each thread writes at its own offset of the file. A response that is not provably of the version that the
download began with restarts it: a finished file is one version, or the download fails. A record beside the
file states which ranges were received, so that a later attempt requests only the rest. The server must
confirm the version, and the bytes before each gap are received again and compared.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from io import FileIO
from itertools import pairwise
from pathlib import Path

from yt_dlp.networking.exceptions import CertificateVerifyError, HTTPError, IncompleteRead, RequestError

from reelhaul.backoff import exponential_delay
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.model.byte_ranges import ByteRange, RangeAllocator
from reelhaul_fetcher.model.connection_tuner import ConnectionTuner
from reelhaul_fetcher.model.http_values import parse_decimal, parse_validator
from reelhaul_fetcher.ytdlp.download.received_folder import read_record, remove_files, write_record
from reelhaul_fetcher.ytdlp.download.remote_file import OpenRange, RemoteFile, RemoteFileChanged
from reelhaul_fetcher.ytdlp.download.safe_resume import FileVersion
from reelhaul_runtime.errors import ReelhaulError

#: Called with the bytes received, and the length of the file if known. What it raises ends the download.
OnBytes = Callable[[int, int | None], None]

# Seconds between two records: a crash loses at most what was received in between.
_RECORD_SECONDS = 0.25
# More ranges than a download ever has; ranges that are not recorded are received again.
_MAX_RECORDED_RANGES = 1000

# In parallel, over one connection, and without ranges.
_STARTS = 3

_MAX_TRIES = 6
_FIRST_DELAY, _MAX_DELAY = 0.1, 10.0
# Statuses that may pass with time.
_TRANSIENT_STATUSES = frozenset({408, 425, 429, *range(500, 600)})

_SUPERVISION_SECONDS = 0.1
# Connections to begin with at a server that throttles long responses: it need not be measured to be slow.
_THROTTLED_CONNECTIONS = 8

_BLOCK, _MIN_BLOCK, _MAX_BLOCK = 64 * 1024, 16 * 1024, 256 * 1024
# Seconds that a block should take: less is inefficient, and more would hide the progress of a slow site.
_MIN_BLOCK_SECONDS, _MAX_BLOCK_SECONDS = 0.002, 0.1

_SYNC_FILE_RANGE_WRITE = 2
_WRITEBACK_BYTES = 16 * 1024 * 1024
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


class FileDownload:
    """Downloads a file to *path* over at most *max_connections*; calls *on_bytes* as bytes arrive.

    Continues the file of an earlier attempt at *path*; *on_resumed* is called with its bytes received.
    """

    def __init__(
        self,
        path: Path,
        max_connections: int,
        on_bytes: OnBytes,
        on_resumed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.path = path
        self._max_connections, self._on_bytes, self._on_resumed = max_connections, on_bytes, on_resumed
        self._version, self._ranges = _read_record(path)
        self._is_resumed = self._ranges is not None
        #: Whether the file received is known to be complete.
        self.is_complete = False

    def download(self, remote: RemoteFile) -> None:
        """Download all of the file, or after a failure the rest of it, which may be at a fresh URL.

        Raises RequestError, OSError, what *on_bytes* raises, VERIFICATION_FAILED if the file keeps changing.
        """
        if self._ranges is not None:
            try:
                return self._download(remote, self._max_connections)
            except RemoteFileChanged:
                self._restart()
        for start in range(_STARTS):
            if start == _STARTS - 1:
                remote.disable_ranges()
            try:
                return self._download(remote, self._max_connections if start == 0 else 1)
            except RemoteFileChanged:
                self._restart()
        text = "the file changed during each download of it"
        raise ReelhaulError(ErrorReason.VERIFICATION_FAILED, text, metadata={"check": "version"})

    def _restart(self) -> None:
        """Discard the bytes received."""
        self._ranges, self._version = None, FileVersion()

    def _download(self, remote: RemoteFile, max_connections: int) -> None:
        if self._ranges is None:
            # A new file: a thread that still writes into the old one must not reach it.
            remove_files(self.path)
        elif self._is_resumed:
            self._is_resumed = False
            self._on_bytes(0, self._version.total)
            self._on_resumed(self._ranges.received)
        file = FileIO(self.path, "x+" if self._ranges is None else "r+")
        ranges = self._ranges or RangeAllocator()
        download = ParallelDownload(remote, file, ranges, self._version, self._on_bytes, self._record)
        try:
            download.run(max_connections)
        finally:
            self._ranges = download.ranges if download.resumable else None
            self._version = download.version
            self.is_complete = download.delimited
            if self._ranges is not None and self._version.total:
                # The error that ended the download is raised, not this one.
                with suppress(OSError):
                    self._record(self._version, self._ranges.list_received(self._version.total))

    def _record(self, version: FileVersion, received: Sequence[tuple[int, int]]) -> None:
        record = {**asdict(version), "received": received[:_MAX_RECORDED_RANGES]}
        write_record(self.path, record)


def _read_record(path: Path) -> tuple[FileVersion, RangeAllocator | None]:
    """Return the recorded version of the file at *path* and its ranges; None without a valid record."""
    record = read_record(path)
    try:
        total, received = (
            int(record["total"]),
            [(int(start), int(stop)) for start, stop in record["received"]],
        )
        etag, last_modified = (parse_validator(record[name]) for name in ("etag", "last_modified"))
        size = path.lstat().st_size
    except (KeyError, TypeError, ValueError, OSError):
        return FileVersion(), None
    version = FileVersion(total, etag, last_modified)
    bounds = [bound for byte_range in received for bound in byte_range]
    # Strictly increasing: no range is empty or adjacent to another.
    is_ordered = all(a < b for a, b in pairwise(bounds))
    if (
        not version.validator
        or not bounds
        or bounds[0] < 0
        or not is_ordered
        or bounds[-1] > min(size, total)
    ):
        return FileVersion(), None
    return version, RangeAllocator.resume(total, received)


class ParallelDownload:
    """Downloads the missing *ranges* of *remote* into *file*."""

    def __init__(
        self,
        remote: RemoteFile,
        file: FileIO,
        ranges: RangeAllocator,
        version: FileVersion,
        on_bytes: OnBytes,
        record: Callable[[FileVersion, Sequence[tuple[int, int]]], None],
    ) -> None:
        self.ranges, self.version = ranges, version
        self._remote, self._file, self._on_bytes, self._record = remote, file, on_bytes, record
        #: Ranges can be requested, and what was received can be continued.
        self.resumable = bool(version.validator)
        #: Whether a truncated response is detected.
        self.delimited = self.resumable
        self._writeback = _Writeback(file.fileno())
        #: Guards everything that threads share; notified when a thread ends.
        self._lock = threading.Condition()
        self._workers = 0
        self._failure: BaseException | None = None
        self._is_over = False

    def run(self, max_connections: int) -> None:
        """Return when the file is complete. Raises what ended the download."""
        first = _THROTTLED_CONNECTIONS if self._remote.chunk_size else 1
        self._tuner = ConnectionTuner(max_connections, time.monotonic(), first, self.ranges.received)
        recorded_at = time.monotonic()
        try:
            while self._supervise():
                if time.monotonic() - recorded_at >= _RECORD_SECONDS:
                    self._record_received()
                    recorded_at = time.monotonic()
        finally:
            with self._lock:
                # A thread that hangs in a read sees this afterwards, writes nothing, and closes the file.
                self._is_over = True
                self.ranges.release_all()
                if self._failure is None and self.ranges.complete:
                    self._file.truncate(self.ranges.received)
                if not self._workers:
                    self._file.close()
        if self._failure is not None:
            raise self._failure

    def _supervise(self) -> bool:
        """Start threads, and wait for a short time; return whether the download continues."""
        with self._lock:
            if self.ranges.complete or self._failure is not None:
                return False
            self.start_workers()
            self._lock.wait(_SUPERVISION_SECONDS)
            return True

    def _record_received(self) -> None:
        with self._lock:
            if not self.resumable or not self.version.total:
                return
            version, received = self.version, self.ranges.list_received(self.version.total)
        # Without the lock: a slow disk must not stop the threads.
        self._record(version, received)

    def start_workers(self) -> None:
        """Start threads until there are as many as the tuner wants."""
        wanted = self._tuner.update(time.monotonic(), self.ranges.received, self.ranges.left)
        while self._workers < wanted and self.ranges.divisible and (self.resumable or not self._workers):
            if self._workers == 1 and self.version.total:
                self._file.truncate(self.version.total)
            self._workers += 1
            threading.Thread(target=self._work, name=f"range {self._workers}", daemon=True).start()

    def _work(self) -> None:
        """Download range after range, until none is left or there are too many threads."""
        byte_range: ByteRange | None = None
        buffer = memoryview(bytearray(_MAX_BLOCK))
        try:
            while (byte_range := self._next_range(byte_range)) is not None:
                try:
                    self._download(byte_range, buffer)
                except RequestError as error:
                    if not self._retry(byte_range, error):
                        break
        except BaseException as error:
            with self._lock:
                self._failure = self._failure or error
        with self._lock:
            self._workers -= 1
            if byte_range is not None and not self._is_over:
                self.ranges.release(byte_range)
            if self._is_over and not self._workers:
                self._file.close()
            self._lock.notify_all()

    def _next_range(self, current: ByteRange | None) -> ByteRange | None:
        """Return *current* if more of it is missing, another range, or None if this thread should end."""
        with self._lock:
            if current is not None and not self._is_over:
                if current.stop is None or current.left:
                    return current
                self.ranges.release(current)
            if self._is_over or (current is not None and self._workers > self._tuner.limit):
                return None
            return self.ranges.take()

    def _download(self, byte_range: ByteRange, buffer: memoryview) -> None:
        """Download what one request returns of *byte_range*."""
        opened = self._open(byte_range)
        try:
            if not byte_range.start:
                self._on_bytes(0, self.version.total)
            if byte_range.start < byte_range.compare_until:
                self._compare(byte_range, opened, buffer)
            block, pipe = _BLOCK, None
            while size := self._next_size(byte_range, opened, block):
                started = time.monotonic()
                if pipe is None and block == _MAX_BLOCK:
                    pipe = opened.pipe()
                count = pipe.take(size) if pipe else opened.read_into(buffer[:size])
                if not count:
                    self._finish_response(byte_range, opened)
                    break
                if not self._write(byte_range, count, pipe.put if pipe else partial(_write_at, buffer)):
                    break
                block = _adapt_block(block, time.monotonic() - started)
        finally:
            opened.close()

    def _compare(self, byte_range: ByteRange, opened: OpenRange, buffer: memoryview) -> None:
        """Receive the overlap before the missing bytes again. Raises RemoteFileChanged if it differs."""
        count, received = byte_range.compare_until - byte_range.start, bytearray()
        if opened.stop is not None and opened.stop < byte_range.compare_until:
            raise RemoteFileChanged(f"the server sends too little to compare {count} bytes")
        while len(received) < count:
            size = opened.read_into(buffer[: count - len(received)])
            if not size:
                raise IncompleteRead(partial=len(received), expected=count - len(received))
            received += buffer[:size]
        with self._lock:
            if self._is_over:
                return
            if os.pread(self._file.fileno(), count, byte_range.start) != received:
                raise RemoteFileChanged(f"other bytes before byte {byte_range.compare_until}")
            self.ranges.advance(byte_range, count)

    def _open(self, byte_range: ByteRange) -> OpenRange:
        if self.resumable:
            return self._remote.open_range(byte_range.start, byte_range.stop, self.version)
        # The first request, or a restart: what came before is not provably of the same file.
        opened = self._remote.open_start()
        with self._lock:
            self.ranges.rewind(byte_range)
            byte_range.stop, self.version = opened.version.total, opened.version
            self.resumable, self.delimited = opened.divisible, opened.delimited
        self._on_bytes(0, byte_range.stop)
        return opened

    def _next_size(self, byte_range: ByteRange, opened: OpenRange, block: int) -> int:
        """Return how many bytes to read next; 0 at the end."""
        with self._lock:
            if self._is_over:
                return 0
            ends = [stop for stop in (byte_range.stop, opened.stop) if stop is not None]
            return max(0, min([block, *(stop - byte_range.start for stop in ends)]))

    def _write(self, byte_range: ByteRange, count: int, write_at: Callable[[int, int, int], None]) -> bool:
        """Write *count* bytes at their offset; False if they are not wanted any more."""
        with self._lock:
            if self._is_over:
                return False
            offset, total = byte_range.start, self.version.total
            count = count if byte_range.stop is None else min(count, byte_range.left)
        write_at(self._file.fileno(), offset, count)
        self._writeback.add(count)
        with self._lock:
            if self._is_over:
                return False
            self.ranges.advance(byte_range, count)
            received = self.ranges.received
        self._on_bytes(received, total)
        return True

    def _finish_response(self, byte_range: ByteRange, opened: OpenRange) -> None:
        """Handle the end of a response. Raises IncompleteRead if more was promised."""
        if opened.stop is not None:
            raise IncompleteRead(partial=byte_range.start, expected=opened.stop - byte_range.start)
        with self._lock:
            byte_range.stop = byte_range.start

    def _retry(self, byte_range: ByteRange, error: RequestError) -> bool:
        """Wait; return whether this thread should try *byte_range* again. Raises *error* if it is final."""
        status = error.status if isinstance(error, HTTPError) else 0
        is_permanent = bool(status) and status not in _TRANSIENT_STATUSES
        with self._lock:
            failures = byte_range.fail()
            if failures >= _MAX_TRIES or isinstance(error, CertificateVerifyError):
                raise error
            if status and self._workers > 1:
                # Perhaps too many connections: this thread ends, and another takes the range later.
                self._tuner.on_refusal(
                    time.monotonic(), self.ranges.received, self._workers, permanent=is_permanent
                )
                return False
            if is_permanent:
                raise error
        time.sleep(_retry_delay(failures, error))
        return True


class _Writeback:
    """Starts writing a growing file to disk, so that fsync is short in the end. Does not wait."""

    def __init__(self, file: int) -> None:
        self._file, self._pending = file, 0

    def add(self, count: int) -> None:
        """Count *count* more bytes. A count lost between threads does no harm."""
        self._pending += count
        if self._pending >= _WRITEBACK_BYTES and _sync_file_range is not None:
            self._pending = 0
            # Offset 0 and length 0: the whole file.
            _sync_file_range(self._file, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


def _write_at(buffer: memoryview, file: int, offset: int, count: int) -> None:
    written = 0
    while written < count:
        written += os.pwrite(file, buffer[written:count], offset + written)


def _retry_delay(failures: int, error: RequestError) -> float:
    """Return the seconds to wait after *failures* failures, the last of them *error*."""
    header = error.response.headers.get("Retry-After", "") if isinstance(error, HTTPError) else ""
    requested = float(parse_decimal(header) or 0)
    return min(max(exponential_delay(failures, _FIRST_DELAY, _MAX_DELAY), requested), _MAX_DELAY)


def _adapt_block(block: int, seconds: float) -> int:
    """Return the size of the next block, after one of *block* bytes took *seconds*."""
    if seconds < _MIN_BLOCK_SECONDS:
        return min(2 * block, _MAX_BLOCK)
    return max(block // 2, _MIN_BLOCK) if seconds > _MAX_BLOCK_SECONDS else block
