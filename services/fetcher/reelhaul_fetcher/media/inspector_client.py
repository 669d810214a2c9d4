"""Inspector client: inspects untrusted media files in a sandboxed process of their own.

libav parses a file in native code: whoever exploits a bug in it controls the process. So the process that
parses, the inspector, is forked from a fetch's child before that has received its request: it holds no
cookies, no proxy credentials and no channel to the fetcher. It receives each file as an open descriptor,
cannot write to any file, and is sandboxed by Landlock and seccomp as far as the kernel supports them: it can
open no files, reach no hosts and start no processes. It dies with its child. Running an ffmpeg per file takes
twice the time.
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
from typing import Any, NoReturn

from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.media.inspection import MAX_MESSAGE, Inspection, NotMedia, Unplayable
from reelhaul_fetcher.model import site_limits
from reelhaul_fetcher.model.tracks import audio_tracks
from reelhaul_fetcher.model.tracks.audio_tracks import AudioTrack

# The inspector of this process: a child has one.
_inspector: InspectorProcess | None = None


def start() -> None:
    """Start the inspector. The process must be single-threaded, and must not have received its request."""
    global _inspector
    _inspector = InspectorProcess()


def stop() -> None:
    """Stop the inspector, if there is one."""
    global _inspector
    if _inspector is not None:
        _inspector.stop()
    _inspector = None


def limit_memory(memory_bytes: int) -> None:
    """Limit the memory of the inspector, if there is one."""
    if _inspector is not None:
        _inspector.limit_memory(memory_bytes)


def channel() -> socket.socket | None:
    """Return the socket to the inspector; None if there is none."""
    return _inspector.channel if _inspector is not None else None


def inspect(path: Path, demuxer: str = "") -> Inspection:
    """Inspect *path*, with *demuxer* if it is known which one reads it.

    Raises NotMedia, also if the inspector crashes.
    """
    return _started().inspect(path, demuxer)


def decode_check(path: Path, demuxer: str = "") -> bool:
    """Decode the first and the last second of *path*, read by *demuxer* as ``inspect`` does.

    Return whether the picture is displayed rotated by 90 degrees: width and height are swapped. Raises
    Unplayable, also if the inspector crashes.
    """
    return _started().decode_check(path, demuxer)


def measure_play_time(path: Path, demuxer: str = "") -> float:
    """Read *path*, and return the play time of its packets in seconds, also if their clock restarts.

    *path* is read by *demuxer* as ``inspect`` does. Raises NotMedia, also if the inspector crashes.
    """
    return _started().measure_play_time(path, demuxer)


def _started() -> InspectorProcess:
    if _inspector is None:
        raise RuntimeError("there is no inspector: inspector_client.start() was not called")
    return _inspector


def _become_inspector(channel: socket.socket) -> NoReturn:
    try:
        # It loads libav, which takes 16 MB: the zygote has it once it is used.
        from reelhaul_fetcher.media import inspector_process

        inspector_process.run(channel)
    finally:
        os._exit(1)


class InspectorProcess:
    """The inspector's process, from the side of its parent."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            _become_inspector(theirs)
        theirs.close()
        # The file that is open, and its demuxer.
        self._opened: tuple[Path, str] | None = None
        self._exit_reason = ""

    @property
    def channel(self) -> socket.socket:
        """The socket to the process."""
        return self._channel

    def limit_memory(self, memory_bytes: int) -> None:
        """Limit the memory of the process."""
        with suppress(ProcessLookupError):
            resource.prlimit(self.pid, resource.RLIMIT_DATA, (memory_bytes, memory_bytes))

    def inspect(self, path: Path, demuxer: str = "") -> Inspection:
        """Inspect *path*. Raises NotMedia."""
        self._opened = None
        try:
            with path.open("rb") as file:
                response = self._call({"method": "inspect", "demuxer": demuxer}, [file.fileno()])
            inspection = _parse_inspection(response)
        except ffmpeg.FfmpegFailed as error:
            raise NotMedia(str(error)) from error
        self._opened = path, inspection.demuxer
        return inspection

    def decode_check(self, path: Path, demuxer: str = "") -> bool:
        """Decode parts of *path*; return whether its picture is rotated. Raises NotMedia, Unplayable."""
        if self._opened is None or self._opened[0] != path or demuxer not in ("", self._opened[1]):
            self.inspect(path, demuxer)
        try:
            response = self._call({"method": "decode_check"}, [])
        except ffmpeg.FfmpegFailed as error:
            raise Unplayable(str(error)) from error
        return response.get("rotated") is True

    def measure_play_time(self, path: Path, demuxer: str = "") -> float:
        """Return the play time of *path* in seconds, by its packets. Raises NotMedia."""
        self.inspect(path, demuxer)
        self._opened = None
        try:
            seconds = self._call({"method": "measure_play_time"}, []).get("seconds")
        except (ffmpeg.FfmpegFailed, Unplayable) as error:
            raise NotMedia(str(error)) from error
        return site_limits.number(seconds, site_limits.MAX_SECONDS) or 0.0

    def stop(self) -> None:
        """Kill the process and reap it."""
        self._channel.close()
        if not self._exit_reason:
            self._reap(kill=True)

    def _call(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Return the response. Raises NotMedia or Unplayable if it says so, FfmpegFailed if there is none."""
        if self._exit_reason:
            raise ffmpeg.FfmpegFailed(self._exit_reason)
        try:
            socket.send_fds(self._channel, [json.dumps(request).encode()], descriptors)
            self._wait_for_response()
            message = self._channel.recv(MAX_MESSAGE)
        except OSError:
            message = b""
        except ffmpeg.FfmpegFailed as error:
            self._reap(kill=True, reason=str(error))
            raise
        if not message:
            self._reap()
            raise ffmpeg.FfmpegFailed(self._exit_reason)
        response = json.loads(message)
        if "not_media" in response:
            raise NotMedia(str(response["not_media"])[:300])
        if "unplayable" in response:
            raise Unplayable(str(response["unplayable"])[:300])
        return dict(response)

    def _wait_for_response(self) -> None:
        """Return when the process responds or has died. Raises FfmpegFailed if it hangs."""
        watchdog, poller = ffmpeg.IdleWatchdog(self.pid), select.poll()
        poller.register(self._channel, select.POLLIN)
        while not poller.poll(1000 * ffmpeg.idle_timeout() / 6):
            watchdog.check()

    def _reap(self, *, kill: bool = False, reason: str = "") -> None:
        if kill:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self._exit_reason = reason or f"its decoder ended with {os.waitstatus_to_exitcode(status)}"


def _is_valid(name: str, value: float) -> bool:
    """Return whether *value* is possible; timestamps alone may be negative."""
    return (-(1 << 31) if name == "start" else 0) <= value < 1 << 31


def _parse_track(response: Any) -> AudioTrack:
    """Return the audio track in *response*; check all types likewise."""
    values = response if isinstance(response, dict) else {}
    for field in fields(AudioTrack):
        value = values.get(field.name)
        if type(value).__name__ != field.type or (isinstance(value, int) and not 0 <= value < 1 << 31):
            raise ffmpeg.FfmpegFailed(f"its decoder reports an invalid {field.name} of an audio track")
    return AudioTrack(**{field.name: values[field.name] for field in fields(AudioTrack)})


def _parse_inspection(response: dict[str, Any]) -> Inspection:
    """Return the inspection in *response*; check all types, because the inspector may be compromised."""
    values: dict[str, Any] = {}
    for field in fields(Inspection):
        value: Any = response.get(field.name)
        if field.name == "containers" and isinstance(value, list):
            values[field.name] = frozenset(str(name) for name in value)
        elif field.name == "audio_tracks" and isinstance(value, list):
            values[field.name] = tuple(_parse_track(each) for each in value[: audio_tracks.MAX_TRACKS])
        elif type(value).__name__ == field.type and (isinstance(value, str) or _is_valid(field.name, value)):
            values[field.name] = value
        else:
            raise ffmpeg.FfmpegFailed(f"its decoder reports an invalid {field.name}")
    inspection = Inspection(**values)
    if not inspection.demuxer:
        raise ffmpeg.FfmpegFailed("its decoder reports an invalid format")
    return inspection
