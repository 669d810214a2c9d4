"""Serialized messages of ended jobs, kept so that polled jobs and lists are not converted again.

The bytes of a job stay the same while it shows the same: the gateway, too, keeps what it makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from google.protobuf.message import Message

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.states import Kind
from reelhaul_jobs.ports.jobs import JobVersion, KeptJob

_MAX_BYTES = 16 * 1024 * 1024
# Of the version and the dictionary, for each message.
_OVERHEAD_BYTES = 500


class KeptMessages:
    """Serializes the messages of one type that show jobs, and keeps those of ended jobs.

    What an ended job shows is in its row: it depends neither on its reader nor on the time.
    """

    def __init__(self, convert: Callable[[JobView], Message], max_bytes: int = _MAX_BYTES) -> None:
        self._convert = convert
        # When the recent ones have half of the bytes, they become the older ones, and those are dropped.
        self._recent, self._older = dict[JobVersion, bytes](), dict[JobVersion, bytes]()
        self._recent_bytes, self._max_recent_bytes = 0, max_bytes // 2

    def find(self, version: JobVersion) -> bytes | None:
        """Return the serialized message of a job in this version if it is kept. Thread-safe."""
        return self._recent.get(version) or self._older.get(version)

    def serialize(self, view: JobView | bytes) -> bytes:
        """Return the serialized message that shows *view*, or that was found already."""
        if isinstance(view, bytes):
            return view
        content = self._convert(view).SerializeToString(deterministic=True)
        if _is_unchanging(view.job):
            self._keep(JobVersion.of(view.job), content)
        return content

    def _keep(self, version: JobVersion, content: bytes) -> None:
        size = len(content) + _OVERHEAD_BYTES
        if size > self._max_recent_bytes:
            return
        if self._recent_bytes + size > self._max_recent_bytes:
            self._recent, self._older, self._recent_bytes = {}, self._recent, 0
        self._recent[version] = content
        self._recent_bytes += size

    def serialize_list(self, jobs: Iterable[JobView | KeptJob], max_bytes: int) -> tuple[bytes, int]:
        """Return *jobs* as the serialized field 1, and their number: fewer where they exceed *max_bytes*.

        There is at least one, if there are any.
        """
        parts, size, number = list[bytes](), 0, 0
        for job in jobs:
            content = job.content if isinstance(job, KeptJob) else self.serialize(job)
            size += len(content)
            if number and size > max_bytes:
                break
            parts += (_field_head(len(content)), content)
            number += 1
        return b"".join(parts), number


@lru_cache(maxsize=4096)
def _field_head(length: int) -> bytes:
    """Return what precedes a message of *length* bytes as field 1.

    https://protobuf.dev/programming-guides/encoding/
    """
    return b"\x0a" + bytes(_varint(length))


def _varint(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value


def _is_unchanging(job: Job) -> bool:
    """Whether the job shows the same until its version changes: a playlist shows the progress of its jobs."""
    return job.state.is_terminal and job.kind is Kind.SINGLE
