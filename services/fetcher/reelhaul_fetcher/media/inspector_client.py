"""Looking into files of strangers: done by a process of its own, which knows nothing and may do nothing.

libav takes a file apart in memory of its own making: who can make it err may make it do what he
likes. So the process that does it, the taster, is forked from a child before that has heard its
order: it holds no cookie, no pass and no line to the fetcher. It is handed each file as an open
descriptor, can write none, and is sealed where the kernel can do that: it opens nothing else,
reaches nobody and begins nothing. It lives no longer than its child. An ffmpeg for each file was
free to do all that, with the pass in its environment, and cost twice as much.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from reelhaul_fetcher.media import ffmpeg, inspector_process
from reelhaul_fetcher.media.inspect import Inspection, NotMedia, Unplayable

# Of this process: a child has one.
_present: InspectorProcess | None = None


def start() -> None:
    """Have a taster from now on. Only in a process of one thread, and before it learns anything."""
    global _present
    _present = InspectorProcess()


def stop() -> None:
    """Have none any more."""
    global _present
    if _present is not None:
        _present.stop()
    _present = None


def limit_memory(memory_bytes: int) -> None:
    """From now on the taster, where there is one, may take so much memory."""
    if _present is not None:
        _present.limit_memory(memory_bytes)


def channel() -> socket.socket | None:
    """Where the taster is asked; None where there is none."""
    return _present.channel if _present is not None else None


def inspect(path: Path) -> Inspection:
    """What *path* holds. Raises NotMedia, also where the taster does not survive it."""
    return _ours().inspect(path)


def decode_check(path: Path) -> None:
    """Decode the first and the last second of *path*. Raises Unplayable, also where the taster dies of it."""
    _ours().decode_check(path)


def _ours() -> InspectorProcess:
    if _present is None:
        raise RuntimeError("there is no taster: tasting.begin() was not called")
    return _present


class InspectorProcess:
    """The process, seen from the one that asks."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            inspector_process.live(theirs)
        theirs.close()
        self._inspected: Path | None = None
        self._fate = ""

    @property
    def channel(self) -> socket.socket:
        """Where it is asked."""
        return self._line

    def limit_memory(self, memory_bytes: int) -> None:
        """As ``tasting.bound``."""
        with suppress(ProcessLookupError):
            resource.prlimit(self.pid, resource.RLIMIT_DATA, (memory_bytes, memory_bytes))

    def inspect(self, path: Path) -> Inspection:
        """As ``tasting.inspect``."""
        self._inspected = None
        try:
            with path.open("rb") as file:
                seen = _inspection(self._asked({"inspect": True}, [file.fileno()]))
        except ffmpeg.FfmpegFailed as error:
            raise NotMedia(str(error)) from error
        self._inspected = path
        return seen

    def decode_check(self, path: Path) -> None:
        """As ``tasting.try_out``."""
        if self._inspected != path:
            self.inspect(path)
        try:
            self._asked({"try": True}, [])
        except ffmpeg.FfmpegFailed as error:
            raise Unplayable(str(error)) from error

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        self._line.close()
        if not self._fate:
            self._bury(kill=True)

    def _asked(self, question: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Its answer. Raises NotMedia, Unplayable by its word, FfmpegFailed where it has none."""
        if self._fate:
            raise ffmpeg.FfmpegFailed(self._fate)
        try:
            socket.send_fds(self._line, [json.dumps(question).encode()], descriptors)
            self._wait()
            told = self._line.recv(inspector_process.MAX_MESSAGE)
        except OSError:
            told = b""
        except ffmpeg.FfmpegFailed as error:
            self._bury(kill=True, why=str(error))
            raise
        if not told:
            self._bury()
            raise ffmpeg.FfmpegFailed(self._fate)
        answer = json.loads(told)
        if "not_media" in answer:
            raise NotMedia(str(answer["not_media"])[:300])
        if "unplayable" in answer:
            raise Unplayable(str(answer["unplayable"])[:300])
        return dict(answer)

    def _wait(self) -> None:
        """Return when it answers, or is gone. Raises FfmpegFailed where it does nothing any more."""
        watch, ear = ffmpeg.IdleWatchdog(self.pid), select.poll()
        ear.register(self._line, select.POLLIN)
        while not ear.poll(1000 * ffmpeg.idle_timeout() / 6):
            watch.check()

    def _bury(self, *, kill: bool = False, why: str = "") -> None:
        if kill:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self._fate = why or f"its decoder ended with {os.waitstatus_to_exitcode(status)}"


def _inspection(told: dict[str, Any]) -> Inspection:
    """What *told* says. Whoever took the taster over may say anything: it is held to its types."""
    values: dict[str, Any] = {}
    for field in fields(Inspection):
        value: Any = told.get(field.name)
        if field.name == "containers" and isinstance(value, list):
            values[field.name] = frozenset(str(name) for name in value)
        elif type(value).__name__ == field.type and (isinstance(value, str) or 0 <= value < 1 << 31):
            values[field.name] = value
        else:
            raise ffmpeg.FfmpegFailed(f"its decoder says nonsense of the {field.name}")
    return Inspection(**values)
