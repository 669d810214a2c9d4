"""Input and output of post-processing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from reelhaul.type.v1.media_pb2 import DeliveredMedia, Format, FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media.inspection import Inspection
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product
from reelhaul_fetcher.model.timing.chapters import Chapter
from reelhaul_fetcher.model.timing.cuts import Cut
from reelhaul_fetcher.ytdlp.extras.captions import CaptionTrack
from reelhaul_fetcher.ytdlp.live.recorder import Recording


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """What to produce from the streams received."""

    request: FetchRequest
    media: MediaInfo
    formats: list[Format]
    #: How the choice of the formats differs from the request.
    warnings: list[MediaWarning] = field(default_factory=list)
    cut: Cut = field(default_factory=Cut)
    #: Before the cut.
    subtitles: tuple[CaptionTrack, ...] = ()
    thumbnail: Path | None = None
    #: Sponsored segments to mark.
    sponsor_chapters: tuple[Chapter, ...] = ()
    #: Inspections of files that were inspected while they were received.
    inspections: Mapping[Path, Inspection] = field(default_factory=dict)
    #: Set for a live stream.
    recording: Recording | None = None

    @property
    def recorded_seconds(self) -> float:
        """The play time of the recording by its playlists, in seconds; 0 without a recording."""
        return self.recording.seconds if self.recording else 0.0

    @property
    def stated_seconds(self) -> float:
        """The duration that the site states, in seconds; 0 if it states none."""
        return self.media.duration.ToTimedelta().total_seconds()

    @property
    def spec(self) -> FormatSpec:
        """The format requested."""
        return self.request.format

    @property
    def embedded_subtitles(self) -> tuple[CaptionTrack, ...]:
        """The subtitles to embed, before the cut."""
        return self.subtitles if self.spec.subtitles.embed else ()

    def with_subtitles_on_clock(self, start: float, duration: float) -> OutputPlan:
        """Return this plan with its subtitles shifted to media whose first timestamp is *start* seconds."""
        return replace(self, subtitles=tuple(track.on_clock(start, duration) for track in self.subtitles))


@dataclass(frozen=True, slots=True)
class Output:
    """The media file and its chapter files, the delivered properties, and warnings."""

    products: list[Product]
    delivered: DeliveredMedia
    warnings: list[MediaWarning]
    #: On the clock of the media, before the cut.
    subtitles: tuple[CaptionTrack, ...] = ()
