"""Format choice: downloads the chosen formats, and others if their files exceed a limit.

Many sites state neither the size nor the codec of their formats, and some state streams that do not exist.
Such properties are measured in the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from yt_dlp.networking.exceptions import RequestError
from yt_dlp.utils import DownloadError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Format, FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import verify
from reelhaul_fetcher.media.inspection import Inspection
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.selection import Choice, with_measured
from reelhaul_fetcher.model.timing.play_time import ReceivedStream
from reelhaul_fetcher.ytdlp.download.received_folder import ReceivedFolder
from reelhaul_fetcher.ytdlp.download.streams import ByteMeter, download_streams
from reelhaul_fetcher.ytdlp.extract.extraction import Source
from reelhaul_fetcher.ytdlp.postprocess.joined_media import inspect_received
from reelhaul_runtime.errors import ReelhaulError

#: Chooses formats for a spec; see ``selection.choose_formats``.
Choose = Callable[[Sequence[Format], FormatSpec], Choice]

# Formats of one media that are downloaded at most; those known to be within the limits come first.
_MAX_FORMATS = 4


@dataclass(frozen=True, slots=True)
class MeasuredStream:
    """A stream received, the inspection of its first file, and its format with the measured properties."""

    stream: ReceivedStream
    inspection: Inspection
    format: Format

    @property
    def path(self) -> Path:
        """The file inspected, representative of the others."""
        return self.stream.files[0]


def download_choice(
    source: Source,
    offered: Sequence[Format],
    choice: Choice,
    choose: Choose,
    request: FetchRequest,
    tracker: ProgressTracker,
    meter: ByteMeter,
) -> tuple[list[MeasuredStream], list[MediaWarning]]:
    """Download *choice*, formats of *offered*; return the streams received, and the warnings of the choice.

    If a measured property exceeds a limit of the request, *choose* selects other formats. If no file is
    within the limits, the smallest picture is returned; media without a picture is returned as it is.

    Raises what ``download_streams`` raises, and FORMAT_UNAVAILABLE if a required property is missing.
    """
    spec, received = request.format, dict[str, MeasuredStream]()
    known = {stream.format_id: stream for stream in offered}
    formats, warnings = choice
    # One for all choices: the files of each are taken over by a later attempt, which chooses alike.
    folder = ReceivedFolder(request.received)
    while True:
        try:
            missing = [stream for stream in formats if stream.format_id not in received]
            received |= _receive(source, missing, request, folder, tracker, meter, len(received))
            known |= {format_id: each.format for format_id, each in received.items()}
            stated, formats = formats, [known[stream.format_id] for stream in formats]
            if _kinds(stated) == _kinds(formats) and _is_taken(formats, choose, spec):
                break
            others, other_warnings = _choose_again(list(known.values()), choose, spec, len(received))
        except (DownloadError, RequestError, ReelhaulError) as error:
            if not received:
                raise
            formats = _choose_closest([each.format for each in received.values()], choose, spec, error)
            break
        if _ids(others) == _ids(formats):
            break
        formats, warnings = others, other_warnings
    folder.delete_unclaimed()
    kept = _ids(formats)
    for format_id in received.keys() - set(kept):
        for path in received[format_id].stream.files:
            path.unlink()
    return [received[format_id] for format_id in kept], warnings


def _receive(
    source: Source,
    formats: Sequence[Format],
    request: FetchRequest,
    folder: ReceivedFolder,
    tracker: ProgressTracker,
    meter: ByteMeter,
    first_number: int,
) -> Mapping[str, MeasuredStream]:
    """Download and measure *formats*; return the streams by format id."""
    if not formats:
        return {}
    streams = download_streams(source, _ids(formats), request, folder, tracker, meter, first_number)
    result = {}
    for format_, stream in zip(formats, streams, strict=True):
        inspection = inspect_received(stream.files[0])
        measured = with_measured(format_, verify.to_delivered_media(inspection, ""))
        result[format_.format_id] = MeasuredStream(stream, inspection, measured)
    return result


def _kinds(formats: Sequence[Format]) -> list[tuple[bool, bool]]:
    """Return whether there is video and audio in each of *formats*."""
    return [(bool(stream.video_codec), bool(stream.audio_codec)) for stream in formats]


def _is_taken(formats: list[Format], choose: Choose, spec: FormatSpec) -> bool:
    """Return whether *choose* selects exactly *formats* when only they are offered."""
    try:
        return _ids(choose(formats, spec)[0]) == _ids(formats)
    except ReelhaulError:
        return False


def _choose_again(known: list[Format], choose: Choose, spec: FormatSpec, count: int) -> Choice:
    """Return the choice from *known* formats. Raises FORMAT_UNAVAILABLE also if *count* were received."""
    if count >= _MAX_FORMATS:
        text = f"none of the first {count} files of this media is as requested"
        raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, text)
    return choose(known, spec)


def _choose_closest(
    received: list[Format], choose: Choose, spec: FormatSpec, error: Exception
) -> list[Format]:
    """Return the formats of *received* closest to *spec*; raise *error* if a requirement is not met."""
    for height, rate in ((spec.max_height, 0), (0, spec.max_frame_rate), (0, 0)):
        relaxed = FormatSpec()
        relaxed.CopyFrom(spec)
        relaxed.max_height, relaxed.max_frame_rate = height, rate
        # Of pictures that are too large, the smallest.
        relaxed.smallest = spec.smallest or height != spec.max_height
        with suppress(ReelhaulError):
            return choose(received, relaxed)[0]
    audio = [stream for stream in received if stream.audio_codec and not stream.video_codec]
    is_required = spec.media_kind == FormatSpec.AUDIO or spec.selector or spec.min_height
    if not audio or is_required or spec.dynamic_range == FormatSpec.REQUIRE_HDR:
        raise error
    return audio[:1]


def _ids(formats: Sequence[Format]) -> list[str]:
    return [stream.format_id for stream in formats]
