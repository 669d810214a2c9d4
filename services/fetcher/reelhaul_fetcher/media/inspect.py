"""Inspects a local file and tries to decode it, with libav in this process: the inspector's."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Disposition, Stream
from av.subtitles import codeccontext, stream, subtitle
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from reelhaul_fetcher.media.inspection import DEMUXERS, Inspection, NotMedia, Unplayable, demuxer_of
from reelhaul_fetcher.model.tracks import audio_tracks
from reelhaul_fetcher.model.tracks.audio_tracks import AudioTrack

#: av imports these late, when a sandboxed process can open no file any more.
PRELOADED = (codeccontext, stream, subtitle)

# Demuxers whose duration is an estimate: from the bitrate of the beginning, or from metadata that was written
# before the end was known.
_ESTIMATING_DEMUXERS = frozenset({"aac", "ac3", "eac3", "mp3", "flv"})
# Demuxers of plain samples, which read the last ones as a packet that is cut off.
_SAMPLE_DEMUXERS = frozenset({"wav", "w64", "aiff", "caf"})
# A longer step of the timestamps, or one backwards, is a new clock and no play time. As in ffmpeg. Seconds.
_MAX_STEP_SECONDS = 10.0
# Files of at most this length are decoded completely.
_SHORT_SECONDS = 3.0
# One stream may end this long before another one: do not read the rest of the file for its next packet.
_MAX_STREAM_GAP_SECONDS = 5.0
# Larger pictures are decoded by several threads: one second of them would take several seconds.
_LARGE_PIXELS = 1920 * 1088
# These two steps are half of a decoder's work and find no faults.
_SKIPPED_STEPS = {"skip_loop_filter": "all", "skip_idct": "all"}
# Demuxers whose timestamps are those of the presentation; others count from 0, or have none.
_TIMESTAMP_DEMUXERS = frozenset({"mov", "matroska", "mpegts", "mpeg", "flv"})
# Demuxers whose header may state the end instead of the duration if the file does not begin at about 0.
_END_AS_DURATION_DEMUXERS = frozenset({"mov", "matroska"})
_MAX_USUAL_START = 1.0
# Seconds: some files count from 1970.
_MAX_TIMESTAMP = 2.0**31
# Segments of packed audio begin with the timestamp of MPEG-TS in an ID3 tag (RFC 8216, 3.4).
_PACKED_AUDIO_TIMESTAMP = "id3v2_priv.com.apple.streaming.transportStreamTimestamp"
_ESCAPED_BYTE = re.compile(r"\\x([0-9a-f]{2})|(.)", re.DOTALL)
# Matroska has the end of a track in the tag DURATION.
_MATROSKA_END = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)")
# Characters of a language or a title of a track.
_MAX_TAG = 64
_TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}
# Each of these initializes its tables when it is first opened.
_COMMON_DECODERS = ("h264", "hevc", "vp9", "libdav1d", "aac", "opus", "mp3float")


class MediaFile:
    """An opened file; *descriptor* may be closed afterwards. Raises NotMedia.

    It is read by *demuxer*, one of DEMUXERS; if that is empty, by the one that libav detects.
    """

    def __init__(self, descriptor: int, demuxer: str = "") -> None:
        self._open(descriptor, demuxer)
        # A demuxer that is forced has only that name.
        containers = frozenset(self._container.format.name.split(","))
        stated, spans = (self._container.duration or 0) / av.time_base, dict[int, tuple[float, float]]()
        if not stated or self._is_duration_unreliable():
            spans = self._measure_spans()
            self._container.close()
            os.lseek(descriptor, 0, os.SEEK_SET)
            # With the same demuxer: it is not detected a second time.
            self._open(descriptor, demuxer_of(containers))
        video, audio = self._video, self._audio
        measured = max((end for _, end in spans.values()), default=0.0) - min(
            (start for start, _ in spans.values()), default=0.0
        )
        clock_start = self._read_clock_start()
        video_start, video_end = self._read_span(video, spans)
        audio_start, audio_end = self._read_span(audio, spans)
        self.inspection = Inspection(
            containers=containers,
            duration=measured or stated,
            has_duration=stated > 0,
            video_codec=_codec(video),
            audio_codec=_codec(audio),
            width=video.width if video else 0,
            height=video.height if video else 0,
            frame_rate=float(video.average_rate or 0) if video else 0.0,
            transfer=_transfer(video),
            audio_bitrate=audio.bit_rate or 0 if audio else 0,
            audio_rate=audio.sample_rate or 0 if audio and _has_decoder(audio) else 0,
            audio_channels=audio.channels or 0 if audio and _has_decoder(audio) else 0,
            start=clock_start or 0.0,
            has_timestamps=clock_start is not None,
            video_start=video_start,
            video_end=video_end,
            audio_start=audio_start,
            audio_end=audio_end,
            audio_tracks=self._audio_tracks,
        )
        self._is_rotated = False
        # Decoder threads return frames late, and av returns frames without the error that came after them.
        if audio is not None and _has_decoder(audio):
            audio.codec_context.thread_count = 1
        if video is not None and _has_decoder(video):
            video.codec_context.options = _SKIPPED_STEPS
            video.thread_type = "AUTO"
            video.codec_context.thread_count = 0 if video.width * video.height > _LARGE_PIXELS else 1

    def _open(self, descriptor: int, demuxer: str) -> None:
        demuxers = [demuxer] if demuxer else DEMUXERS
        options = {"fd": str(descriptor), "protocol_whitelist": "fd", "format_whitelist": ",".join(demuxers)}
        try:
            self._container = av.open("fd:", format=demuxer or None, options=options)
        except (av.FFmpegError, ValueError) as error:
            raise NotMedia(_message(error)) from error
        streams = [s for s in self._container.streams if not s.disposition & Disposition.attached_pic]
        self._video = next((s for s in streams if isinstance(s, VideoStream)), None)
        self._audio = next((s for s in streams if isinstance(s, AudioStream)), None)
        tracks = [s for s in streams if isinstance(s, AudioStream)]
        self._audio_tracks = tuple(map(_to_track, tracks[: audio_tracks.MAX_TRACKS]))
        self._streams: list[Stream] = [s for s in (self._video, self._audio) if s is not None]
        self._start_time = (self._container.start_time or 0) / av.time_base

    def _is_duration_unreliable(self) -> bool:
        """Return whether the duration that libav reports may differ from that of the packets."""
        names = set(self._container.format.name.split(","))
        is_late = abs(self._start_time) > _MAX_USUAL_START
        return bool(names & _ESTIMATING_DEMUXERS) or (is_late and bool(names & _END_AS_DURATION_DEMUXERS))

    def _measure_spans(self) -> dict[int, tuple[float, float]]:
        """Return the first second and the end of the packets of each stream, by its index."""
        spans: dict[int, tuple[float, float]] = {}
        # Packets after an error do not play.
        with suppress(av.FFmpegError, ValueError):
            for packet in self._container.demux(self._streams):
                ticks = packet.pts if packet.pts is not None else packet.dts
                if ticks is not None and packet.time_base is not None:
                    begin = float(ticks * packet.time_base)
                    end = begin + float((packet.duration or 0) * packet.time_base)
                    first, last = spans.get(packet.stream_index, (begin, end))
                    spans[packet.stream_index] = (min(first, begin), max(last, end))
        return spans

    def _read_clock_start(self) -> float | None:
        """Return the first timestamp of the presentation, in seconds; None if there is none."""
        if _TIMESTAMP_DEMUXERS.intersection(self._container.format.name.split(",")):
            is_valid = self._container.start_time is not None and abs(self._start_time) < _MAX_TIMESTAMP
            return self._start_time if is_valid else None
        tag = self._container.metadata.get(_PACKED_AUDIO_TIMESTAMP, "")[:64]
        value = bytes(int(m[1], 16) if m[1] else ord(m[2]) & 0xFF for m in _ESCAPED_BYTE.finditer(tag))
        return (int.from_bytes(value) & 0x1FFFFFFFF) / 90_000 if len(value) == 8 else None

    def _read_span(self, stream: Stream | None, spans: dict[int, tuple[float, float]]) -> tuple[float, float]:
        """Return the start and end of *stream*, in seconds after the first timestamp; 0: unknown."""
        if stream is None or stream.start_time is None or stream.time_base is None:
            return 0.0, 0.0
        start, end = float(stream.start_time * stream.time_base), 0.0
        if stream.index in spans:
            start, end = spans[stream.index]
        elif stream.duration:
            end = start + float(stream.duration * stream.time_base)
        elif match := _MATROSKA_END.match(stream.metadata.get("DURATION", "")[:32]):
            end = 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
        return max(0.0, start - self._start_time), max(0.0, end - self._start_time)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def measure_play_time(self) -> float:
        """Return the play time of all packets in seconds, also if the clock restarts among them.

        Reads the file to its end, so that no other method can read it afterwards.
        """
        meters = {stream.index: _PlayTimeMeter() for stream in self._streams}
        with suppress(av.FFmpegError, ValueError):
            for packet in self._container.demux(self._streams):
                meters[packet.stream_index].add(packet)
        return max((meter.seconds for meter in meters.values()), default=0.0)

    def decode_check(self) -> bool:
        """Decode the first and the last second, or the whole of a short file. Raises Unplayable.

        Return whether the picture is displayed rotated by 90 degrees: width and height are swapped.
        """
        duration = self.inspection.duration
        if not self._streams:
            raise Unplayable("the file has neither video nor audio")
        try:
            if duration <= _SHORT_SECONDS:
                if not duration / 2 <= self._decode(0.0, math.inf) > 0:
                    raise Unplayable("the file is shorter than its header says")
                return self._is_rotated
            self._decode(0.0, 1.0)
            # The end as well: a truncated file has an intact header.
            if self._decode(duration - 1, math.inf):
                return self._is_rotated
            # Subtitles may last a little longer than video and audio.
            earlier = max(0.0, duration - max(3.0, 0.03 * duration))
            if not self._decode(earlier, earlier + 1):
                raise Unplayable("the end of the file cannot be decoded")
        except (av.FFmpegError, ValueError) as error:
            raise Unplayable(_message(error)) from error
        return self._is_rotated

    def _decode(self, start: float, end: float) -> float:
        """Decode from second *start* to *end*; return the last second that was decoded, 0 if none was."""
        if start:
            self._seek(start)
        decoded_until, ended = 0.0, set[int]()
        for packet in self._container.demux(self._streams):
            if packet.is_corrupt and self.inspection.demuxer not in _SAMPLE_DEMUXERS:
                raise Unplayable("a packet is damaged")
            for second in self._decode_packet(packet):
                decoded_until = max(decoded_until, second) if start < second else decoded_until
            packet_second = self._second(packet)
            if packet_second >= end:
                ended.add(packet.stream_index)
                if len(ended) == len(self._streams) or packet_second > end + _MAX_STREAM_GAP_SECONDS:
                    break
        return decoded_until

    def _seek(self, second: float) -> None:
        # A file without an index is read from the beginning instead.
        with suppress(av.FFmpegError):
            self._container.seek(round((self._start_time + second) * av.time_base))

    def _decode_packet(self, packet: Packet[Any]) -> Iterator[float]:
        """Yield the end of each frame in seconds. Packets without a decoder here are only read."""
        if not _has_decoder(packet.stream):
            yield self._second(packet)
            return
        for frame in packet.decode():
            if frame.is_corrupt:
                raise Unplayable("a frame is damaged")
            if isinstance(frame, VideoFrame):
                self._is_rotated = abs(frame.rotation) % 180 == 90
            length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
            yield (frame.time or 0.0) - self._start_time + length

    def _second(self, packet: Packet[Any]) -> float:
        if packet.pts is None or packet.time_base is None:
            return 0.0
        return float(packet.pts * packet.time_base) - self._start_time


class _PlayTimeMeter:
    """Adds up the play time of the packets of one stream."""

    def __init__(self) -> None:
        #: From the first to the end of the last packet.
        self.seconds = 0.0
        self._last: float | None = None
        self._position = 0.0

    def add(self, packet: Packet[Any]) -> None:
        """Add the next packet in the order of the file."""
        if packet.dts is None or packet.time_base is None:
            return
        second = float(packet.dts * packet.time_base)
        if self._last is not None:
            step = second - self._last
            self._position = self._position + step if 0 <= step <= _MAX_STEP_SECONDS else self.seconds
        self._last = second
        self.seconds = max(self.seconds, self._position + float((packet.duration or 0) * packet.time_base))


def warm_decoders() -> None:
    """Initialize common decoders before processes are forked: half of a small file's decoding time."""
    for name in _COMMON_DECODERS:
        context = av.CodecContext.create(name, "r")
        # No threads: this process is going to be forked.
        context.thread_count = 1
        context.open()
    descriptor = os.memfd_create("black")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            _write_black_video(file)
        os.lseek(descriptor, 0, os.SEEK_SET)
        media_file = MediaFile(descriptor)
        media_file.decode_check()
        media_file.close()
    finally:
        os.close(descriptor)


def _write_black_video(file: object) -> None:
    """Write a video of one frame, a tenth of a second long."""
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = stream.codec_context.width = stream.codec_context.height = 16
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        frame = av.VideoFrame(16, 16, "yuv420p")
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _to_track(stream: AudioStream) -> AudioTrack:
    metadata = stream.metadata
    dispositions = [each.name for each in Disposition if each.name and stream.disposition & each]
    return AudioTrack(
        codec=_codec(stream),
        channels=stream.channels or 0 if _has_decoder(stream) else 0,
        language=metadata.get("language", "")[:_MAX_TAG],
        title=(metadata.get("title") or metadata.get("handler_name") or "")[:_MAX_TAG],
        dispositions=",".join(dispositions),
    )


def _has_decoder(stream: Stream) -> bool:
    return stream.codec_context is not None


def _transfer(video: VideoStream | None) -> str:
    if video is None or not _has_decoder(video):
        return ""
    return _TRANSFERS.get(video.codec_context.color_trc, "")


def _codec(stream: Stream | None) -> str:
    if stream is None:
        return ""
    return stream.codec_context.codec.canonical_name if _has_decoder(stream) else "unknown"


def _message(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error)
