"""What an inspection of a media file reports. Without libav, which ``inspect`` loads."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from reelhaul_fetcher.model.timing.clocks import MPEG_TS_PERIOD, Clock
from reelhaul_fetcher.model.tracks.audio_tracks import AudioTrack

#: The largest request to the inspector, or response of it, in bytes.
MAX_MESSAGE = 16 * 1024
#: Demuxers of media. None that refers to other files or addresses: playlists, concatenations, captures.
DEMUXERS = (
    *("aac", "ac3", "aiff", "asf", "avi", "caf", "eac3", "flac", "flv", "matroska", "mov", "mp3", "mpeg"),
    *("mpegts", "ogg", "w64", "wav"),
)


class NotMedia(Exception):
    """libav cannot open the file."""


class Unplayable(Exception):
    """The file can be opened but not decoded."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What libav reports about a file. *duration* is in seconds; 0 means unknown in every number."""

    containers: frozenset[str] = frozenset()
    #: From the header, or measured from the packets if the header has none.
    duration: float = 0.0
    #: Whether players can read the duration without reading all packets.
    has_duration: bool = False
    #: libav's codec names; empty: there is no such stream.
    video_codec: str = ""
    audio_codec: str = ""
    width: int = 0
    height: int = 0
    frame_rate: float = 0.0
    #: The video's transfer function if it is HDR.
    transfer: str = ""
    audio_bitrate: int = 0
    #: Samples per second.
    audio_rate: int = 0
    audio_channels: int = 0
    #: The first timestamp, in seconds; 0 if the file has none.
    start: float = 0.0
    has_timestamps: bool = False
    #: When video and audio begin and end, in seconds after the first timestamp.
    video_start: float = 0.0
    video_end: float = 0.0
    audio_start: float = 0.0
    audio_end: float = 0.0
    audio_tracks: tuple[AudioTrack, ...] = ()

    @property
    def clock(self) -> Clock:
        """The clock of the file."""
        has_period = self.demuxer not in ("mov", "matroska", "flv")
        return Clock(
            self.start if self.has_timestamps else None,
            self.duration,
            MPEG_TS_PERIOD if has_period else 0.0,
        )

    @property
    def demuxer(self) -> str:
        """The demuxer that read the file; empty if there was none."""
        return demuxer_of(self.containers)


def demuxer_of(names: Collection[str]) -> str:
    """Return which of DEMUXERS has one of *names*; empty if none has."""
    return next((name for name in DEMUXERS if name in names), "")
