"""What a local file really holds, and whether it plays: libav at work in this process, a taster's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import av
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Disposition, Stream
from av.subtitles import codeccontext, stream, subtitle
from av.video.stream import VideoStream

#: av loads these late, when a sealed process can load nothing any more.
LOADED = (codeccontext, stream, subtitle)

# What media come in. Not what names other files or addresses: playlists, concatenations, captures.
_FORMATS = "aac,ac3,aiff,asf,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav"
# Files of so many seconds are tried as a whole.
_SHORT_SECONDS = 3.0
# One stream may lag behind the other by so much: it is not waited for to the end of the file.
_APART_SECONDS = 5.0
# Larger pictures are decoded on several CPUs: a second of them would take seconds.
_LARGE_PIXELS = 1920 * 1088
# No fault is found by these two steps, which are half of a decoder's work.
_UNSEEN = {"skip_loop_filter": "all", "skip_idct": "all"}
_TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}


class NotMedia(Exception):
    """libav makes nothing of the file."""


class Unplayable(Exception):
    """The file begins well, and does not play."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A file as libav sees it. *duration* is in seconds; 0 where it does not say, as all numbers."""

    containers: frozenset[str] = frozenset()
    duration: float = 0.0
    #: libav's names; empty: there is no picture, no sound.
    video_codec: str = ""
    audio_codec: str = ""
    width: int = 0
    height: int = 0
    frame_rate: float = 0.0
    #: Of the picture, where it is of high dynamic range.
    transfer: str = ""
    audio_bitrate: int = 0


class MediaFile:
    """An opened file; *descriptor* may be closed when it is. Raises NotMedia."""

    def __init__(self, descriptor: int) -> None:
        way = {"fd": str(descriptor), "protocol_whitelist": "fd", "format_whitelist": _FORMATS}
        try:
            self._container = av.open("fd:", options=way)
        except (av.FFmpegError, ValueError) as error:
            raise NotMedia(_words(error)) from error
        streams = [s for s in self._container.streams if not s.disposition & Disposition.attached_pic]
        video = next((s for s in streams if isinstance(s, VideoStream)), None)
        audio = next((s for s in streams if isinstance(s, AudioStream)), None)
        self._tried: list[Stream] = [stream for stream in (video, audio) if stream is not None]
        duration = self._container.duration
        self._begin = (self._container.start_time or 0) / av.time_base
        self.inspection = Inspection(
            containers=frozenset(self._container.format.name.split(",")),
            duration=duration / av.time_base if duration else 0.0,
            video_codec=_codec(video),
            audio_codec=_codec(audio),
            width=video.width if video else 0,
            height=video.height if video else 0,
            frame_rate=float(video.average_rate or 0) if video else 0.0,
            transfer=_transfer(video),
            audio_bitrate=audio.bit_rate or 0 if audio else 0,
        )
        # Threads hand out late, and av passes frames on without the error that came after them.
        if audio is not None and not _undecodable(audio):
            audio.codec_context.thread_count = 1
        if video is not None and not _undecodable(video):
            video.codec_context.options = _UNSEEN
            video.thread_type = "AUTO"
            video.codec_context.thread_count = 0 if video.width * video.height > _LARGE_PIXELS else 1

    def close(self) -> None:
        """Leave the file."""
        self._container.close()

    def decode_check(self) -> None:
        """Decode the first and the last second, of a short file all. Raises Unplayable."""
        duration = self.inspection.duration
        if not self._tried:
            raise Unplayable("there is neither picture nor sound")
        try:
            if duration <= _SHORT_SECONDS:
                if not duration / 2 <= self._played(0.0, math.inf) > 0:
                    raise Unplayable("less comes of it than it says")
                return
            self._played(0.0, 1.0)
            # From the end as well: a file cut short keeps a good header.
            if self._played(duration - 1, math.inf):
                return
            # Subtitles may go on a little longer than what they are about.
            earlier = max(0.0, duration - max(3.0, 0.03 * duration))
            if not self._played(earlier, earlier + 1):
                raise Unplayable("nothing comes of its end")
        except (av.FFmpegError, ValueError) as error:
            raise Unplayable(_words(error)) from error

    def _played(self, begin: float, end: float) -> float:
        """The last second that comes of those from *begin* to *end*; 0 where nothing does."""
        if begin:
            self._seek(begin)
        came, over = 0.0, set[int]()
        for packet in self._container.demux(self._tried):
            if packet.is_corrupt:
                raise Unplayable("a packet is damaged")
            for second in self._decoded(packet):
                came = max(came, second) if begin < second else came
            at = self._second(packet)
            if at >= end:
                over.add(packet.stream_index)
                if len(over) == len(self._tried) or at > end + _APART_SECONDS:
                    break
        return came

    def _seek(self, second: float) -> None:
        # A file without an index is read up to there.
        with suppress(av.FFmpegError):
            self._container.seek(round((self._begin + second) * av.time_base))

    def _decoded(self, packet: Packet[Any]) -> Iterator[float]:
        """At which seconds what comes of *packet* ends. Of what has no decoder here, it is only read."""
        if _undecodable(packet.stream):
            yield self._second(packet)
            return
        for frame in packet.decode():
            if frame.is_corrupt:
                raise Unplayable("a frame is damaged")
            lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
            yield (frame.time or 0.0) - self._begin + lasts

    def _second(self, packet: Packet[Any]) -> float:
        if packet.pts is None or packet.time_base is None:
            return 0.0
        return float(packet.pts * packet.time_base) - self._begin


def _undecodable(stream: Stream) -> bool:
    return stream.codec_context is None


def _transfer(video: VideoStream | None) -> str:
    known = video is not None and not _undecodable(video)
    return _TRANSFERS.get(video.codec_context.color_trc, "") if video and known else ""


def _codec(stream: Stream | None) -> str:
    if stream is None:
        return ""
    return "unknown" if _undecodable(stream) else stream.codec_context.codec.canonical_name


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error)
